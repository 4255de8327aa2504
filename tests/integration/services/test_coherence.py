"""Whatever happens in whatever order, an answer is one that was right a moment ago.

Three sidecars share a real Redis and an index in it: two serve the same version of a model, one
of them over a connection that is cut now and then, and the third another version. Against them
stands a dictionary of documents and a search through all of it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import numpy as np
import pytest
from embercache.v1 import common_pb2, search_pb2
from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.proxy import Proxy
from sidecar.cache.breaker import Breaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]

# Documents by their ids: text and colour.
State: TypeAlias = "dict[str, tuple[str, str]]"

SIDES = ("one", "two", "other version")
TEXTS = ["am", "az", "ma", "mz", "za", "zz"]
QUERIES = ["am?", "zz?"]
COLOURS = ["red", "blue"]
STALENESS = 1.2
CACHED = {"mode": common_pb2.CACHE_MODE_ONLY_IF_CACHED}
_examples = itertools.count()

# Few of each, so that calls meet the same entries again; the first are taken most often.
side = st.sampled_from(["one", "two", "one", "two", "other version"])
namespace = st.sampled_from(["x", "x", "x", "y"])
name = st.sampled_from(["d1", "d2", "d3", "d4"])
query = st.sampled_from(QUERIES)
only = st.sampled_from([None, None, "red"])
length = st.sampled_from([2, 1])
SEARCHES = st.tuples(
    st.just("search"), side, namespace, query, only, length, st.sampled_from([False, False, True])
)
UPSERTS = st.tuples(
    st.just("upsert"), side, namespace, name, st.sampled_from(TEXTS), st.sampled_from(COLOURS)
)
OTHERS = st.one_of(
    st.tuples(st.just("delete"), side, namespace, name),
    st.tuples(st.just("invalidate"), side, namespace, st.sampled_from(["namespace", "tag"])),
    st.tuples(st.just("separate"), st.sampled_from(["cut", "swallow"])),
    st.tuples(st.just("restore")),
)
CHECKS = st.tuples(st.just("check"), side, namespace, query, only, length)
OPERATIONS = st.lists(
    st.one_of(SEARCHES, UPSERTS, CHECKS, UPSERTS, SEARCHES, OTHERS), min_size=30, max_size=60
)


class World:
    """The sidecars, and what they should know.

    ``states`` are all that a namespace has been in, for each version; an answer of a sidecar must
    fit one that it has not outlived: those since ``seen``. Answers must have been computed after
    the last invalidation that the sidecar has heard of.
    """

    def __init__(
        self, sidecars: dict[str, Sidecar], proxy: Proxy, vectors: dict[str, dict[str, np.ndarray]]
    ) -> None:
        self.sidecars = sidecars
        self.proxy = proxy
        self.vectors = vectors
        self.example = str(next(_examples))
        self.states: dict[tuple[str, str], list[State]] = defaultdict(lambda: [{}])
        self.seen: dict[tuple[str, str], int] = defaultdict(int)
        self.invalidated_ms: dict[str, int] = defaultdict(int)
        self.heard_ms: dict[tuple[str, str], int] = defaultdict(int)
        self.is_separate = False
        self.numbers = itertools.count()
        # What each sidecar has in memory to be invalidated when it is to show that it heard.
        self.markers: dict[str, str] = {}

    def states_of(self, which: str, space: str) -> list[State]:
        return self.states["other" if which == "other version" else "this", space]

    async def do(self, operation: tuple[Any, ...]) -> None:
        kind, *arguments = operation
        await getattr(self, kind)(*arguments)

    async def upsert(self, which: str, space: str, document: str, text: str, colour: str) -> None:
        states = self.states_of(which, space)
        states.append(states[-1] | {document: (text, colour)})
        metadata, full = {"colour": colour}, self.full(space)
        sidecar = self.sidecars[which]
        await self.told(
            which, lambda: sidecar.upsert({document: text}, metadata=metadata, namespace=full)
        )

    async def delete(self, which: str, space: str, document: str) -> None:
        states = self.states_of(which, space)
        states.append({key: value for key, value in states[-1].items() if key != document})
        sidecar, full = self.sidecars[which], self.full(space)
        await self.told(which, lambda: sidecar.delete(document, namespace=full))

    async def told(self, which: str, call: Callable[[], Awaitable[Any]]) -> None:
        """Calls what changes something; who is cut off says so, and the call is repeated then."""
        async with asyncio.timeout(30):
            while True:
                try:
                    await call()
                    return
                except grpc.aio.AioRpcError as error:
                    if which != "two" or error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                await self.restore()
                await asyncio.sleep(0.02)

    async def invalidate(self, which: str, space: str, how: str) -> None:
        sidecar, full = self.sidecars[which], self.full(space)
        tags = ["a tag"] if how == "tag" else []
        self.invalidated_ms[space] = time.time_ns() // 1_000_000
        await self.told(which, lambda: sidecar.invalidate(namespace=full, tags=tags))

    async def separate(self, how: str) -> None:
        if not self.is_separate:
            self.is_separate = True
            if how == "cut":
                await self.proxy.cut()
            else:
                self.proxy.swallow()

    async def restore(self) -> None:
        """Restores the connection, and waits until it is in use."""
        await self.proxy.restore()
        self.is_separate = False
        for which in SIDES:
            await self.mark(which)

    async def mark(self, which: str) -> None:
        """Puts something into a sidecar's memory that can be invalidated."""
        marker = self.markers[which] = f"marker {next(self.numbers)}"
        tagged = {"namespace": self.full("marker"), "tags": [marker]}
        async with asyncio.timeout(30):
            while await self.sidecars[which].tiers(marker, **tagged) != ["HOT"]:
                await asyncio.sleep(0.005)

    async def agree(self, which: str) -> None:
        """Waits until a sidecar has heard of all that came before, or knows that it is deaf."""
        counts = {key: len(states) - 1 for key, states in self.states.items()}
        invalidated = dict(self.invalidated_ms)
        marker = self.markers.pop(which, None)
        if marker is not None:
            tagged = {"namespace": self.full("marker"), "tags": [marker]}
            await self.sidecars["one"].invalidate(**tagged)
            async with asyncio.timeout(30):
                while await self.sidecars[which].tiers(marker, **CACHED, **tagged) != ["ERROR"]:
                    await asyncio.sleep(0.005)
        if which != "two" or not self.is_separate:
            await self.mark(which)
        version = "other" if which == "other version" else "this"
        for (of, space), count in counts.items():
            if of == version:
                self.seen[which, space] = count
        for space, at in invalidated.items():
            self.heard_ms[which, space] = at

    async def check(self, which: str, space: str, *search: Any) -> None:
        """What a sidecar says when it has heard of everything."""
        await self.agree(which)
        await self.search(which, space, *search, brief=False)

    async def search(
        self, which: str, space: str, query: str, colour: str | None, top_k: int, brief: bool
    ) -> None:
        options: dict[str, Any] = {"namespace": self.full(space), "top_k": top_k, "tags": ["a tag"]}
        if colour is not None:
            value = search_pb2.MetadataValue(text=colour)
            equal = search_pb2.Filter.Equal(key="colour", value=value)
            options["filter"] = search_pb2.Filter(equal=equal)
        if brief:
            options["ttl"] = Duration(nanos=1_000_000)
        response = await self.sidecars[which].search(query, **options)
        found = [(result.id, result.content) for result in response.results]
        states = self.states_of(which, space)[self.seen[which, space] :]
        right = [self.nearest(which, state, query, colour, top_k) for state in states]
        assert any(is_same(found, list_) for list_ in right), (which, space, found, right)
        made_ms = time.time_ns() // 1_000_000 - response.age_ms
        assert made_ms >= self.heard_ms[which, space] - 5, "made before it was invalidated"

    def nearest(
        self, which: str, state: State, query: str, colour: str | None, top_k: int
    ) -> list[tuple[str, str, float]]:
        """The right answer: ids, texts and scores, with all that share the last score."""
        vectors = self.vectors["other" if which == "other version" else "this"]
        scored = sorted(
            (
                (document, text, float(vectors[text] @ vectors[query]))
                for document, (text, is_) in state.items()
                if colour in (None, is_)
            ),
            key=lambda each: -each[2],
        )
        if len(scored) <= top_k:
            return scored
        last = scored[top_k - 1][2]
        return [each for each in scored if each[2] >= last - 1e-5]

    def full(self, space: str) -> str:
        return f"{space}{self.example}"


