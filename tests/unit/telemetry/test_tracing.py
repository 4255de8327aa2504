"""Which calls are traced, and what those that they call are told."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from contextvars import copy_context
from enum import Enum
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from sidecar.cache.items import NotCachedError
from sidecar.models.types import InputRejectedError, ModelError
from sidecar.spans import UNTRACED, current, enter, leave
from sidecar.telemetry import tracing
from sidecar.telemetry.tracing import CallSpan, Tracing

if TYPE_CHECKING:
    from collections.abc import Callable

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = (f"00-{TRACE}-{PARENT}-0{flag}" for flag in (1, 0))
MALFORMED = [
    "",
    "rubbish",
    SAMPLED.upper(),
    SAMPLED[:-1],
    f"{SAMPLED}-more",
    f"ff{SAMPLED[2:]}",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f" {SAMPLED}",
]


class Tier(Enum):
    HOT = "hot"


class Use:
    kind = "embed"
    namespace = "default"
    model = "tiny"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def trace_calls(exporter: InMemorySpanExporter) -> Callable[[float], Tracing]:
    """What traces a share of calls."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return lambda sample: Tracing(provider.get_tracer("test"), sample)


def begin(traces: Tracing, traceparent: str, tracestate: str = "") -> Any:
    return traces.begin("a call", {}, traceparent, tracestate)


@pytest.mark.parametrize("sample", [0, 1])
def test_a_call_of_a_caller_who_is_traced_is_traced(
    sample: float, trace_calls: Callable[[float], Tracing], exporter: InMemorySpanExporter
) -> None:
    begin(trace_calls(sample), SAMPLED).finish()
    (span,) = exporter.get_finished_spans()
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.parent.is_remote


@pytest.mark.parametrize("sample", [0, 1])
def test_a_call_of_a_caller_who_is_not_traced_is_not(
    sample: float, trace_calls: Callable[[float], Tracing]
) -> None:
    assert not begin(trace_calls(sample), UNSAMPLED).is_recorded


@pytest.mark.parametrize("traceparent", MALFORMED)
def test_a_malformed_header_is_as_good_as_none(
    traceparent: str, trace_calls: Callable[[float], Tracing]
) -> None:
    assert not begin(trace_calls(0), traceparent).is_recorded
    assert begin(trace_calls(1), traceparent).trace_id not in ("", TRACE)


def test_a_later_version_of_the_header_may_say_more(
    trace_calls: Callable[[float], Tracing],
) -> None:
    assert begin(trace_calls(0), f"01{SAMPLED[2:]}-more").trace_id == TRACE


