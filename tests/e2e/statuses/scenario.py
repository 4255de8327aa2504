"""A call that ends with a documented status, and how that is seen."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import grpc
from embercache.v1 import cache_pb2, embed_pb2, generate_pb2, search_pb2
from google.protobuf.message_factory import GetMessageClass

from tests.e2e.statuses.contract import Documented, same_as
from tests.e2e.statuses.requests import SECRET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

    import pytest
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

HANG_GUARD = 30.0
PUSHBACK = "grpc-retry-pushback-ms"

METHODS = {
    method.name: method
    for file in (embed_pb2, search_pb2, generate_pb2, cache_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
# Which method has items with errors there; and where its response has the items.
ITEMS = {
    "Embedding.error": "Embed",
    "EmbedStreamResponse.error": "EmbedStream",
    "Upserted.error": "Upsert",
    "RerankScore.error": "Rerank",
}
_RESULTS = ("embeddings", "documents", "scores")
_STATUSES = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass(frozen=True)
class Scenario:
    """A request that ends with a status, as documented, and a message with the words ``says``.

    ``shows`` is the caller's metadata. With ``told_when``, the caller is told when to retry.
    ``before`` gets the world ready for this call.
    """

    documented: Documented
    request: Message
    says: str
    shows: tuple[tuple[str, str], ...] = ()
    timeout: float = HANG_GUARD
    told_when: bool = False
    before: Callable[[Any], None] | None = None


class End(NamedTuple):
    """How a call, or one item of it, has ended. ``again`` is when to retry, as it was told."""

    status: str
    message: str
    again: str = ""


Table: TypeAlias = "Mapping[tuple[str, str, str], Sequence[tuple[Message, str]]]"
"""Requests, and what is said of them, by owner, status and condition."""


def scenarios(table: Table, **options: Any) -> list[Scenario]:
    """The scenarios of a table; ``options`` are of all of them."""
    return [
        Scenario(Documented(*key), request, says, **options)
        for key, calls in table.items()
        for request, says in calls
    ]


def with_those_alike(scenario: Scenario) -> Iterator[Scenario]:
    """The scenario, and the same for the owners whose statuses are those of its owner."""
    yield scenario
    for owner, other in same_as().items():
        if other == scenario.documented.owner:
            yield replace(scenario, documented=scenario.documented._replace(owner=owner))


async def check(
    channel: grpc.aio.Channel,
    scenarios: Iterable[Scenario],
    subtests: pytest.Subtests,
    world: Any = None,
) -> None:
    """Each call ends as documented, says what to do, and quotes nothing that the caller sent."""
    for named in scenarios:
        for scenario in with_those_alike(named):
            with subtests.test(" ".join(scenario.documented), says=scenario.says):
                if scenario.before is not None:
                    scenario.before(world)
                end = await end_of(channel, scenario)
                assert end.status == scenario.documented.status, end
                assert scenario.says in end.message, end
                assert SECRET not in end.message, end
                if scenario.told_when and scenario.documented.owner in METHODS:
                    assert int(end.again or 0) >= 1, end


async def end_of(channel: grpc.aio.Channel, scenario: Scenario) -> End:
    """How the call of a scenario ends, or the item of it that fails."""
    owner = scenario.documented.owner
    method = METHODS[ITEMS.get(owner, owner)]
    request = scenario.request
    if owner == "EmbedStreamResponse.error":
        request = embed_pb2.EmbedStreamRequest(id=7, request=request)
    return await end_of_call(
        channel,
        method,
        request.SerializeToString(),
        of_an_item=owner in ITEMS,
        timeout=scenario.timeout,
        metadata=scenario.shows,
    )


async def end_of_call(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    request: bytes | None,
    *,
    of_an_item: bool = False,
    **options: Any,
) -> End:
    """How a call of any method ends; or the first item that fails, if the call itself ends well.

    Without a ``request`` it is an empty one, which is not sent where requests are a stream.
    """
    answered = asyncio.Event()

    async def requests() -> AsyncIterator[bytes]:
        if request is not None:
            yield request
        # gRPC's client does not always hear of an end that comes while it sends.
        await answered.wait()

    given = requests() if method.client_streaming else request or b""
    call = open_call(channel, method, given, **options)
    raw = []
    try:
        if method.server_streaming:
            async for response in call:
                raw.append(response)
                answered.set()
        else:
            raw.append(await call)
    except grpc.aio.AioRpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        return End(error.code().name, error.details() or "", str(trailers.get(PUSHBACK, "")))
    finally:
        answered.set()
    response_type = GetMessageClass(method.output_type)
    errors = [error for each in raw for error in _errors(response_type.FromString(each))]
    if of_an_item and errors:
        return End(_STATUSES[errors[0].code], errors[0].message)
    return End("OK", "")


def open_call(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    given: bytes | AsyncIterator[bytes],
    *,
    timeout: float = HANG_GUARD,
    metadata: Sequence[tuple[str, str]] = (),
) -> Any:
    """A call of any method, with a request as bytes, or a stream of them."""
    kind = "_".join(
        "stream" if streams else "unary"
        for streams in (method.client_streaming, method.server_streaming)
    )
    path = f"/{method.containing_service.full_name}/{method.name}"
    return getattr(channel, kind)(path)(given, timeout=timeout, metadata=metadata)


def _errors(response: Any) -> Iterator[Any]:
    """The errors of items in a response."""
    if isinstance(response, embed_pb2.EmbedStreamResponse):
        assert response.id in (0, 7)
        results = [response]
    else:
        results = next((getattr(response, f) for f in _RESULTS if hasattr(response, f)), [])
    return (result.error for result in results if result.HasField("error"))
