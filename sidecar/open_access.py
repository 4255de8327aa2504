"""Opens the policy of who may call, keeps it up to date, and puts it before the services."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from sidecar.access.live import Access
from sidecar.access.policy import PolicyError
from sidecar.models.errors import SetupError
from sidecar.open_tiers import keep_running
from sidecar.open_watch import Watch
from sidecar.transport.guarded_handlers import GuardedHandlers
from sidecar.transport.openai.guarded import GuardedCalls

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    from sidecar.access.policy import Policy
    from sidecar.config import Settings
    from sidecar.telemetry.reload_metrics import ReloadCollector
    from sidecar.transport.admission import Shown
    from sidecar.transport.handlers import Context

_log = structlog.get_logger()


def open_access(
    settings: Settings, reloads: ReloadCollector, exits: contextlib.AsyncExitStack
) -> Access:
    """The policy in force, which follows its files until the context is left.

    Raises `SetupError` if it cannot be used.
    """
    access = read_access(settings)
    if access.is_followed:
        reloads.show(access.failures)
        access.subscribe(lambda policy: _warn(policy, settings))
        keep_running(access.follow(), exits)
    return access


def read_access(settings: Settings) -> Access:
    """The policy as its files say now. Raises `SetupError`."""
    try:
        return Access(settings.access.policy_file)
    except PolicyError as error:
        raise SetupError(str(error)) from None


def guarded(watch: Watch, access: Access, shown: Callable[[Context], Shown]) -> Watch:
    """What makes handlers that obey the policy; where there is none, they have nothing to do.

    ``shown`` tells what the caller of a call of gRPC shows.
    """
    if not access.is_followed:
        return watch
    return Watch(GuardedHandlers(watch.grpc, access, shown), GuardedCalls(watch.openai, access))


def _warn(policy: Policy, settings: Settings) -> None:
    """Tells of ways to be known that these settings leave to nobody."""
    for each in policy.callers:
        if each.certificates and settings.tls.client_ca_file is None:
            _log.warning(
                "no certificate is asked for: set tls.client_ca_file for this caller to be known",
                caller=each.name,
            )
        if each.socket and not settings.server.socket:
            _log.warning(
                "there is no Unix socket: set server.socket for this caller to be known",
                caller=each.name,
            )
