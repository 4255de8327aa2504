"""Who somebody is, by what he shows: a token, the names in his certificate, or the Unix socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from sidecar.access.caller import Caller
from sidecar.access.policy import PolicyError
from sidecar.access.tokens import read_token_digests, token_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidecar.access.policy import CallerPolicy, Policy

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CallerTable:
    """The callers of a policy. ``on_socket`` is who shows neither token nor certificate there.

    ``failures`` say which files of tokens could not be used: their callers have the tokens that
    they had before.
    """

    tokens: Mapping[bytes, Caller] = field(default_factory=dict, repr=False)
    certificates: Mapping[str, Caller] = field(default_factory=dict)
    on_socket: Caller | None = None
    failures: tuple[str, ...] = ()

    def with_token(self, token: str) -> Caller | None:
        """Whose token that is."""
        return self.tokens.get(token_digest(token))

    def digests_of(self, name: str) -> list[bytes]:
        """The digests of the tokens of a caller."""
        return [digest for digest, who in self.tokens.items() if who.name == name]

    def with_certificate(self, names: Iterable[str]) -> Caller | None:
        """Whose name is among those of a certificate: of the first that is known."""
        for name in names:
            found = self.certificates.get(name)
            if found is not None:
                return found
        return None


def read_table(policy: Policy, before: CallerTable | None = None) -> CallerTable:
    """The table of a policy, with the tokens that are in its files now. Raises `PolicyError`.

    With the table ``before``, a file of tokens that cannot be used is no error: it must not keep
    the tokens of others from being withdrawn.
    """
    failures: list[str] = []
    tokens: dict[bytes, Caller] = {}
    certificates: dict[str, Caller] = {}
    on_socket: Caller | None = None
    for entry in policy.callers:
        who = Caller(entry.name, entry.namespaces, frozenset(entry.rights))
        try:
            digests = _token_digests(entry)
        except PolicyError as error:
            if before is None:
                raise
            failures.append(str(error))
            digests = before.digests_of(entry.name)
        for digest in digests:
            other = tokens.setdefault(digest, who)
            if other is not who:
                raise PolicyError(
                    f"the callers {other.name} and {entry.name} have a token in common: give each"
                    " tokens of its own"
                )
        certificates.update(dict.fromkeys(entry.certificates, who))
        if entry.socket:
            on_socket = who
    return CallerTable(tokens, certificates, on_socket, tuple(failures))


def _token_digests(entry: CallerPolicy) -> list[bytes]:
    if entry.token_file is None:
        return []
    try:
        digests = read_token_digests(entry.token_file)
    except PolicyError as error:
        raise PolicyError(f"token_file of the caller {entry.name}: {error}") from None
    if not digests:
        # So a caller is locked out; but it may be a mistake.
        _log.warning("a file of tokens is empty", caller=entry.name, file=str(entry.token_file))
    return digests
