"""Traces of calls, with OpenTelemetry: which calls are traced, and what is recorded of them."""

from __future__ import annotations

import asyncio
import re
import time
from random import getrandbits, random
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Self

import grpc
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from sidecar.cache.items import NotCachedError
from sidecar.models.types import InputRejectedError
from sidecar.spans import Span, enter, leave
from sidecar.telemetry.servers import grpc_server, http_server

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextvars import Token
    from enum import Enum
    from types import TracebackType
    from typing import Any, Literal

    from opentelemetry import trace

    from sidecar.spans import Use

    Attributes = Mapping[str, str | int]

MOST_SPANS = 256
"""Spans of one call; a stream or a warming could have any number. The call tells of the rest."""

_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[ -~]*)?"
)
# A member of a tracestate, as the same recommendation has it.
_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_*/@-]{0,255}="
    r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_MOST_MEMBERS, _MOST_CHARACTERS = 32, 512
_NOWHERE = Context()
_LEAST_HTTP_ERROR = 400
# What callers bring about.
_NO_FAULTS = (asyncio.CancelledError, GeneratorExit, NotCachedError, InputRejectedError)
# Of the others, the caller is to blame.
_OUR_FAULTS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


class Tracing:
    """Decides which calls are traced.

    A call whose caller is traced is traced. One whose caller says that he is not, is not. Of all
    others the share ``sample`` is, drawn at random: the id of a trace has no part in it. The SDK is
    asked only about those that are, because saying no takes it longer than a hot hit may.
    """

    def __init__(self, tracer: trace.Tracer, sample: float) -> None:
        self._tracer = tracer
        self._sample = sample

    def begin(
        self, name: str, attributes: Attributes, traceparent: str, tracestate: str
    ) -> CallSpan | UnsampledSpan:
        """The span of a call that arrived with these headers, empty if it had none."""
        match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
        context = _NOWHERE
        if match is None or (match[1] == "00" and match[5]):
            if random() >= self._sample:  # noqa: S311 - no secret
                return _UNSAMPLED
        elif not int(match[4], 16) & TraceFlags.SAMPLED:
            return UnsampledSpan(f"00-{match[2]}-{match[3]}-00", _sound(tracestate))
        else:
            context = set_span_in_context(_remote(match, _sound(tracestate)), _NOWHERE)
        otel = self._tracer.start_span(name, context, SpanKind.SERVER, attributes)
        return CallSpan(otel, _Tree(self._tracer))


class UnsampledSpan(Span):
    """A call that is not traced. Whom it calls is told so, who else might begin a trace."""

    __slots__ = ("_traceparent", "_tracestate")

    def __init__(self, traceparent: str, tracestate: str) -> None:
        self._traceparent = traceparent
        self._tracestate = tracestate

    def headers(self) -> Sequence[tuple[str, str]]:
        """See `Span.headers`."""
        parent = self._traceparent or _traceparent(getrandbits(128) | 1, getrandbits(64) | 1, 0)
        return _headers(parent, self._tracestate)


_UNSAMPLED = UnsampledSpan("", "")


class _Tree:
    """The spans of one call."""

    __slots__ = ("dropped", "room", "tracer")

    def __init__(self, tracer: trace.Tracer) -> None:
        self.tracer = tracer
        self.room = MOST_SPANS - 1
        self.dropped = 0

    def takes(self) -> bool:
        """Whether it has room for one more span, which is counted either way."""
        if self.room:
            self.room -= 1
            return True
        self.dropped += 1
        return False


