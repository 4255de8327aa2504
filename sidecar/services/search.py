"""SearchService.Search: the path of a request, from top to bottom.

1. The bytes of a call that was answered before, whole, from memory: see `StoredResponses`.
2. Otherwise the request is read, and its list of results goes through the cache as one entry. A
   longer list answers for a shorter one, and a list outlives changes that cannot touch it.
3. What is missing is computed: the query's vector and the scores of the reranker, each by way of
   the cache, and between them the index. If the call allows it, the list of another query that
   means the same answers instead.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from embercache.v1 import search_pb2

from sidecar.cache.codec import Codec, Value, decode_vector
from sidecar.cache.items import Answer, CacheMode, Policy, Product, Tier, Want
from sidecar.cache.keys import digest
from sidecar.models.types import VersionChangedError
from sidecar.services.changes import (
    ListCheck,
    collection_tag,
    document_digest,
    half_unit,
    model_digest,
)
from sidecar.services.errors import invalid
from sidecar.services.requests import MAX_TAGS, CacheChoices, decode, tag_digests
from sidecar.services.result_list import ANY_SCORE, FORMAT, ListFacts, pack_list, read_facts
from sidecar.services.scores import score
from sidecar.services.search_request import write_metadata
from sidecar.services.search_wire import write_response
from sidecar.services.semantic import SemanticValue
from sidecar.services.stored import StoredResponse
from sidecar.services.vectors import KeySpaces
from sidecar.services.wire import length_delimited
from sidecar.spans import current

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sidecar.access.quotas import Quotas
    from sidecar.cache.accounts import Account, Accounts
    from sidecar.cache.codec import Entry
    from sidecar.cache.generations import Generations, NamespaceState
    from sidecar.cache.read_through import ReadThrough
    from sidecar.config import CacheSettings
    from sidecar.index.types import Hit, Index
    from sidecar.services.embed_request import RequestReader
    from sidecar.services.scores import Scores
    from sidecar.services.search_request import ParsedSearch, Reranking, SearchReader
    from sidecar.services.semantic import SemanticAnswers
    from sidecar.services.stored import StoredResponses
    from sidecar.services.vectors import Vectors
    from sidecar.services.wire import AgedBytes

KIND = "search"


@dataclass(slots=True)
class _Plan:
    """A list on its way to be computed, and what became known on it."""

    parsed: ParsedSearch
    state: NamespaceState
    vector: NDArray[np.float32] | None = None
    truncated: bool = False
    tokens: int = 0
    query_tier: Tier | None = None
    rerank_tiers: Counter[Tier] = field(default_factory=Counter)


class _Loader:
    """The service as what the cache computes its misses with."""

    def __init__(self, service: SearchService) -> None:
        self._service = service

    def submit(self, sources: Sequence[_Plan]) -> list[asyncio.Task[Product]]:
        return [asyncio.create_task(self._service.compute(plan)) for plan in sources]

    def product(self, result: Product) -> Product:
        return result


class SearchService:
    """Answers Search of search.proto: bytes in, bytes out.

    Raises what `sidecar.services.errors.as_call_error` turns into a status.
    """

    def __init__(
        self,
        *,
        requests: RequestReader,
        reader: SearchReader,
        index: Index,
        cache: ReadThrough,
        accounts: Accounts,
        vectors: Vectors,
        scores: Scores,
        semantic: SemanticAnswers,
        responses: StoredResponses,
        generations: Generations,
        quotas: Quotas,
        settings: CacheSettings,
        max_bytes: int,
    ) -> None:
        self._requests = requests
        self._reader = reader
        self._index = index
        self._cache = cache
        self._accounts = accounts
        self._vectors = vectors
        self._scores = scores
        self._semantic = semantic
        self._responses = responses
        self._generations = generations
        self._quotas = quotas
        self._settings = settings
        self._spaces = KeySpaces(KIND, settings)
        self._max_bytes = max_bytes
        self._loader = _Loader(self)

    async def search(self, raw: bytes) -> bytes:
        """Search: one query, for which no whole response is stored."""
        self._requests.check_size(raw)
        request = decode(search_pb2.SearchRequest, raw)
        # One item, whatever it reranks: what that computes has a quota of its own.
        self._quotas.charge(self._requests.namespace(request.namespace), 1)
        try:
            return await self._answer(request, raw)
        except VersionChangedError:
            # The encoders moved to another version. Who asked for the old one is told so now.
            return await self._answer(request, raw)

    def key(self, state: NamespaceState, parsed: ParsedSearch) -> bytes:
        """The key of a query's list."""
        return self._key(state, parsed, *parsed.query_parts())

    async def _answer(self, request: search_pb2.SearchRequest, raw: bytes) -> bytes:
        # First the namespace, then the models: a name that moves meanwhile changes the stamp.
        state = await self._generations.state(self._requests.namespace(request.namespace))
        # What is invalidated from now on must not be in a response that is kept.
        stamp = state.stamp
        parsed = self._reader.read(request)
        key = self.key(state, parsed)
        plan = _Plan(parsed, state)
        ttl = self._settings.search_ttl if parsed.cache.ttl is None else parsed.cache.ttl
        want = Want(key, b"", plan, ttl, _check(parsed))
        account = self._account(parsed)
        tags = (*parsed.cache.tags, collection_tag(self._requests.digests, parsed.collection.name))
        policy = Policy(parsed.cache.mode, tags, account)
        (answer,) = await self._cache.fetch(state, [want], policy, self._loader)
        if isinstance(answer, Exception):
            raise answer
        if answer.tier is Tier.COMPUTED:
            self._offer(plan, key, answer.entry)
        if parsed.text and parsed.cache.mode.stores:
            self._responses.note(KIND, state.name, raw, 1)
        response = _write(plan, answer)
        now_ms = time.time_ns() // 1_000_000
        # The answer to another query is looked for, and judged, each time.
        is_own = not isinstance(answer.entry.value, SemanticValue)
        if answer.tier is Tier.HOT and is_own and parsed.cache.mode is not CacheMode.NO_STORE:
            self._keep_response(raw, plan, answer.entry, response, stamp, now_ms)
        return response.at(now_ms)

    async def compute(self, plan: _Plan) -> Product:
        """The list of a query that has none."""
        parsed = plan.parsed
        vector = plan.vector = await self._query_vector(plan)
        if parsed.semantic is not None and parsed.cache.mode.reads and not plan.truncated:
            other = await self._semantic_value(plan, vector, parsed.semantic)
            if other is not None:
                return other
        with current().step("index") as span:
            hits = await self._index.search(parsed.collection, vector, parsed.count, parsed.where)
            span.found(len(hits))
        exhausted = len(hits) < parsed.count
        floor = ANY_SCORE if exhausted else hits[-1].score
        if parsed.threshold is not None:
            hits = [hit for hit in hits if hit.score >= parsed.threshold]
            exhausted |= len(hits) < parsed.count
            floor = max(floor, parsed.threshold)
        names = sorted({tag for hit in hits for tag in hit.tags})
        tags = tag_digests(self._requests.digests, names, len(hits) * MAX_TAGS)
        # Before the scores, which take long: an invalidation that comes meanwhile must count.
        await self._generations.resolve(plan.state, tags)
        facts = ListFacts(
            wanted=parsed.count,
            exhausted=exhausted,
            floor=floor,
            model=model_digest(parsed.info.name, parsed.info.version),
            vector=half_unit(vector),
            documents=frozenset(document_digest(hit.document) for hit in hits),
            query=parsed.text if parsed.semantic is not None and not plan.truncated else "",
        )
        payload = pack_list(facts, await self._results(plan, hits))
        if len(payload) > self._max_bytes:
            raise invalid(
                f"the results have {len(payload)} bytes, more than the {self._max_bytes} allowed:"
                " ask for fewer with top_k, or store smaller chunks"
            )
        value = Value(payload, Codec.BYTES, len(payload), plan.tokens, plan.truncated)
        return Product(value, tags, None if hits else self._settings.empty_search_ttl)

    # The steps of a computation

    async def _query_vector(self, plan: _Plan) -> NDArray[np.float32]:
        parsed = plan.parsed
        if parsed.item is None:
            assert parsed.vector is not None  # noqa: S101 - one of the two is set
            return parsed.vector
        (answer,) = await self._vectors.fetch(
            plan.state, parsed.embedder, parsed.info, [parsed.item], _choices(parsed)
        )
        if isinstance(answer, Exception):
            raise answer
        value = answer.entry.value
        plan.query_tier, plan.tokens, plan.truncated = answer.tier, value.tokens, value.truncated
        vector = decode_vector(value.payload, value.codec)
        if not vector.any():
            raise invalid("the model gives a vector of zeros for the query: ask in other words")
        return vector

    async def _results(self, plan: _Plan, hits: Sequence[Hit]) -> list[bytes]:
        """The results in the form in which they are sent, best first."""
        reranking = plan.parsed.reranking
        if reranking is None:
            return [_result(hit, None) for hit in hits]
        scores = await self._rerank(plan, reranking, hits)
        order = sorted(range(len(hits)), key=lambda i: (-scores[i], i))
        return [_result(hits[i], scores[i]) for i in order]

    async def _rerank(self, plan: _Plan, reranking: Reranking, hits: Sequence[Hit]) -> list[float]:
        parsed = plan.parsed
        pairs = [(parsed.text, hit.text) for hit in hits]
        answers = await self._scores.fetch(
            plan.state, reranking.reranker, reranking.info, pairs, _choices(parsed)
        )
        scores = []
        for answer in answers:
            # A list without one of its scores would be in a wrong order.
            if isinstance(answer, Exception):
                raise answer
            plan.rerank_tiers[answer.tier] += 1
            scores.append(score(answer.entry))
        return scores

    async def _semantic_value(
        self, plan: _Plan, vector: NDArray[np.float32], threshold: float
    ) -> Product | None:
        parsed = plan.parsed
        policy = Policy(CacheMode.ONLY_IF_CACHED, (), self._account(parsed), counts=False)

        async def look_up(key: bytes) -> tuple[str, Answer] | None:
            want = Want(key, b"", None, None, _check(parsed))
            (answer,) = await self._cache.fetch(plan.state, [want], policy, self._loader)
            if isinstance(answer, Exception):
                return None
            return read_facts(answer.entry.value.payload).query, answer

        scope = self._scope(plan)
        product = await self._semantic.find(
            KIND, plan.state.name, scope, vector, parsed.text, threshold, look_up
        )
        # The query was embedded, so no tokens were saved.
        return product and replace(product, value=replace(product.value, tokens=0))

    # What comes of it

    def _offer(self, plan: _Plan, key: bytes, entry: Entry) -> None:
        """Lets a list that was computed answer for queries that mean the same."""
        parsed = plan.parsed
        if plan.vector is None or plan.truncated or isinstance(entry.value, SemanticValue):
            return
        if parsed.semantic is not None and parsed.cache.mode.stores:
            self._semantic.add(self._scope(plan), plan.vector, key, entry.expires_ms)

    def _keep_response(
        self,
        raw: bytes,
        plan: _Plan,
        entry: Entry,
        response: AgedBytes,
        stamp: int,
        now_ms: int,
    ) -> None:
        parsed = plan.parsed
        reranking = parsed.reranking
        stored = StoredResponse(
            state=plan.state,
            model=parsed.embedder,
            info=parsed.info,
            second_model=reranking.reranker if reranking else None,
            second_info=reranking.info if reranking else None,
            response=response,
            items=1,
            tokens=entry.value.tokens,
            account=self._account(parsed),
            meter=self._quotas.meter(plan.state.name),
            popular=bool(parsed.text),
        )
        self._responses.keep(raw, stored, ttl=entry.seconds_left(now_ms), stamp=stamp)

    def _account(self, parsed: ParsedSearch) -> Account:
        return self._accounts.of(KIND, parsed.collection.namespace, parsed.info.name)

    def _scope(self, plan: _Plan) -> bytes:
        """What stands for everything that the answer depends on but the query."""
        return digest(self._key(plan.state, plan.parsed))

    def _key(self, state: NamespaceState, parsed: ParsedSearch, *query: bytes) -> bytes:
        info, reranking = parsed.info, parsed.reranking
        space = self._spaces.of(state.name, info.name, info.version)
        epoch = state.epoch_of(KIND, info.name, info.version)
        if reranking:
            theirs = reranking.info
            epoch = max(epoch, state.epoch_of(KIND, theirs.name, theirs.version))
        identity = self._index.identity.encode()
        return space.key(epoch, FORMAT, identity, *parsed.scope_parts(), *query)


