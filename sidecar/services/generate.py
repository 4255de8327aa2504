"""GenerateService: the path of a request, from top to bottom.

1. The bytes of a call that was answered before, whole, from memory: see `StoredResponses`.
2. Otherwise the request is read, and its answer goes through the cache as one entry, which keeps
   the pieces in which it came, so that a stream is replayed as it was.
3. What is missing is generated, once for all calls that want it at the same time, and each of them
   that streams is told the pieces as they come. If the call allows it, the answer to another
   prompt that means the same is given instead.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from embercache.v1 import generate_pb2

from sidecar.cache.codec import Codec, Value, decode_vector
from sidecar.cache.items import Answer, CacheMode, NotCachedError, Policy, Product, Tier, Want
from sidecar.cache.keys import KeySpace, digest
from sidecar.models.generation import Completion, Generation, GenerationRequest
from sidecar.models.types import ModelError
from sidecar.services.generate_stream import GenerateStream
from sidecar.services.generate_wire import finish_reason, tier_count, write_last, write_whole
from sidecar.services.generation_value import pack_completion, read_completion, read_prompt
from sidecar.services.requests import CacheChoices, decode
from sidecar.services.semantic import SemanticValue
from sidecar.services.stored import StoredResponse
from sidecar.services.vectors import KeySpaces
from sidecar.services.wire import TIER_NUMBER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sidecar.access.quotas import Quotas
    from sidecar.cache.accounts import Account, Accounts
    from sidecar.cache.codec import Entry
    from sidecar.cache.generations import Generations, NamespaceState
    from sidecar.cache.read_through import ReadThrough
    from sidecar.config import CacheSettings
    from sidecar.models.generation import Generator
    from sidecar.services.embed_request import RequestReader
    from sidecar.services.generate_request import GenerateReader, ParsedGeneration
    from sidecar.services.generate_stream import Watch
    from sidecar.services.generation_value import StoredCompletion
    from sidecar.services.semantic import SemanticAnswers
    from sidecar.services.stored import StoredResponses
    from sidecar.services.vectors import Vectors

KIND = "generate"
PREFIX_KIND = "prefix"
_FORMAT = b"answer 1"


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Whose blocks of prompts a generation may use: those of one namespace and model version."""

    space: KeySpace
    epoch: int

    def key(self, parent: bytes, tokens: bytes) -> bytes:
        return self.space.key(self.epoch, parent, tokens)


@dataclass(frozen=True, slots=True)
class _Semantic:
    """Keeps calls that take answers to other prompts apart from those that do not.

    ``name`` is the least similarity. See `sidecar.cache.items.Check`.
    """

    name: float

    def suffices(self, _entry: Entry) -> bool:
        return True

    def renewed(self, _state: NamespaceState, _entry: Entry) -> None:
        return None