def test_of_calls_without_a_header_about_the_share_is_traced(
    trace_calls: Callable[[float], Tracing], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = iter([0.0, 0.24, 0.25, 0.99])
    monkeypatch.setattr(tracing, "random", lambda: next(draws))
    traces = trace_calls(0.25)
    assert [begin(traces, "").is_recorded for _ in range(4)] == [True, True, False, False]


@pytest.mark.parametrize("traceparent", [SAMPLED, UNSAMPLED])
@pytest.mark.parametrize(
    ("tracestate", "told"),
    [
        ("a=1 ,\tb@c=2,,", "a=1,b@c=2"),
        (",".join(f"k{number}=1" for number in range(32)), ...),
        (",".join(f"k{number}=1" for number in range(33)), None),
        ("a=" + "v" * 256 + ",b=" + "v" * 251, ...),
        ("a=" + "v" * 256 + ",b=" + "v" * 252, None),
        ("no member", None),
        ("a=b=c", None),
        ("a=\N{SNOWMAN}", None),
    ],
)
def test_a_state_that_others_might_refuse_goes_no_further(
    traceparent: str, tracestate: str, told: Any, trace_calls: Callable[[float], Tracing]
) -> None:
    headers = dict(begin(trace_calls(0), traceparent, tracestate).headers())
    assert headers.get("tracestate") == (tracestate if told is ... else told)


@pytest.mark.parametrize("flags", ["00", "fe"])
def test_what_later_versions_add_to_a_header_goes_no_further(
    flags: str, trace_calls: Callable[[float], Tracing]
) -> None:
    call = begin(trace_calls(0), f"01-{TRACE}-{PARENT}-{flags}-{'more' * 1000}")
    assert dict(call.headers()) == {"traceparent": UNSAMPLED}


@given(st.text(), st.text())
def test_no_header_whatsoever_makes_a_call_fail(traceparent: str, tracestate: str) -> None:
    traces = Tracing(TracerProvider(shutdown_on_exit=False).get_tracer("test"), 0)
    for parent in (traceparent, SAMPLED, UNSAMPLED):
        span = begin(traces, parent, tracestate)
        for _, value in span.headers():
            assert value.isascii()
            assert value.isprintable()


def test_who_is_called_is_told_of_the_span_that_calls(
    trace_calls: Callable[[float], Tracing], exporter: InMemorySpanExporter
) -> None:
    call = begin(trace_calls(0), SAMPLED, "vendor=1")
    with call.call("grpc", "a.Service/Method", "10.0.0.1:50551") as there:
        headers = dict(there.headers())
    (span,) = exporter.get_finished_spans()
    assert span.context is not None
    assert headers == {
        "traceparent": f"00-{TRACE}-{span.context.span_id:016x}-01",
        "tracestate": "vendor=1",
    }


def test_who_is_called_for_a_call_that_is_not_traced_is_told_what_its_caller_said(
    trace_calls: Callable[[float], Tracing],
) -> None:
    call = begin(trace_calls(1), UNSAMPLED, "vendor=1")
    with call.call("grpc", "a.Service/Method", "10.0.0.1:50551") as there:
        assert dict(there.headers()) == {"traceparent": UNSAMPLED, "tracestate": "vendor=1"}


def test_who_is_called_for_a_call_that_was_not_chosen_is_told_not_to_choose_it(
    trace_calls: Callable[[float], Tracing],
) -> None:
    call = begin(trace_calls(0), "")
    (one,), (two,) = call.headers(), call.headers()
    assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-00", one[1])
    assert one != two


def test_without_tracing_nobody_is_told_anything() -> None:
    assert current() is UNTRACED
    with current().tier(Tier.HOT, Use(), 1) as span:
        assert span.headers() == ()
        assert span.trace_id == ""


def test_a_call_beyond_its_last_span_is_told_not_to_go_on(
    trace_calls: Callable[[float], Tracing], exporter: InMemorySpanExporter
) -> None:
    call = begin(trace_calls(0), SAMPLED)
    for _ in range(tracing.MOST_SPANS + 9):
        with call.tier(Tier.HOT, Use(), 1):
            pass
    with call.call("grpc", "a.Service/Method", "10.0.0.1:50551") as there:
        assert dict(there.headers())["traceparent"].startswith(f"00-{TRACE}-")
        assert dict(there.headers())["traceparent"].endswith("-00")
    call.finish()
    spans = exporter.get_finished_spans()
    assert len(spans) == tracing.MOST_SPANS
    assert (spans[-1].attributes or {})["embercache.spans.dropped"] == 11


def test_responses_found_whole_count_as_spans_of_their_call(
    trace_calls: Callable[[float], Tracing], exporter: InMemorySpanExporter
) -> None:
    call = begin(trace_calls(0), SAMPLED)
    for _ in range(tracing.MOST_SPANS + 9):
        call.stored(1)
    call.finish()
    spans = exporter.get_finished_spans()
    assert len(spans) == tracing.MOST_SPANS
    assert (spans[-1].attributes or {})["embercache.spans.dropped"] == 10


def test_a_tier_beyond_the_last_span_that_fails_is_no_error_of_the_call(
    trace_calls: Callable[[float], Tracing], exporter: InMemorySpanExporter
) -> None:
    call = begin(trace_calls(0), SAMPLED)
    call.lost("redis_down")
    call.finish()
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.UNSET


def test_a_span_is_the_current_one_inside_and_its_parent_again_after(
    trace_calls: Callable[[float], Tracing], exporter: InMemorySpanExporter
) -> None:
    call = begin(trace_calls(0), SAMPLED)
    token = enter(call)
    with current().step("outer") as outer:
        assert current() is outer
        with current().step("inner"):
            pass
        assert current() is outer
    assert current() is call
    leave(token)
    assert current() is UNTRACED
    inner, finished = exporter.get_finished_spans()
    assert inner.parent is not None
    assert inner.parent == finished.context


def test_of_an_error_only_its_kind_is_noted(
    trace_calls: Callable[[float], Tracing], exporter: InMemorySpanExporter
) -> None:
    call = begin(trace_calls(0), SAMPLED)
    with pytest.raises(KeyError), call.step("work"):
        raise KeyError("the text of a user")
    (span,) = exporter.get_finished_spans()
    assert dict(span.attributes or {}) == {"error.type": "KeyError"}
    assert not span.status.is_ok
    assert (span.status.description, span.events) == (None, ())


def test_what_was_lost_in_a_tier_is_an_error_of_its_span(
    trace_calls: Callable[[float], Tracing], exporter: InMemorySpanExporter
) -> None:
    with begin(trace_calls(0), SAMPLED).tier(Tier.HOT, Use(), 1) as span:
        span.lost("redis_down")
    (finished,) = exporter.get_finished_spans()
    assert (finished.attributes or {})["error.type"] == "redis_down"
    assert finished.status.status_code is StatusCode.ERROR


async def test_a_span_may_end_with_the_last_of_the_works_that_it_began(
    trace_calls: Callable[[float], Tracing], exporter: InMemorySpanExporter
) -> None:
    call = begin(trace_calls(0), SAMPLED)
    loop = asyncio.get_running_loop()
    works: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(4)]
    with call.tier(Tier.HOT, Use(), 4) as span:
        span.end_with(works)
    works[0].set_result("a result")
    works[1].set_exception(ValueError("the text of a user"))
    works[2].set_result(ValueError("an error as a result"))
    await asyncio.sleep(0)
    assert not exporter.get_finished_spans()
    works[3].cancel()
    await asyncio.sleep(0)
    (finished,) = exporter.get_finished_spans()
    attributes = finished.attributes or {}
    assert (attributes["embercache.items.asked"], attributes["embercache.items.found"]) == (4, 1)
    assert attributes["error.type"] == "CancelledError"


