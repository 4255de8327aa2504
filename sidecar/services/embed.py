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
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from embercache.v1 import embed_pb2

from sidecar.cache.codec import Codec, Value, encode_vector
from sidecar.cache.items import Answer, CacheMode, Policy, Tier, Want
from sidecar.cache.keys import KeySpace
from sidecar.models.types import VersionChangedError
from sidecar.services.embed_request import Item, decode
from sidecar.services.embed_wire import ResponseWriter, length_delimited, varint
from sidecar.services.errors import RETRYABLE, CallError, as_call_error, invalid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from sidecar.cache.generations import Generations, NamespaceState
    from sidecar.cache.hot import HotTier
    from sidecar.cache.read_through import ReadThrough
    from sidecar.config import CacheSettings
    from sidecar.models.types import Embedded, Embedder, ModelInfo, ModelInput
    from sidecar.services.embed_request import ParsedRequest, RequestReader
    from sidecar.services.embed_wire import AgedBytes

STREAM_WINDOW = 8


@dataclass(frozen=True, slots=True)
class _StoredResponse:
    """A response of hot items, good while its namespace's stamp and its model are the same."""

    state: NamespaceState
    embedder: Embedder
    info: ModelInfo
    response: AgedBytes
    items: int


class _ModelLoader:
    """One version of a model as what the cache computes its misses with."""

    def __init__(self, embedder: Embedder, version: str, codec: Codec) -> None:
        self._embedder = embedder
        self._version = version
        self._codec = codec

    def submit(self, sources: Sequence[ModelInput]) -> list[asyncio.Future[Embedded]]:
        # The encoders may have moved on while the tiers were asked: the keys are of this version.
        if self._embedder.info.version != self._version:
            raise VersionChangedError(f"the model is no longer in version {self._version}: retry")
        return self._embedder.submit(sources)

    def value(self, result: Embedded) -> Value:
        payload = encode_vector(result.vector, self._codec)
        return Value(payload, self._codec, len(result.vector), result.tokens, result.truncated)