@dataclass(slots=True)
class _Plan:
    """An answer on its way, and what became known of it. ``began`` is of `perf_counter`."""

    parsed: ParsedGeneration
    state: NamespaceState
    began: float
    generation: Generation | None = None
    vector: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a call, and its summary."""

    completion: StoredCompletion
    summary: generate_pb2.GenerateSummary
    created_ms: int
    tier: Tier

    def last_message(self) -> bytes:
        """What ends a stream."""
        return write_last(self.summary, self.created_ms).at(time.time_ns() // 1_000_000)


class _Loader:
    """One call as what the cache computes its miss with."""

    def __init__(self, service: GenerateService, plan: _Plan) -> None:
        self._service = service
        self._plan = plan

    def submit(self, _sources: Sequence[None]) -> list[Generation]:
        return [self._service.begin(self._plan)]

    def product(self, result: Completion | Product) -> Product:
        if isinstance(result, Product):
            return result
        # Without its text, guard and verifier could not tell what was asked.
        prompt = self._plan.parsed.query if self._plan.vector is not None else ""
        payload = pack_completion(result, prompt)
        tokens = result.prompt_tokens + result.completion_tokens
        return Product(Value(payload, Codec.BYTES, len(payload), tokens, truncated=False))


class GenerateService:
    """Answers GenerateService of generate.proto: bytes in, bytes out.

    Raises what `sidecar.services.errors.as_call_error` turns into a status.
    """

    def __init__(
        self,
        *,
        requests: RequestReader,
        reader: GenerateReader,
        generators: Mapping[str, Generator],
        cache: ReadThrough,
        accounts: Accounts,
        vectors: Vectors,
        semantic: SemanticAnswers,
        responses: StoredResponses,
        generations: Generations,
        quotas: Quotas,
        settings: CacheSettings,
    ) -> None:
        self._requests = requests
        self._reader = reader
        self._generators = generators
        self._cache = cache
        self._accounts = accounts
        self._vectors = vectors
        self._semantic = semantic
        self._responses = responses
        self._generations = generations
        self._quotas = quotas
        self._settings = settings
        self._spaces = KeySpaces(KIND, settings)
        self._block_spaces = KeySpaces(PREFIX_KIND, settings)
        self._searches: set[asyncio.Task[None]] = set()

    async def generate(self, raw: bytes) -> bytes:
        """Generate, for which no whole response is stored."""
        began = perf_counter()
        plan, answer, stamp = await self._fetch(raw, began, None)
        answered = self._answered(plan, answer)
        response = write_whole(answered.completion.pieces, answered.summary, answered.created_ms)
        now_ms = time.time_ns() // 1_000_000
        # The answer to another prompt is looked for, and judged, each time.
        is_own = not isinstance(answer.entry.value, SemanticValue)
        if answer.tier is Tier.HOT and is_own and plan.parsed.cache.mode is not CacheMode.NO_STORE:
            entry = answer.entry
            stored = StoredResponse(
                state=plan.state,
                model=plan.parsed.generator,
                info=plan.parsed.info,
                response=response,
                items=1,
                tokens=entry.value.tokens,
                account=self._account(plan.parsed),
                meter=self._quotas.meter(plan.state.name),
                popular=False,
            )
            self._responses.keep(raw, stored, ttl=entry.seconds_left(now_ms), stamp=stamp)
        return response.at(now_ms)

    def open_stream(self, raw: bytes) -> GenerateStream:
        """Begins a call of GenerateStream; see there for what it raises, and when."""
        began = perf_counter()

        async def answer(watch: Watch) -> Answered:
            plan, answer, _ = await self._fetch(raw, began, watch)
            return self._answered(plan, answer)

        return GenerateStream(answer)

    async def generate_stream(self, raw: bytes) -> AsyncIterator[bytes]:
        """GenerateStream."""
        stream = self.open_stream(raw)
        try:
            async for message in stream.messages():
                yield message
        finally:
            await stream.close()

    async def list_generators(self, raw: bytes) -> bytes:
        """ListGenerators."""
        decode(generate_pb2.ListGeneratorsRequest, raw)
        response = generate_pb2.ListGeneratorsResponse()
        for generator in self._generators.values():
            info = generator.info
            response.generators.add(
                name=info.name,
                version=info.version,
                context_tokens=info.context_tokens,
                accepts_chat=info.accepts_chat,
                runs_on=info.runs_on,
            )
        return response.SerializeToString()

    def key(self, state: NamespaceState, parsed: ParsedGeneration) -> bytes:
        """The key of an answer."""
        return self._key(state, parsed, parsed.query.encode())

    def begin(self, plan: _Plan) -> Generation:
        """Begins to compute an answer that is in no tier. Raises what that fails with at once."""
        generation = plan.generation = Generation()
        if plan.parsed.semantic is None or _mode(plan.parsed) is CacheMode.BYPASS:
            self._start(plan, generation)
            return generation
        search = asyncio.create_task(self._search_first(plan, generation, plan.parsed.semantic))
        self._searches.add(search)
        search.add_done_callback(self._searches.discard)
        generation.add_done_callback(lambda _: search.cancel())
        return generation

    # The steps of a call

    async def _fetch(
        self, raw: bytes, began: float, watch: Watch | None
    ) -> tuple[_Plan, Answer, int]:
        """The answer to a request, and the namespace's stamp from before it was looked up."""
        self._requests.check_size(raw)
        request = decode(generate_pb2.GenerateRequest, raw)
        state = await self._generations.state(self._requests.namespace(request.namespace))
        # What is invalidated from now on must not be in a response that is kept.
        stamp = state.stamp
        parsed = self._reader.read(request)
        self._quotas.charge(state.name, 1)
        plan = _Plan(parsed, state, began)
        ttl = self._settings.generate_ttl if parsed.cache.ttl is None else parsed.cache.ttl
        key = self.key(state, parsed)
        policy = Policy(_mode(parsed), parsed.cache.tags, self._account(parsed))
        check = None if parsed.semantic is None else _Semantic(parsed.semantic)
        want = Want(key, b"", None, ttl, check, watch)
        (answer,) = await self._cache.fetch(state, [want], policy, _Loader(self, plan))
        if isinstance(answer, Exception):
            raise answer
        if answer.tier is Tier.COMPUTED:
            self._offer(plan, key, answer)
        return plan, answer, stamp

    def _start(self, plan: _Plan, generation: Generation) -> None:
        parsed, state = plan.parsed, plan.state
        info, mode = parsed.info, parsed.cache.mode
        space = self._block_spaces.of(state.name, info.name, info.version)
        epoch = state.epoch_of(PREFIX_KIND, info.name, info.version)
        request = GenerationRequest(
            prompt=parsed.prompt,
            sampling=parsed.sampling,
            scope=_Blocks(space, epoch),
            reads_prefix=mode.reads,
            keeps_prefix=mode.stores,
        )
        meter = self._quotas.meter(state.name)
        meter.admit(1)
        parsed.generator.start(request, generation)
        meter.watch([generation])

    async def _search_first(self, plan: _Plan, generation: Generation, threshold: float) -> None:
        """Ends a generation with the answer to another prompt, or begins it."""
        try:
            other = await self._semantic_value(plan, threshold)
            if other is None:
                self._start(plan, generation)
            else:
                generation.set_result(other)
        except Exception as error:
            if not generation.done():
                generation.set_exception(error)

    async def _semantic_value(self, plan: _Plan, threshold: float) -> Product | None:
        parsed, state = plan.parsed, plan.state
        vector = plan.vector = await self._vector(plan)
        if vector is None or not parsed.cache.mode.reads:
            return None
        policy = Policy(CacheMode.ONLY_IF_CACHED, (), self._account(parsed), counts=False)

        async def look_up(key: bytes) -> tuple[str, Answer] | None:
            want = Want(key, b"", None, None)
            (answer,) = await self._cache.fetch(state, [want], policy, _Loader(self, plan))
            if isinstance(answer, Exception):
                return None
            return read_prompt(answer.entry.value.payload), answer

        scope = digest(self._key(state, parsed))
        return await self._semantic.find(
            KIND, state.name, scope, vector, parsed.query, threshold, look_up
        )

    async def _vector(self, plan: _Plan) -> NDArray[np.float32] | None:
        """What stands for the prompt's meaning; None for one that the model does not read whole."""
        parsed = plan.parsed
        embedder = self._requests.model("")
        choices = CacheChoices(parsed.cache.mode, None, ())
        try:
            info = embedder.info
            item = self._requests.text(parsed.query, info.prompts.get("query", ""), "query")
            (answer,) = await self._vectors.fetch(plan.state, embedder, info, [item], choices)
        except ModelError:
            return None
        if isinstance(answer, Exception) or answer.entry.value.truncated:
            return None
        vector = decode_vector(answer.entry.value.payload, answer.entry.value.codec)
        return vector if vector.any() else None

    # What comes of it

    def _offer(self, plan: _Plan, key: bytes, answer: Answer) -> None:
        """Lets an answer that was generated be that to prompts that mean the same."""
        if plan.vector is None or not _mode(plan.parsed).stores:
            return
        scope = digest(self._key(plan.state, plan.parsed))
        self._semantic.add(scope, plan.vector, key, answer.entry.expires_ms)

    def _answered(self, plan: _Plan, answer: Answer) -> Answered:
        value, info = answer.entry.value, plan.parsed.info
        other = value if isinstance(value, SemanticValue) else None
        completion = read_completion(value.payload)
        summary = generate_pb2.GenerateSummary(
            finish_reason=finish_reason(completion.finish_reason),
            usage=generate_pb2.GenerateUsage(
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
            ),
            tier=TIER_NUMBER[answer.tier],  # type: ignore[arg-type]
            model=info.name,
            model_version=info.version,
            similarity=other.similarity if other else None,
        )
        if answer.tier is Tier.COMPUTED and plan.generation is not None:
            _add_costs(summary, plan.generation, plan.began)
        created_ms = other.created_ms if other else answer.entry.created_ms
        return Answered(completion, summary, created_ms, answer.tier)

    def _account(self, parsed: ParsedGeneration) -> Account:
        return self._accounts.of(KIND, parsed.namespace, parsed.info.name)

    def _key(self, state: NamespaceState, parsed: ParsedGeneration, *query: bytes) -> bytes:
        info = parsed.info
        space = self._spaces.of(state.name, info.name, info.version)
        epoch = state.epoch_of(KIND, info.name, info.version)
        return space.key(epoch, _FORMAT, *parsed.scope_parts(), *query)


def _mode(parsed: ParsedGeneration) -> CacheMode:
    """How a call uses the cache. Raises `NotCachedError` if there cannot be anything for it."""
    mode = parsed.cache.mode
    if parsed.is_repeatable:
        return mode
    if mode is CacheMode.ONLY_IF_CACHED:
        raise NotCachedError(
            "an answer drawn at random is not cached: give a seed, temperature 0 or store_sampled"
        )
    return CacheMode.BYPASS


def _add_costs(summary: generate_pb2.GenerateSummary, generation: Generation, began: float) -> None:
    """What it took to generate the answer."""
    completion: Completion = generation.result()
    for tier, count in completion.reused.items():
        summary.usage.reused_tokens.append(tier_count(tier, count))
    timings = summary.timings
    timings.queued = completion.queued_seconds * 1000
    timings.loading = completion.loading_seconds * 1000
    timings.total = (perf_counter() - began) * 1000
    timings.first_token = (generation.first_at - began) * 1000