@pytest.mark.parametrize(
    ("error", "is_failure"),
    [
        (ModelError("the text of a user"), True),
        (InputRejectedError("the text of a user"), False),
        (NotCachedError("not there"), False),
        (asyncio.CancelledError(), False),
        (GeneratorExit(), False),
    ],
)
def test_what_callers_bring_about_is_no_failure_of_a_span(
    error: BaseException,
    is_failure: bool,
    trace_calls: Callable[[float], Tracing],
    exporter: InMemorySpanExporter,
) -> None:
    with pytest.raises(type(error)), begin(trace_calls(0), SAMPLED).step("work"):
        raise error
    (span,) = exporter.get_finished_spans()
    assert (span.attributes or {})["error.type"] == type(error).__name__
    assert (span.status.status_code is StatusCode.ERROR) is is_failure


@pytest.mark.parametrize(
    ("system", "target", "server"),
    [
        ("grpc", "10.0.0.1:50551", ("10.0.0.1", 50551)),
        ("grpc", "dns:///encoder.ns.svc:50551", ("encoder.ns.svc", 50551)),
        ("grpc", "[::1]:50551", ("::1", 50551)),
        ("grpc", "unix:/run/encoder.sock", ("/run/encoder.sock", None)),
        ("grpc", "unix:///run/encoder.sock", ("/run/encoder.sock", None)),
        ("grpc", "ipv4:10.0.0.1:1,10.0.0.2:2", ("ipv4:10.0.0.1:1,10.0.0.2:2", None)),
        ("http", "https://api.example/v1", ("api.example", 443)),
        ("http", "http://[::1]:8000/v1", ("::1", 8000)),
    ],
)
def test_the_server_that_is_called_is_named_apart_from_its_port(
    system: Any,
    target: str,
    server: tuple[str, int | None],
    trace_calls: Callable[[float], Tracing],
    exporter: InMemorySpanExporter,
) -> None:
    with begin(trace_calls(0), SAMPLED).call(system, "POST /embeddings", target):
        pass
    (span,) = exporter.get_finished_spans()
    attributes = span.attributes or {}
    assert (attributes["server.address"], attributes.get("server.port")) == server


