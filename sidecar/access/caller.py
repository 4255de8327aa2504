"""Who makes a call, and what he may: known from his token, certificate or socket, never his words.

The listeners find it out and `enter` it in the call's own context; services ask for `caller`.
"""

from __future__ import annotations

import enum
from contextvars import ContextVar
from dataclasses import dataclass, field

from sidecar.cache.keys import digest

EVERY_NAMESPACE = "*"


class Right(enum.Enum):
    """What a caller may do in his namespaces; ``administer`` concerns the sidecar as a whole."""

    READ = "read"
    WRITE = "write"
    ADMINISTER = "administer"


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody whom the policy names.

    ``namespaces`` are those he may use, the first one where a call of his names none;
    `EVERY_NAMESPACE` among them stands for all. ``scope`` tells apart callers to whom the bytes of
    one request may mean something else: those of like namespaces share stored responses.
    """

    name: str
    namespaces: tuple[str, ...]
    rights: frozenset[Right]
    scope: bytes = field(init=False)

    def __post_init__(self) -> None:
        scope = digest(b"scope", *(name.encode() for name in self.namespaces))
        object.__setattr__(self, "scope", scope)

    def may_use(self, namespace: str) -> bool:
        """Whether a namespace is one of his."""
        return namespace in self.namespaces or EVERY_NAMESPACE in self.namespaces

    def default_namespace(self, otherwise: str) -> str:
        """Where his calls go that name no namespace."""
        first = self.namespaces[0]
        return otherwise if first == EVERY_NAMESPACE else first


_current: ContextVar[Caller | None] = ContextVar("caller", default=None)
_is_our_own: ContextVar[bool] = ContextVar("is_our_own", default=False)
_scope: ContextVar[bytes] = ContextVar("scope", default=b"")

# The scope of the caller; empty where callers are not told apart. Each stored hit asks for it.
scope = _scope.get


def caller() -> Caller | None:
    """Who makes the call whose context this is.

    None where callers are not told apart, and for what the sidecar does of its own accord: that may
    do everything. `is_our_own` tells the two apart.
    """
    return _current.get()


def enter(who: Caller) -> None:
    """Notes who makes this context's call."""
    _current.set(who)
    _scope.set(who.scope)
    _is_our_own.set(False)


def enter_nobody() -> None:
    """Notes that what this context does from now on is of the sidecar's own accord."""
    _current.set(None)
    _scope.set(b"")
    _is_our_own.set(True)


def is_our_own() -> bool:
    """Whether no caller asked for what this context does, but the sidecar itself."""
    return _is_our_own.get()