def is_same(found: list[tuple[str, str]], right: list[tuple[str, str, float]]) -> bool:
    """Whether an answer is the right one; which of equal scores comes first does not matter."""
    known = {(document, text): score for document, text, score in right}
    if not all(pair in known for pair in found) or len(set(found)) < len(found):
        return False
    scores = [known[pair] for pair in found]
    ideal = [score for *_, score in right][: len(found)]
    full = len(found) == len(right) or len(right) > len(found) > 0
    return full and np.allclose(scores, ideal, atol=1e-5)


@pytest.fixture
async def make_world(
    start: Start, redis_server: DevRedis, other_tiny_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], World]]:
    """Makes a world that no example has seen, of the same three sidecars."""
    # Else a sidecar that was cut off often waits longer and longer before it tries again.
    impatient = partial(Breaker, first_seconds=0.01, longest_seconds=0.05)
    monkeypatch.setattr("sidecar.cache.warm.Breaker", impatient)
    shared = {"index": {"url": redis_server.url}}
    stale = {"cache": {"ttl_jitter": 0, "staleness": STALENESS}}
    async with Proxy(redis_server.socket_path) as proxy:
        sidecars = {
            "one": await start(redis=redis_server, **shared),
            "two": await start(redis=proxy, redis_timeout=0.3, **shared, **stale),
            "other version": await start(redis=redis_server, packs=[other_tiny_pack], **shared),
        }
        vectors = {
            "this": await embedded(sidecars["one"]),
            "other": await embedded(sidecars["other version"]),
        }
        yield lambda: World(sidecars, proxy, vectors)


async def embedded(sidecar: Sidecar) -> dict[str, np.ndarray]:
    texts = [*TEXTS, *QUERIES]
    rows = [np.frombuffer(vector, "<f4") for vector in await sidecar.vectors(*texts)]
    return {text: row / np.linalg.norm(row) for text, row in zip(texts, rows, strict=True)}


@settings(
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(operations=OPERATIONS)
async def test_no_answer_is_staler_than_the_bound_or_from_anywhere_else(
    make_world: Callable[[], World], operations: list[tuple[Any, ...]]
) -> None:
    world = make_world()
    await world.restore()
    for operation in operations:
        await world.do(operation)
    # Nothing stays wrong: in the end all agree.
    await world.restore()
    for which in SIDES:
        await world.agree(which)
        for space, query, colour, top_k in itertools.product("xy", QUERIES, [None, "red"], [1, 2]):
            await world.search(which, space, query, colour, top_k, brief=False)