class EmbedService:
    """Answers EmbedService of embed.proto: bytes in, bytes out.

    Raises what `sidecar.services.errors.as_call_error` turns into a status.
    """

    def __init__(
        self,
        *,
        models: Mapping[str, Embedder],
        reader: RequestReader,
        cache: ReadThrough,
        hot: HotTier[Any],
        generations: Generations,
        settings: CacheSettings,
    ) -> None:
        # Calls answered by `stored`, and the items in them.
        self.response_hits = 0
        self.response_items = 0
        self._models = models
        self._reader = reader
        self._cache = cache
        self._hot = hot
        self._generations = generations
        self._settings = settings
        self._codec = Codec[settings.codec.upper()]
        self._salt = settings.salt.get_secret_value().encode()
        self._key_spaces: dict[tuple[str, str, str], KeySpace] = {}

    def stored(self, raw: bytes) -> bytes | None:
        """The answer to Embed if these very bytes were answered from memory before."""
        held = self._hot.get(_name(raw))
        if held is None:
            return None
        stored: _StoredResponse = held.value
        if held.stamp != stored.state.stamp or stored.embedder.info is not stored.info:
            return None
        self.response_hits += 1
        self.response_items += stored.items
        return stored.response.at(time.time_ns() // 1_000_000)

    async def embed(self, raw: bytes) -> bytes:
        """Embed: one batch, for which nothing is `stored`."""
        return await self._answer(self._reader.decode(raw), _name(raw))

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
        for embedder in self._models.values():
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

    def key(
        self, namespace: str, info: ModelInfo, epoch: int, item: Item, tags: Sequence[bytes]
    ) -> bytes:
        """The key of an item's entry. Calls that give other tags have entries of their own."""
        name = (namespace, info.name, info.version)
        space = self._key_spaces.get(name)
        if space is None:
            if len(self._key_spaces) >= 10_000:
                self._key_spaces.clear()
            space = self._key_spaces[name] = KeySpace(
                prefix=self._settings.prefix,
                kind="embed",
                namespace=namespace,
                model=info.name,
                version=info.version,
                salt=self._salt,
            )
        return space.key(epoch, self._codec.name.encode(), *item.key_parts, *sorted(tags))

    async def _answer(self, request: embed_pb2.EmbedRequest, name: bytes | None) -> bytes:
        """Answers a request; keeps the response under ``name`` if a repetition may use it."""
        parsed = self._reader.read(request)
        state = await self._generations.state(parsed.namespace)
        # What is invalidated from now on must not be in a response that is kept.
        stamp = state.stamp
        results = await self._fetch(parsed, state)
        if any(_is_version_change(result) for result in results):
            # The encoders moved to another version. Who asked for the old one is told so here.
            parsed = self._reader.read(request)
            results = await self._fetch(parsed, state)
        if parsed.fail_truncated:
            results = [_fail_if_truncated(result) for result in results]
        outcomes = _as_outcomes(results)
        _raise_if_all_may_be_retried(outcomes)
        response = _write(parsed, outcomes)
        now_ms = time.time_ns() // 1_000_000
        if name is not None and parsed.mode is not CacheMode.NO_STORE:
            self._keep_response(name, parsed, state, stamp, outcomes, response, now_ms)
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
        wants = [
            Want(
                key=self.key(state.name, parsed.info, state.epoch, item, parsed.tags),
                content=item.content,
                source=item.source,
                ttl=self._ttl(parsed, item),
            )
            for item in parsed.items
            if isinstance(item, Item)
        ]
        policy = Policy(parsed.mode, parsed.tags)
        loader = _ModelLoader(parsed.embedder, parsed.info.version, self._codec)
        answers = iter(await self._cache.fetch(state, wants, policy, loader))
        return [item if isinstance(item, CallError) else next(answers) for item in parsed.items]

    def _ttl(self, parsed: ParsedRequest, item: Item) -> float | None:
        if parsed.ttl is not None:
            return parsed.ttl
        return self._settings.document_ttl if item.is_document else self._settings.query_ttl

    def _keep_response(
        self,
        name: bytes,
        parsed: ParsedRequest,
        state: NamespaceState,
        stamp: int,
        results: Sequence[Answer | CallError],
        response: AgedBytes,
        now_ms: int,
    ) -> None:
        """Keeps a response if all of it came from memory, for as long as all of it may live."""
        expires = math.inf
        for result in results:
            if isinstance(result, CallError) or result.tier is not Tier.HOT:
                return
            if result.entry.expires_ms:
                expires = min(expires, result.entry.expires_ms)
        self._hot.put(
            name,
            _StoredResponse(state, parsed.embedder, parsed.info, response, len(results)),
            response.size + 100 * len(results),
            ttl=(expires - now_ms) / 1000,
            stamp=stamp,
        )


def _as_outcomes(results: Sequence[Answer | Exception]) -> list[Answer | CallError]:
    """Errors as statuses. One that many items share is converted, and perhaps logged, once."""
    distinct = {id(result): result for result in results if isinstance(result, Exception)}
    failures = {number: as_call_error(error) for number, error in distinct.items()}
    return [failures[id(result)] if isinstance(result, Exception) else result for result in results]


def _name(raw: bytes) -> bytes:
    """The key of the stored response to a request."""
    return blake2b(raw, digest_size=16, person=b"embed").digest()


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


def _raise_if_all_may_be_retried(results: Sequence[Answer | CallError]) -> None:
    """Ends the call itself where that is all there is to say, so that clients' retries apply."""
    failures = [result for result in results if isinstance(result, CallError)]
    if len(failures) < len(results):
        return
    if failures[0].code in RETRYABLE and len({failure.code for failure in failures}) == 1:
        raise failures[0]
