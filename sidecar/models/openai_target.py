"""Where an OpenAI-compatible service is, and what its models are called there and here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from sidecar.loopback import is_loopback
from sidecar.models.errors import SetupError
from sidecar.units import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Iterable

_SCHEMES = {"openai": "https", "openai+http": "http"}
_DEFAULT_PORTS = {"https": 443, "http": 80}
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_PATH = re.compile(r"/[A-Za-z0-9._~%/-]*")


@dataclass(frozen=True, slots=True)
class OpenAITarget:
    """A service: the root of its API, such as ``https://api.openai.com/v1``, and its host."""

    base_url: str
    host: str


def is_openai(target: str) -> bool:
    """Whether a target names an OpenAI-compatible service."""
    return target.partition(":")[0].lower() in _SCHEMES


def parse_target(target: str, setting: str, *, has_key: bool, insecure: bool) -> OpenAITarget:
    """Reads ``openai://HOST[:PORT]/PATH``, which is https, or ``openai+http://``, which is not.

    ``setting`` is what holds the target. ``insecure`` allows that a key goes to other machines
    without encryption. Raises `SetupError`, which does not show the target: it may hold a secret.
    """
    try:
        parts = urlsplit(target)
        port = parts.port
    except ValueError:
        raise SetupError(f"{setting}: that is no address; write openai://HOST[:PORT]/v1") from None
    _check_parts(parts, setting)
    scheme, host = _SCHEMES[parts.scheme], parts.hostname or ""
    if scheme == "http" and has_key and not insecure and not is_loopback(host):
        raise SetupError(
            f"{setting}: the key would go to {host} without encryption; write openai:// in place of"
            " openai+http://, or set openai.insecure_key"
        )
    name = f"[{host}]" if ":" in host else host
    address = name if port in (None, _DEFAULT_PORTS[scheme]) else f"{name}:{port}"
    return OpenAITarget(f"{scheme}://{address}{parts.path.rstrip('/')}", address)


def _check_parts(parts: SplitResult, setting: str) -> None:
    if parts.username is not None or parts.password is not None:
        raise SetupError(
            f"{setting}: an address with a user or a password in it would be shown in logs; leave"
            " that out, and set openai.key_file"
        )
    if parts.query or parts.fragment:
        raise SetupError(f"{setting}: leave out what follows ? or # in the address")
    if not _HOST.fullmatch(parts.hostname or ""):
        raise SetupError(
            f"{setting}: there is no host, or not one alone, in the address; write"
            " openai://HOST[:PORT]/v1"
        )
    if not _PATH.fullmatch(parts.path):
        raise SetupError(
            f"{setting}: the address needs the path of the API, which is /v1 with most services, or"
            f" / for none: openai://{parts.hostname}/v1"
        )


def parse_names(words: Iterable[str], setting: str) -> dict[str, str]:
    """The service's names of models by ours, from words ``OURS=THEIRS`` or one name for both.

    Raises `SetupError`.
    """
    names: dict[str, str] = {}
    for word in words:
        ours, separator, theirs = word.partition("=")
        ours, theirs = ours.strip(), theirs.strip() if separator else ours.strip()
        if ours in (".", "..") or not re.fullmatch(NAME_PATTERN, ours) or not theirs:
            raise SetupError(
                f"{setting}: {word!r} cannot be the name of a model here, which has 1 to 64"
                " letters, digits, '.', '_' or '-': write OURS=THEIRS, like"
                " llama=meta-llama/Llama-3.1-8B"
            )
        if ours in names:
            raise SetupError(
                f"{setting}: two models have the name {ours}: write OURS=THEIRS with another OURS"
            )
        names[ours] = theirs
    return names