def rpc_error(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


@pytest.mark.parametrize(
    ("error", "kind", "is_failure"),
    [
        (None, None, False),
        (rpc_error(grpc.StatusCode.UNAVAILABLE), "UNAVAILABLE", True),
        (rpc_error(grpc.StatusCode.CANCELLED), "CANCELLED", False),
    ],
)
def test_a_call_by_grpc_has_the_status_that_it_ended_with(
    error: Exception | None,
    kind: str | None,
    is_failure: bool,
    trace_calls: Callable[[float], Tracing],
    exporter: InMemorySpanExporter,
) -> None:
    call = begin(trace_calls(0), SAMPLED).call("grpc", "a.Service/Method", "host:1")
    with contextlib.suppress(grpc.aio.AioRpcError), call as span:
        if error is not None:
            raise error
        span.answered("OK")
    (finished,) = exporter.get_finished_spans()
    attributes = finished.attributes or {}
    assert attributes["rpc.response.status_code"] == (kind or "OK")
    assert attributes.get("error.type") == kind
    assert (finished.status.status_code is StatusCode.ERROR) is is_failure


@pytest.mark.parametrize(("status", "kind"), [(200, "ValueError"), (429, "429")])
def test_a_call_by_http_that_failed_has_its_status_for_the_kind_of_its_error(
    status: int,
    kind: str,
    trace_calls: Callable[[float], Tracing],
    exporter: InMemorySpanExporter,
) -> None:
    call = begin(trace_calls(0), SAMPLED).call("http", "POST /embeddings", "http://host/v1")
    with contextlib.suppress(ValueError), call as span:
        span.answered(status)
        raise ValueError("a text")
    (finished,) = exporter.get_finished_spans()
    attributes = finished.attributes or {}
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (status, kind)


def test_a_span_that_is_left_in_another_context_ends_all_the_same(
    trace_calls: Callable[[float], Tracing], exporter: InMemorySpanExporter
) -> None:
    span = begin(trace_calls(0), SAMPLED).step("work")
    copy_context().run(span.__enter__)
    with pytest.raises(ValueError, match="different Context"):
        span.__exit__(None, None, None)
    assert len(exporter.get_finished_spans()) == 1


def test_a_span_may_be_begun_when_its_work_is_done(
    trace_calls: Callable[[float], Tracing], exporter: InMemorySpanExporter
) -> None:
    now_ns, began = time.time_ns(), time.perf_counter() - 10
    with begin(trace_calls(0), SAMPLED).tier(Tier.HOT, Use(), 1, since=began):
        pass
    (span,) = exporter.get_finished_spans()
    assert span.start_time is not None
    assert span.start_time < now_ns
    assert span.parent is not None


def test_a_span_that_ends_with_no_works_ends_with_its_context(
    trace_calls: Callable[[float], Tracing], exporter: InMemorySpanExporter
) -> None:
    with begin(trace_calls(0), SAMPLED).step("work") as span:
        span.end_with([])
    assert len(exporter.get_finished_spans()) == 1


@pytest.mark.parametrize(
    ("status", "is_ours"), [("OK", False), ("NOT_FOUND", False), ("INTERNAL", True)]
)
def test_a_call_is_an_error_if_we_are_to_blame(
    status: str,
    is_ours: bool,
    trace_calls: Callable[[float], Tracing],
    exporter: InMemorySpanExporter,
) -> None:
    call = begin(trace_calls(1), "")
    assert isinstance(call, CallSpan)
    call.blame(status)
    call.finish()
    (span,) = exporter.get_finished_spans()
    assert ("error.type" in (span.attributes or {})) is is_ours