def _check(parsed: ParsedSearch) -> ListCheck:
    return ListCheck(parsed.count, parsed.where, parsed.semantic)


def _choices(parsed: ParsedSearch) -> CacheChoices:
    """For vectors and scores, which no document can change: lifetime and tags are the list's."""
    return CacheChoices(parsed.cache.mode, None, ())


def _result(hit: Hit, rerank_score: float | None) -> bytes:
    message = search_pb2.Result(
        id=hit.document,
        chunk_id=hit.chunk,
        score=hit.score,
        content=hit.text,
        rerank_score=rerank_score,
    )
    write_metadata(hit.metadata, message.metadata)
    return length_delimited(1, message.SerializeToString())


def _write(plan: _Plan, answer: Answer) -> AgedBytes:
    parsed, value = plan.parsed, answer.entry.value
    other = value if isinstance(value, SemanticValue) else None
    reranking = parsed.reranking
    return write_response(
        payload=value.payload,
        most=parsed.top_k,
        model=(parsed.info.name, parsed.info.version),
        reranker=(reranking.info.name, reranking.info.version) if reranking else None,
        tier=answer.tier,
        query_tier=plan.query_tier,
        rerank_tiers=plan.rerank_tiers,
        semantic=(other.similarity, other.query) if other else None,
        created_ms=other.created_ms if other else answer.entry.created_ms,
    )
