"""Spans: what is done for a call, as far as somebody follows that call.

The seam between those who do the work and those who trace it. The cache, services and models say
here what they begin and end; what becomes of that is for `sidecar.telemetry.tracing`. Without
tracing, and in calls that are not traced, the current span is one that does nothing: that costs a
look at a context variable and a call or two.

Nothing that a user has sent may go into a span but names: of methods, models and namespaces.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence
    from contextvars import Token
    from enum import Enum
    from types import TracebackType
    from typing import Any


class Use(Protocol):
    """What tiers are asked for: see `sidecar.cache.accounts.Account`."""

    kind: str
    namespace: str
    model: str


class Span:
    """A piece of work; this one is of a call that is not traced, and so are its children.

    As a context, it is the `current` span inside, and ends when the context is left.
    """

    __slots__ = ()

    is_recorded: ClassVar[bool] = False

    @property
    def trace_id(self) -> str:
        """What tells the trace from others, in hexadecimal; empty if it is not recorded."""
        return ""

    def tier(self, tier: Enum, use: Use, asked: int, *, since: float | None = None) -> Span:
        """A child: a tier that is asked for so many items, since a time of `time.perf_counter`."""
        return self

    def step(self, name: str) -> Span:
        """A child: another part of the work."""
        return self

    def call(self, system: Literal["grpc", "http"], method: str, target: str) -> Span:
        """A child: a call of a method of another server, who is to be told our `headers`.

        ``target`` is the server as gRPC names it, or the root of its URLs.
        """
        return self

    def answered(self, status: str | int) -> None:
        """Takes note of the status that a call of another server ended with."""

    def headers(self) -> Sequence[tuple[str, str]]:
        """What tells another server of this span, as https://www.w3.org/TR/trace-context/ says."""
        return ()

    def link(self, others: Iterable[Span]) -> None:
        """Takes note of spans, perhaps of other traces, whose work this one waits for."""

    def found(self, items: int) -> None:
        """Takes note of how many of the items asked for there were."""

    def lost(self, reason: str) -> None:
        """Takes note that items asked for were not found because that failed; a few words."""

    def end_with(self, works: Sequence[asyncio.Future[Any]]) -> None:
        """Has it end with the last of these, not with its context; those that succeed are found.

        A work that has an exception for its result has failed, too.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends it; with an error, as failed, unless the error is of the caller's making."""


UNTRACED = Span()
_current: ContextVar[Span] = ContextVar("span", default=UNTRACED)

current: Callable[[], Span] = _current.get
"""The span of the work in which this is asked."""

enter: Callable[[Span], Token[Span]] = _current.set
"""Makes a span the current one, for the rest of the task or until `leave`."""

leave: Callable[[Token[Span]], None] = _current.reset
"""Makes the span current again that was so before `enter`."""
