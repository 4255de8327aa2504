"""Finds out who makes a call, and whether he may; both listeners ask here before anything is read.

A token wins over a certificate: who shows one that is not known is refused, whatever else he shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import grpc
import structlog

from sidecar.access.caller import Right, enter
from sidecar.services.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.access.caller import Caller
    from sidecar.access.live import Access
    from sidecar.access.table import CallerTable

_log = structlog.get_logger()


class Shown(Protocol):
    """What a caller shows of himself."""

    def authorization(self) -> Sequence[str]:
        """The values of the metadata or headers ``authorization``."""
        ...

    def certificate_names(self) -> Sequence[str]:
        """The URI and DNS names of his certificate, which was checked; else its common name."""
        ...

    def is_on_socket(self) -> bool:
        """Whether he is connected over the Unix socket."""
        ...


def admit(access: Access, shown: Shown, right: Right, method: str) -> None:
    """Enters the caller of this context's call, if callers are told apart.

    Raises `CallError`, UNAUTHENTICATED if he is not known and PERMISSION_DENIED if he has not the
    right that ``method`` needs.
    """
    if not access.tells_callers_apart:
        return
    who = identify(access.table, shown)
    if right not in who.rights:
        raise CallError(
            grpc.StatusCode.PERMISSION_DENIED,
            f"{method} needs the right {right.value}, which the caller {who.name} has not: have it"
            " added to his rights in the policy of this sidecar",
        )
    if right is Right.ADMINISTER:
        _log.info("an administrator calls", caller=who.name, method=method)
    enter(who)


def identify(table: CallerTable, shown: Shown) -> Caller:
    """Who shows that. Raises `CallError`."""
    values = shown.authorization()
    if values:
        return _with_token(table, values)
    names = shown.certificate_names() if table.certificates else ()
    who = table.with_certificate(names)
    if who is None and shown.is_on_socket():
        who = table.on_socket
    if who is not None:
        return who
    if names:
        raise _unauthenticated(
            "the policy of this sidecar has no caller with a name of this client certificate: have"
            " its URI, its DNS name or, if it has neither, its common name added to certificates"
        )
    raise _unauthenticated(
        "this sidecar does not know who calls: send 'authorization: Bearer TOKEN' with a token of"
        " its policy, or show a client certificate that the policy names"
    )


def _with_token(table: CallerTable, values: Sequence[str]) -> Caller:
    scheme, _, token = values[0].partition(" ")
    token = token.strip(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token:
        raise _unauthenticated("send authorization once, as 'Bearer TOKEN'")
    who = table.with_token(token)
    if who is None:
        raise _unauthenticated(
            "this token is none of those in the policy of this sidecar: was it withdrawn, or cut"
            " short?"
        )
    return who


def _unauthenticated(message: str) -> CallError:
    return CallError(grpc.StatusCode.UNAUTHENTICATED, message)
