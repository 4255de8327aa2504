"""What clients ask for, and how each answer is checked."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from embercache import Document

from tests.chaos.caller import DEADLINE
from tests.chaos.promises import Asked, Change, Found
from tests.chaos.record import WRONG
from tests.chaos.timeline import ENCODER, INDEX, NEWS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from embercache.aio import AsyncClient
    from embercache.results import EmbedResult

    from tests.chaos.caller import Caller, Reply
    from tests.chaos.promises import Documents, Promises
    from tests.chaos.record import Record
    from tests.chaos.truth import Prompt, Truth

# Each namespace, with the name of the world behind it, has one way to become invalid.
PLAIN, TAGGED, SHORT, DROPPED, DOCS = "plain", "tagged", "short", "dropped", "docs"
TAGS = ("red", "green", "blue", "black")
LANGS = ("en", "de")
SHORT_TTL = 2.0
# An age is told in whole milliseconds.
_CLOCK = 0.05
_NOTHING: frozenset[str] = frozenset()
_DOCUMENTS_A_CLIENT = 5
_STREAMED, _STREAM_BATCH = 40, 8


Kinds: TypeAlias = "list[tuple[float, Callable[[], Awaitable[None]]]]"
"""What a client asks for, each with how often."""


@dataclass
class World:
    """What all clients share. ``seen`` is what each process has answered in ``PLAIN``.

    The ``name`` is part of the namespaces: nobody else may call there.
    """

    name: str
    truth: Truth
    promises: Promises
    documents: Documents
    record: Record
    texts: Sequence[str]
    few_texts: Sequence[str]
    contents: Sequence[str]
    queries: Sequence[str]
    prompts: Sequence[Prompt]
    seen: set[tuple[str, int, str]] = field(default_factory=set)


class Client:
    """One application: asks again and again, at random by its own dice.

    A ``steady`` one asks only for what its sidecar can answer whatever else is away, so that it
    never waits for long.
    """

    def __init__(
        self, number: int, seed: int, world: World, caller: Caller, *, steady: bool = False
    ) -> None:
        self._number = number
        self._rng = random.Random(f"{seed} client {number}")
        self._world = world
        self._caller = caller
        self._versions = 0
        generations: Kinds = [(4, self._generate), (2, self._generate_stream)]
        others: Kinds = [
            (30, self._embed_one),
            (14, self._embed_batch),
            (16, self._embed_tagged),
            (8, self._embed_short),
            (8, self._embed_dropped),
            (1, self._embed_stream),
            (2, self._invalidate_tag),
            (1.5, self._invalidate_dropped),
            (16, self._search),
            (2, self._upsert),
            (0.5, self._delete),
        ]
        self._kinds = generations if steady else others + generations

    async def run(self, ended: asyncio.Event, pause: float) -> None:
        """Asks until it is ended; ``pause`` is the mean of the seconds between calls."""
        weights = [weight for weight, _ in self._kinds]
        while not ended.is_set():
            (_, ask), *_ = self._rng.choices(self._kinds, weights)
            await ask()
            await asyncio.sleep(self._rng.expovariate(1 / pause))

    # --- Vectors -------------------------------------------------------------------------------

    async def _embed_one(self) -> None:
        await self._embed("embed", [self._some(self._world.texts)], PLAIN)

    async def _embed_batch(self) -> None:
        texts = [self._some(self._world.texts) for _ in range(self._rng.randint(2, 16))]
        mode = self._rng.choices(["default", "no_store", "refresh", "bypass"], [90, 4, 3, 3])[0]
        await self._embed("batch", texts, PLAIN, mode=mode)

    async def _embed_tagged(self) -> None:
        texts = [self._some(self._world.few_texts) for _ in range(self._rng.randint(1, 4))]
        tags = self._rng.sample(TAGS, self._rng.choices([1, 2], [4, 1])[0])
        scopes = [("tag", tag) for tag in tags]
        await self._embed("tagged", texts, TAGGED, scopes=scopes, tags=tags)

    async def _embed_short(self) -> None:
        texts = [self._some(self._world.few_texts) for _ in range(self._rng.randint(1, 4))]
        await self._embed("short ttl", texts, SHORT, ttl=SHORT_TTL)

    async def _embed_dropped(self) -> None:
        texts = [self._some(self._world.few_texts) for _ in range(self._rng.randint(1, 4))]
        await self._embed("dropped", texts, DROPPED, scopes=[("namespace",)])

    async def _embed(
        self,
        kind: str,
        texts: list[str],
        namespace: str,
        *,
        scopes: Sequence[tuple[str, ...]] = (),
        **options: Any,
    ) -> None:
        reads = options.get("mode") not in ("bypass", "refresh")
        reply = await self._caller.call(
            kind,
            lambda client: client.embed(texts, namespace=self._in(namespace), **options),
            needs=frozenset({ENCODER}),
            batches=[texts],
            hot=self._hot(texts if namespace == PLAIN and reads else []),
        )
        if reply is None:
            return
        self._answered(kind, reply, reply.value.tiers)
        self._check_vectors(kind, texts, reply.value, reply.asked)
        self._check_ages(kind, namespace, texts, reply, scopes)
        if namespace == PLAIN and reads and options.get("mode") != "no_store":
            self._keep(texts, reply.asked)

    def _hot(self, texts: Sequence[str]) -> Callable[[str, int], set[str]]:
        """Which of the texts a process has in memory for sure."""
        seen = self._world.seen
        return lambda sidecar, starts: {text for text in texts if (sidecar, starts, text) in seen}

    def _keep(self, texts: Sequence[str], asked: Asked) -> None:
        """Takes note of what a process has answered, and so has in memory."""
        self._world.seen.update((asked.sidecar, asked.starts, text) for text in texts)

    def _check_vectors(
        self, kind: str, texts: Sequence[str], result: EmbedResult, asked: Asked
    ) -> None:
        if len(result) != len(texts):
            self._wrong(kind, f"{len(result)} vectors for {len(texts)} texts", asked)
            return
        for place, (text, row) in enumerate(zip(texts, result.raw, strict=True)):
            if row.tobytes() != self._world.truth.vectors[text].tobytes():
                words = f"vector {place} of {len(texts)} ({result.tiers[place]}) is another"
                self._wrong(kind, words, asked)

    def _check_ages(
        self,
        kind: str,
        namespace: str,
        texts: Sequence[str],
        reply: Reply[EmbedResult],
        scopes: Sequence[tuple[str, ...]],
    ) -> None:
        result, asked = reply.value, reply.asked
        for text, age, tier in zip(texts, result.ages, result.tiers, strict=True):
            # It may have ended while the others of the call were computed.
            if namespace == SHORT and age - (asked.end - asked.start) > SHORT_TTL + _CLOCK:
                self._wrong(kind, f"{age:.3f} s old ({tier}), after its lifetime", asked)
            all_scopes = [*scopes, ("input", text)] if namespace == DROPPED else scopes
            stale = self._world.promises.stale(all_scopes, asked, age, has_tags=namespace == TAGGED)
            if stale:
                self._wrong(kind, f"{age:.3f} s old ({tier}), but {stale}", asked)

    async def _embed_stream(self) -> None:
        texts = [self._some(self._world.texts) for _ in range(_STREAMED)]
        starts = range(0, _STREAMED, _STREAM_BATCH)
        batches = [texts[start : start + _STREAM_BATCH] for start in starts]

        async def ask(client: AsyncClient) -> list[EmbedResult]:
            namespace = self._in(PLAIN)
            stream = client.embed_stream(
                texts, batch_size=_STREAM_BATCH, namespace=namespace, timeout=DEADLINE
            )
            return [one async for one in stream]

        reply = await self._caller.call(
            "stream",
            ask,
            needs=frozenset({ENCODER}),
            batches=batches,
            hot=self._hot(texts),
            deadline=DEADLINE * len(batches),
        )
        if reply is None:
            return
        self._keep(texts, reply.asked)
        self._answered("stream", reply, [tier for one in reply.value for tier in one.tiers])
        if [text for one in reply.value for text in one.inputs] != texts:
            self._wrong("stream", "the inputs are others", reply.asked)
        for one in reply.value:
            self._check_vectors("stream", list(map(str, one.inputs)), one, reply.asked)

    # --- Invalidations -------------------------------------------------------------------------

    async def _invalidate_tag(self) -> None:
        tag = self._rng.choice(TAGS)
        await self._invalidate(("tag", tag), TAGGED, tags=[tag])

    async def _invalidate_dropped(self) -> None:
        if self._rng.random() < 0.8:
            text = self._some(self._world.few_texts)
            await self._invalidate(("input", text), DROPPED, inputs=[text])
        else:
            target = self._rng.choice([{"whole_namespace": True}, {"kind": "embed"}])
            await self._invalidate(("namespace",), DROPPED, **target)

    async def _invalidate(self, scope: tuple[str, ...], namespace: str, **target: Any) -> None:
        reply = await self._caller.call(
            "invalidate",
            lambda client: client.invalidate(namespace=self._in(namespace), **target),
            needs=frozenset({NEWS}),
        )
        if reply is not None:
            self._answered("invalidate", reply, [])
            self._world.promises.invalidated(scope, reply.asked)

    # --- Documents -----------------------------------------------------------------------------

    async def _search(self) -> None:
        query = self._rng.choice(self._world.queries)
        lang, top_k = self._rng.choice(["", *LANGS]), self._rng.choices([2, 5, 50], [4, 4, 1])[0]
        where = {"lang": lang} if lang else None
        reply = await self._caller.call(
            "search",
            lambda client: client.search(query, namespace=self._in(DOCS), where=where, top_k=top_k),
            needs=frozenset({ENCODER, INDEX}),
        )
        if reply is None:
            return
        self._answered("search", reply, [reply.value.tier])
        found = [
            Found(
                hit.id,
                int(hit.metadata.get("version", 0)),
                hit.content,
                str(hit.metadata.get("lang")),
                hit.score,
            )
            for hit in reply.value.results
        ]
        reason = self._world.documents.wrong(query, lang, top_k, found, reply.asked)
        if reason:
            age = f"a list {reply.value.age:.3f} s old ({reply.value.tier}): "
            self._wrong("search", age + reason, reply.asked)

    async def _upsert(self) -> None:
        names = self._rng.sample(range(_DOCUMENTS_A_CLIENT), self._rng.randint(1, 2))
        changes = {self._name(name): self._change() for name in names}
        documents = [
            Document(name, change.content or "", {"lang": change.lang, "version": change.version})
            for name, change in changes.items()
        ]
        await self._write(
            "upsert",
            changes,
            lambda client: client.upsert(documents, namespace=self._in(DOCS)),
            needs=frozenset({ENCODER, INDEX, NEWS}),
        )

    async def _delete(self) -> None:
        name = self._name(self._rng.randrange(_DOCUMENTS_A_CLIENT))
        self._versions += 1
        change = Change(self._versions, None, "", time.time())
        await self._write(
            "delete",
            {name: change},
            lambda client: client.delete([name], namespace=self._in(DOCS)),
            needs=frozenset({INDEX, NEWS}),
        )

    async def _write(
        self,
        kind: str,
        changes: dict[str, Change],
        ask: Callable[[AsyncClient], Awaitable[Any]],
        *,
        needs: frozenset[str],
    ) -> None:
        for name, change in changes.items():
            self._world.documents.history[name].append(change)

        async def noted(client: AsyncClient) -> Any:
            try:
                return await ask(client)
            except BaseException:
                for change in changes.values():
                    change.failed_at = time.time()
                raise

        reply = await self._caller.call(kind, noted, needs=needs)
        if reply is not None:
            self._answered(kind, reply, [])
            for change in changes.values():
                change.done = reply.asked

    def _change(self) -> Change:
        self._versions += 1
        content = self._some(self._world.contents)
        return Change(self._versions, content, self._rng.choice(LANGS), time.time())

    def _name(self, number: int) -> str:
        """The name of one of the documents that only this client writes."""
        return f"doc-{self._number}-{number}"

    # --- Generations ---------------------------------------------------------------------------

    async def _generate(self) -> None:
        prompt = self._rng.choice(self._world.prompts)
        reply = await self._caller.call(
            "generate",
            lambda client: client.generate(prompt.text, timeout=DEADLINE, **prompt.options),
            needs=_NOTHING,
        )
        if reply is not None:
            self._answered("generate", reply, [reply.value.tier])
            self._check_said("generate", prompt, reply.value, reply.asked)

    async def _generate_stream(self) -> None:
        prompt = self._rng.choice(self._world.prompts)

        async def ask(client: AsyncClient) -> tuple[str, Any]:
            stream = client.generate_stream(prompt.text, timeout=DEADLINE, **prompt.options)
            async with aclosing(stream):
                said = "".join([piece async for piece in stream])
            return said, stream.result

        deadline = DEADLINE * prompt.max_tokens
        reply = await self._caller.call("generate stream", ask, needs=_NOTHING, deadline=deadline)
        if reply is None:
            return
        said, result = reply.value
        self._answered("generate stream", reply, [result.tier])
        self._check_said("generate stream", prompt, result, reply.asked)
        if said != result.text:
            self._wrong("generate stream", "the pieces are not the whole", reply.asked)

    def _check_said(self, kind: str, prompt: Prompt, result: Any, asked: Asked) -> None:
        expected = self._world.truth.said[prompt]
        if (result.text, tuple(result.tokens)) != (expected.text, expected.tokens):
            self._wrong(kind, f"another answer ({result.tier})", asked)

    # --- For all of them -----------------------------------------------------------------------

    def _some(self, texts: Sequence[str]) -> str:
        """One of them; the first ones more often."""
        return texts[int(len(texts) * self._rng.random() ** 2)]

    def _in(self, namespace: str) -> str:
        return f"{self._world.name}-{namespace}"

    def _answered(self, kind: str, reply: Reply[Any], tiers: Iterable[str]) -> None:
        self._world.record.answered(
            kind, list(tiers), reply.seconds, sidecar_was_down=reply.sidecar_was_down
        )

    def _wrong(self, kind: str, words: str, asked: Asked) -> None:
        self._world.record.violated(
            WRONG, f"{kind} at {asked.sidecar}: {words}", asked.start, asked.end
        )