class RecordedSpan(Span):
    """A span of a call that is traced: see `Span`, also for what each method is."""

    __slots__ = ("_ends_later", "_otel", "_token", "_tree")

    is_recorded: ClassVar[bool] = True

    def __init__(self, otel: trace.Span, tree: _Tree) -> None:
        self._otel = otel
        self._tree = tree
        self._ends_later = False
        self._token: Token[Span] | None = None

    @property
    def trace_id(self) -> str:
        """See `Span`."""
        return f"{self.context.trace_id:032x}"

    def tier(self, tier: Enum, use: Use, asked: int, *, since: float | None = None) -> Span:
        """See `Span`."""
        attributes = {
            "embercache.tier": tier.value,
            "embercache.kind": use.kind,
            "embercache.namespace": use.namespace,
            "embercache.model": use.model,
            "embercache.items.asked": asked,
        }
        began_ns = None if since is None else time.time_ns() - int((perf_counter() - since) * 1e9)
        return self._child(f"{tier.value} {use.kind}", attributes, began_ns=began_ns)

    def step(self, name: str) -> Span:
        """See `Span`."""
        return self._child(name, {})

    def call(self, system: Literal["grpc", "http"], method: str, target: str) -> Span:
        """See `Span`."""
        attributes: dict[str, str | int]
        if system == "grpc":
            attributes = {"rpc.system.name": "grpc", "rpc.method": method, **grpc_server(target)}
        else:
            verb, _, path = method.partition(" ")
            attributes = {
                "http.request.method": verb,
                "url.template": path,
                **http_server(target),
            }
        return self._child(method, attributes, SpanKind.CLIENT)

    def headers(self) -> Sequence[tuple[str, str]]:
        """See `Span`."""
        here = self.context
        parent = _traceparent(here.trace_id, here.span_id, TraceFlags.SAMPLED)
        return _headers(parent, here.trace_state.to_header())

    def link(self, others: Iterable[Span]) -> None:
        """See `Span`."""
        contexts = [each.context for each in others if isinstance(each, RecordedSpan)]
        for context in {context.span_id: context for context in contexts}.values():
            self._otel.add_link(context)

    def found(self, items: int) -> None:
        """See `Span`."""
        self._otel.set_attribute("embercache.items.found", items)

    def lost(self, reason: str) -> None:
        """See `Span`."""
        self._otel.set_attribute("error.type", reason)
        self._otel.set_status(StatusCode.ERROR)

    def end_with(self, works: Sequence[asyncio.Future[Any]]) -> None:
        """See `Span`."""
        left, good = len(works), 0
        self._ends_later = left > 0

        def done(work: asyncio.Future[Any]) -> None:
            nonlocal left, good
            left -= 1
            fault = _fault(work)
            if fault is None:
                good += 1
            else:
                self._fail(fault)
            if not left:
                self.found(good)
                self._otel.end()

        for work in works:
            work.add_done_callback(done)

    @property
    def context(self) -> SpanContext:
        """What other spans link to."""
        return self._otel.get_span_context()

    def __enter__(self) -> Self:
        self._token = enter(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is not None:
                self._fail(error)
            if error is not None or not self._ends_later:
                self._otel.end()
        finally:
            # Last, because it raises in a stream that is closed by another task than its own.
            if self._token is not None:
                leave(self._token)

    def _child(
        self,
        name: str,
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        began_ns: int | None = None,
    ) -> Span:
        tree = self._tree
        if not tree.takes():
            here = self.context
            parent = _traceparent(here.trace_id, here.span_id, 0)
            return UnsampledSpan(parent, here.trace_state.to_header())
        context = set_span_in_context(self._otel, _NOWHERE)
        otel = tree.tracer.start_span(name, context, kind, attributes, start_time=began_ns)
        return ClientSpan(otel, tree) if kind is SpanKind.CLIENT else RecordedSpan(otel, tree)

    def _fail(self, error: BaseException) -> None:
        """Notes what kind of error it was. Its message may say too much."""
        kind = self._kind(error)
        self._otel.set_attribute("error.type", kind)
        if not isinstance(error, _NO_FAULTS) and kind != "CANCELLED":
            self._otel.set_status(StatusCode.ERROR)

    def _kind(self, error: BaseException) -> str:
        return type(error).__name__


class ClientSpan(RecordedSpan):
    """The span of a call of another server."""

    __slots__ = ("_http_status",)

    def __init__(self, otel: trace.Span, tree: _Tree) -> None:
        super().__init__(otel, tree)
        self._http_status = 0

    def answered(self, status: str | int) -> None:
        """See `Span`."""
        if isinstance(status, int):
            self._http_status = status
            self._otel.set_attribute("http.response.status_code", status)
        else:
            self._otel.set_attribute("rpc.response.status_code", status)

    def _kind(self, error: BaseException) -> str:
        if isinstance(error, grpc.aio.AioRpcError):
            name: str = error.code().name
            self.answered(name)
            return name
        if self._http_status >= _LEAST_HTTP_ERROR:
            return str(self._http_status)
        return super()._kind(error)


class CallSpan(RecordedSpan):
    """The span of a call as a whole. It is ended by `finish` alone."""

    __slots__ = ()

    def stored(self, began_ns: int) -> None:
        """Notes that the whole response was found in memory, since a time of `time.time_ns`."""
        if not self._tree.takes():
            return
        context = set_span_in_context(self._otel, _NOWHERE)
        self._tree.tracer.start_span(
            "hot response", context, attributes={"embercache.tier": "hot"}, start_time=began_ns
        ).end()

    def lost(self, reason: str) -> None:
        """A tier that fails does not make the call fail."""

    def note(self, name: str, value: str | int) -> None:
        """Takes note of something."""
        self._otel.set_attribute(name, value)

    def blame(self, status: str) -> None:
        """Notes that the call ended with a status of gRPC: as an error if that is our fault."""
        if status in _OUR_FAULTS:
            self._otel.set_attribute("error.type", status)
            self._otel.set_status(StatusCode.ERROR)

    def finish(self) -> None:
        """Ends the span."""
        if self._tree.dropped:
            self._otel.set_attribute("embercache.spans.dropped", self._tree.dropped)
        self._otel.end()


def _sound(tracestate: str) -> str:
    """The list of a caller, or nothing if others would stumble over it, or over its length."""
    if not tracestate or len(tracestate) > _MOST_CHARACTERS:
        return ""
    members = [member for each in tracestate.split(",") if (member := each.strip(" \t"))]
    if len(members) > _MOST_MEMBERS or not all(map(_MEMBER.fullmatch, members)):
        return ""
    return ",".join(members)


def _remote(match: re.Match[str], tracestate: str) -> NonRecordingSpan:
    return NonRecordingSpan(
        SpanContext(
            trace_id=int(match[2], 16),
            span_id=int(match[3], 16),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
            trace_state=TraceState.from_header([tracestate]) if tracestate else None,
        )
    )


def _traceparent(trace_id: int, span_id: int, flags: int) -> str:
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def _headers(traceparent: str, tracestate: str) -> Sequence[tuple[str, str]]:
    if tracestate:
        return (("traceparent", traceparent), ("tracestate", tracestate))
    return (("traceparent", traceparent),)


def _fault(work: asyncio.Future[Any]) -> BaseException | None:
    """What a work failed with, if it did."""
    if work.cancelled():
        return asyncio.CancelledError()
    error = work.exception()
    if error is None and isinstance(result := work.result(), BaseException):
        return result
    return error
