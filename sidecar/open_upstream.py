"""Opens what the calls to other sidecars and to the verifier are encrypted and sent with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sidecar.loopback import is_loopback
from sidecar.models.errors import SetupError
from sidecar.models.openai_target import is_openai
from sidecar.models.upstream_channel import UpstreamAccess
from sidecar.models.upstream_tls import UpstreamTls
from sidecar.models.upstream_token import UpstreamToken
from sidecar.open_tiers import keep_running

if TYPE_CHECKING:
    import contextlib

    from sidecar.config import Settings

# gRPC's ways to write where names and numbers are to be looked up.
_SCHEME = re.compile(r"(dns:(//[^/]*/)?|ipv4:|ipv6:)")


def open_upstream(settings: Settings, exits: contextlib.AsyncExitStack) -> UpstreamAccess:
    """Certificates and the token, which follow their files until the context is left.

    Raises `SetupError` if they cannot be used, or if the token could be read on its way.
    """
    tls, target = settings.upstream_tls, settings.encoder.target
    opened_tls = token = None
    if tls.enabled:
        if "," in target and not tls.server_name:
            raise SetupError(
                "encoder.target has several addresses, none of which is a name: set"
                " upstream_tls.server_name to the name that is in their certificates"
            )
        opened_tls = UpstreamTls(tls.ca_file, tls.cert_file, tls.key_file, tls.server_name)
        keep_running(opened_tls.follow(), exits)
    if settings.encoder.token_file is not None and not is_openai(target):
        if not (tls.enabled or settings.encoder.insecure_token or _stays_here(target)):
            raise SetupError(
                f"encoder.token_file: the token would go to {target} without encryption; set"
                " upstream_tls.enabled, or encoder.insecure_token"
            )
        token = UpstreamToken(settings.encoder.token_file)
        keep_running(token.follow(), exits)
    return UpstreamAccess(opened_tls, token)


def _stays_here(target: str) -> bool:
    """Whether what is sent to a target does not leave this machine."""
    if target == "local" or target.startswith("unix:"):
        return True
    addresses = (_SCHEME.sub("", address.strip()) for address in target.split(","))
    return all(is_loopback(address.rpartition(":")[0]) for address in addresses)
