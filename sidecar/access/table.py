"""Who somebody is, by what he shows: a token, the names in his certificate, or the Unix socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.access.caller import Caller
from sidecar.access.policy import PolicyError
from sidecar.access.tokens import token_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sidecar.access.policy import Policy


@dataclass(frozen=True, slots=True)
class CallerTable:
    """The callers of a policy. ``on_socket`` is who shows neither token nor certificate there."""

    tokens: Mapping[bytes, Caller] = field(default_factory=dict, repr=False)
    certificates: Mapping[str, Caller] = field(default_factory=dict)
    on_socket: Caller | None = None

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


def make_table(
    policy: Policy, digests: Mapping[str, Sequence[bytes]], before: CallerTable
) -> CallerTable:
    """The table of a policy, with digests of tokens by callers' names. Raises `PolicyError`.

    A caller of whom there are none has those of the table ``before``: that his file of tokens
    cannot be used must not keep the tokens of others from being withdrawn.
    """
    tokens: dict[bytes, Caller] = {}
    certificates: dict[str, Caller] = {}
    on_socket: Caller | None = None
    for entry in policy.callers:
        who = Caller(entry.name, entry.namespaces, frozenset(entry.rights))
        if entry.token_file is not None:
            found = digests.get(entry.name)
            for digest in before.digests_of(entry.name) if found is None else found:
                other = tokens.setdefault(digest, who)
                if other is not who:
                    raise PolicyError(
                        f"the callers {other.name} and {entry.name} have a token in common: give"
                        " each tokens of its own"
                    )
        certificates.update(dict.fromkeys(entry.certificates, who))
        if entry.socket:
            on_socket = who
    return CallerTable(tokens, certificates, on_socket)
