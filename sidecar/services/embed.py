"""EmbedService: the path of a request, from top to bottom.

1. The bytes of a call that was answered before, whole, from memory: a stored response. Nothing
   is parsed.
2. Otherwise the request is read, and every item goes through the cache on its own.
3. A response made of hot items alone is stored, so that the next such call takes the first way.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from embercache.v1 import embed_pb2

from sidecar.cache.items import Answer, CacheMode, Tier
from sidecar.models.types import VersionChangedError
from sidecar.services.embed_request import Item
from sidecar.services.embed_wire import ResponseWriter
from sidecar.services.errors import (
    CallError,
    as_call_error,
    invalid,
    raise_if_all_may_be_retried,
)
from sidecar.services.requests import decode
from sidecar.services.stored import StoredResponse
from sidecar.services.vectors import KIND
from sidecar.services.wire import length_delimited, varint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sidecar.access.quotas import Quotas
    from sidecar.cache.generations import Generations, NamespaceState
    from sidecar.models.router import ModelRouter
    from sidecar.services.embed_request import ParsedRequest, RequestReader
    from sidecar.services.stored import StoredResponses
    from sidecar.services.vectors import Vectors
    from sidecar.services.wire import AgedBytes

STREAM_WINDOW = 8


class EmbedService:
    """Answers EmbedService of embed.proto: bytes in, bytes out.

    Raises what `sidecar.services.errors.as_call_error` turns into a status.
    """

    def __init__(
        self,
        *,
        models: ModelRouter,
        reader: RequestReader,
        vectors: Vectors,
        responses: StoredResponses,
        generations: Generations,
        quotas: Quotas,
    ) -> None:
        self._models = models
        self._reader = reader
        self._vectors = vectors
        self._responses = responses
        self._generations = generations
        self._quotas = quotas

    async def embed(self, raw: bytes) -> bytes:
        """Embed: one batch, for which nothing is `stored`."""
        return await self._answer(self._reader.decode(raw), raw)

    async def embed_stream(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """EmbedStream: many batches, answered as they are ready.

        A request is read only when fewer than `STREAM_WINDOW` are unanswered, and one counts as
        answered when the transport has taken its response.
        """
        window = asyncio.Semaphore(STREAM_WINDOW)
        ready: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        tasks: set[asyncio.Task[bytes]] = set()

        async def read() -> None:
            try:
                while True:
                    await window.acquire()
                    raw = await anext(requests, None)
                    if raw is None:
                        break
                    task = asyncio.create_task(self._answer_in_stream(raw))
                    tasks.add(task)
                    task.add_done_callback(ready.put_nowait)
                await asyncio.gather(*tasks)
            finally:
                ready.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (task := await ready.get()) is not None:
                tasks.discard(task)
                yield task.result()
                window.release()
            await reader
        finally:
            for running in (reader, *tasks):
                running.cancel()
            await asyncio.gather(reader, *tasks, return_exceptions=True)

    async def list_models(self, raw: bytes) -> bytes:
        """ListModels."""
        decode(embed_pb2.ListModelsRequest, raw)
        response = embed_pb2.ListModelsResponse()
        for embedder in self._models:
            info = embedder.info
            response.models.add(
                name=info.name,
                version=info.version,
                dimensions=info.dimensions,
                max_tokens=info.max_tokens,
                accepts_text=info.accepts_text,
                accepts_tensor=info.accepts_tensor,
                runs_on=info.runs_on,
                prompts=dict(info.prompts),
            )
        return response.SerializeToString()

    async def _answer(self, request: embed_pb2.EmbedRequest, raw: bytes | None) -> bytes:
        """Answers a request; keeps the response for ``raw`` if a repetition may use it."""
        # First the namespace, then the model: a name that moves meanwhile changes the stamp.
        state = await self._generations.state(self._reader.namespace(request.namespace))
        # What is invalidated from now on must not be in a response that is kept.
        stamp = state.stamp
        parsed = self._reader.read(request)
        self._quotas.charge(state.name, len(parsed.items))
        results = await self._fetch(parsed, state)
        if any(_is_version_change(result) for result in results):
            # The encoders moved to another version. Who asked for the old one is told so here.
            parsed = self._reader.read(request)
            results = await self._fetch(parsed, state)
        if parsed.fail_truncated:
            results = [_fail_if_truncated(result) for result in results]
        if parsed.is_single_query and parsed.cache.mode.stores and raw is not None:
            self._responses.note(KIND, state.name, raw, 1)
        outcomes = _as_outcomes(results)
        raise_if_all_may_be_retried(outcomes)
        response = _write(parsed, outcomes)
        now_ms = time.time_ns() // 1_000_000
        if raw is not None and parsed.cache.mode is not CacheMode.NO_STORE:
            self._keep_response(raw, parsed, state, stamp, outcomes, response, now_ms)
        return response.at(now_ms)

    async def _answer_in_stream(self, raw: bytes) -> bytes:
        number = 0
        try:
            message = decode(embed_pb2.EmbedStreamRequest, raw)
            number = message.id
            self._reader.check_size(raw)
            result = length_delimited(2, await self._answer(message.request, None))
        except Exception as error:
            failure = as_call_error(error)
            text = length_delimited(2, failure.message.encode())
            result = length_delimited(3, b"\x08" + varint(failure.number) + text)
        return b"\x08" + varint(number) + result

    async def _fetch(
        self, parsed: ParsedRequest, state: NamespaceState
    ) -> list[Answer | Exception]:
        """The result of each item, in order."""
        items = [item for item in parsed.items if isinstance(item, Item)]
        answers = iter(
            await self._vectors.fetch(state, parsed.embedder, parsed.info, items, parsed.cache)
        )
        return [item if isinstance(item, CallError) else next(answers) for item in parsed.items]

    def _keep_response(
        self,
        raw: bytes,
        parsed: ParsedRequest,
        state: NamespaceState,
        stamp: int,
        results: Sequence[Answer | CallError],
        response: AgedBytes,
        now_ms: int,
    ) -> None:
        """Keeps a response if all of it came from memory, for as long as all of it may live."""
        left, tokens = math.inf, 0
        for result in results:
            if isinstance(result, CallError) or result.tier is not Tier.HOT:
                return
            tokens += result.entry.value.tokens
            left = min(left, result.entry.seconds_left(now_ms))
        stored = StoredResponse(
            state=state,
            model=parsed.embedder,
            info=parsed.info,
            response=response,
            items=len(results),
            tokens=tokens,
            account=self._vectors.account(state.name, parsed.info.name),
            meter=self._quotas.meter(state.name),
            popular=parsed.is_single_query,
        )
        self._responses.keep(raw, stored, ttl=left, stamp=stamp)


def _as_outcomes(results: Sequence[Answer | Exception]) -> list[Answer | CallError]:
    """Errors as statuses. One that many items share is converted, and perhaps logged, once."""
    distinct = {id(result): result for result in results if isinstance(result, Exception)}
    failures = {number: as_call_error(error) for number, error in distinct.items()}
    return [failures[id(result)] if isinstance(result, Exception) else result for result in results]


def _write(parsed: ParsedRequest, results: Sequence[Answer | CallError]) -> AgedBytes:
    info = parsed.info
    writer = ResponseWriter(info.name, info.version, info.dimensions, parsed.encoding)
    for result in results:
        if isinstance(result, CallError):
            writer.add_error(result.number, result.message)
        else:
            writer.add_vector(result.entry, result.tier)
    return writer.finish()


def _is_version_change(result: Answer | Exception) -> bool:
    return isinstance(result, VersionChangedError)


def _fail_if_truncated(result: Answer | Exception) -> Answer | Exception:
    if isinstance(result, Answer) and result.entry.value.truncated:
        return invalid(
            "the text is longer than the model reads: split it, or use TRUNCATION_END to embed"
            " its beginning"
        )
    return result
