"""Calls of every kind, in about the proportions of an application that caches well.

Vectors are asked for by popularity (Zipf, alpha 1) and live for a minute, so that hits, misses,
expirations and writes go on for ever at the same rate. Most are of one namespace, some of several
in turn, and some of one of hundreds that are named seldom. What is kept of ever new ones grows to
bounds that ten minutes do not reach, so that it is left to tests.
Documents change rarely: what a sidecar keeps of their changes grows up to 32 MiB, and is no leak.
Callers give different deadlines, some too short. Some calls are wrong, are given up, or come
over a connection of their own, as what leaks is often the unhappy path.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from embercache import Document, EmbercacheError
from embercache.aio import AsyncClient

from bench.zipf import zipf

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

_KEYS = 3_000
_SELDOM = 400
_TTL_SECONDS = 60.0
_DOCUMENTS = 200
_NAMESPACES = 16
_DEADLINES = (5.0, 10.0, 30.0)
_PROMPTS = 40
_AHEAD = 4096


class Caller:
    """One connection that asks again and again; ``counts`` is shared with others."""

    def __init__(self, address: str, number: int, counts: Counter[str]) -> None:
        self._address = address
        self._client = AsyncClient(address)
        self._rng = np.random.default_rng(number)
        self._counts = counts
        self._keys = iter(())
        self._turns = itertools.cycle(range(_NAMESPACES))
        self._kinds: dict[str, tuple[float, Callable[[], Awaitable[object]]]] = {
            "embed": (54, self._embed_one),
            "embed a batch": (12, self._embed_batch),
            "embed with a tag": (8, self._embed_tagged),
            "embed in namespaces in turn": (6, self._embed_elsewhere),
            "embed in a namespace of many": (1, self._embed_in_one_of_many),
            "a deadline too short": (1, self._be_late),
            "embed over a stream": (0.3, self._embed_stream),
            "search": (10, self._search),
            "generate": (2, self._generate),
            "generate, streamed": (0.5, self._generate_stream),
            "rerank": (0.3, self._rerank),
            "upsert": (0.05, self._upsert),
            "delete": (0.02, self._delete),
            "invalidate": (0.3, self._invalidate),
            "statistics": (0.2, self._client.stats),
            "an error": (1, self._fail),
            "given up": (1, self._give_up),
            "a connection of its own": (0.5, self._connect),
        }

    async def run(self, may_ask: asyncio.Event, ended: asyncio.Event) -> None:
        """Asks until it is ended, while it may."""
        names = list(self._kinds)
        weights = np.array([weight for weight, _ in self._kinds.values()])
        async with self._client:
            while not ended.is_set():
                for name in self._rng.choice(names, 256, p=weights / weights.sum()):
                    await may_ask.wait()
                    if ended.is_set():
                        return
                    await self._kinds[name][1]()
                    self._counts[str(name)] += 1

    def _text(self) -> str:
        """A text, the popular ones more often."""
        key = next(self._keys, None)
        if key is None:
            self._keys = iter(zipf(self._rng, 1.0, _KEYS, _AHEAD).tolist())
            key = next(self._keys)
        return f"ember number {key} glows in the hearth"

    async def _embed_one(self) -> object:
        seconds = _DEADLINES[self._rng.integers(len(_DEADLINES))]
        return await self._client.embed([self._text()], ttl=_TTL_SECONDS, timeout=seconds)

    async def _embed_elsewhere(self) -> object:
        texts, namespace = [f"local {self._rng.integers(50)}"], f"tenant-{next(self._turns)}"
        return await self._client.embed(texts, namespace=namespace, ttl=_TTL_SECONDS)

    async def _embed_in_one_of_many(self) -> object:
        namespace = f"seldom-{self._rng.integers(_SELDOM)}"
        return await self._client.embed(["a seldom text"], namespace=namespace, ttl=_TTL_SECONDS)

    async def _be_late(self) -> object:
        """A miss with a deadline that it may not keep."""
        text = f"nobody has time for this: {self._rng.integers(2**60)}"
        with contextlib.suppress(EmbercacheError):
            seconds = self._rng.uniform(0.001, 0.02)
            return await self._client.embed([text], ttl=_TTL_SECONDS, timeout=seconds)

    async def _embed_batch(self) -> object:
        return await self._client.embed([self._text() for _ in range(8)], ttl=_TTL_SECONDS)

    async def _embed_tagged(self) -> object:
        tag = f"tag-{self._rng.integers(8)}"
        number = self._rng.integers(30)
        return await self._client.embed([f"tagged {number}"], tags=[tag], ttl=_TTL_SECONDS)

    async def _embed_stream(self) -> object:
        texts = [self._text() for _ in range(64)]
        return [one async for one in self._client.embed_stream(texts, batch_size=16)]

    async def _search(self) -> object:
        lang = ("en", "de")[self._rng.integers(2)]
        query = f"question {self._rng.integers(60)}"
        return await self._client.search(query, top_k=5, where={"lang": lang})

    async def _generate(self) -> object:
        return await self._client.generate(self._prompt(), max_tokens=4, ttl=_TTL_SECONDS)

    async def _generate_stream(self) -> object:
        stream = self._client.generate_stream(self._prompt(), max_tokens=4, ttl=_TTL_SECONDS)
        return [piece async for piece in stream]

    def _prompt(self) -> str:
        return f"The handbook says to keep the coal dry. Rule {self._rng.integers(_PROMPTS)}:"

    async def _rerank(self) -> object:
        passages = [f"passage {self._rng.integers(100)}" for _ in range(4)]
        return await self._client.rerank(f"question {self._rng.integers(60)}", passages)

    async def _upsert(self) -> object:
        number = self._rng.integers(_DOCUMENTS)
        lang = ("en", "de")[self._rng.integers(2)]
        document = Document(f"doc-{number}", self._text(), {"lang": lang})
        return await self._client.upsert([document])

    async def _delete(self) -> object:
        return await self._client.delete([f"doc-{self._rng.integers(_DOCUMENTS)}"])

    async def _invalidate(self) -> object:
        target: dict[str, Any] = (
            {"tags": [f"tag-{self._rng.integers(8)}"]}
            if self._rng.random() < 0.5
            else {"inputs": [self._text()]}
        )
        return await self._client.invalidate(**target)

    async def _fail(self) -> object:
        """One of several errors; that there is none is one of ours."""
        bad: list[dict[str, Any]] = [
            {"model": "no such model"},
            {"ttl": -1.0},
            {"mode": "only_if_cached"},
        ]
        text = f"nobody asked for this: {self._rng.integers(2**60)}"
        try:
            await self._client.embed([text], **bad[self._rng.integers(len(bad))])
        except EmbercacheError as error:
            return error
        raise RuntimeError("a call that is wrong was answered")

    async def _give_up(self) -> object:
        """A caller that goes away before the answer comes."""
        text = f"nobody waits for this: {self._rng.integers(2**60)}"
        call = asyncio.create_task(self._client.embed([text], mode="no_store"))
        await asyncio.sleep(self._rng.uniform(0, 0.005))
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError, EmbercacheError):
            return await call

    async def _connect(self) -> object:
        async with AsyncClient(self._address) as client:
            return await client.health()
