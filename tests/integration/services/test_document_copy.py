"""Documents that are copied to another model while they change, in a real index."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.index.memory import MemoryIndex
from sidecar.index.types import Chunk, Collection, Document, Revision
from sidecar.models.types import InputRejectedError, ModelInfo, QueueFullError
from sidecar.services.document_copy import DocumentCopy
from sidecar.services.errors import CallError
from sidecar.services.ledger import pair
from sidecar.services.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

DIMENSIONS = 4
OLD = Collection("n", "c", "old", "1", DIMENSIONS)
NEW = Collection("n", "c", "new", "2", DIMENSIONS)


def digest(*parts: str) -> bytes:
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


def vector(model: str, text: str) -> np.ndarray[Any, Any]:
    seed = int.from_bytes(digest(model, text)[:4], "little")
    return np.random.default_rng(seed).normal(size=DIMENSIONS).astype(np.float32)


def document(name: str, text: str, *, model: str = "old", label: str = "") -> Document:
    """A document of two chunks."""
    chunks = tuple(Chunk(part, text + part, vector(model, text + part)) for part in ("", "2"))
    content = digest(text)
    revision = Revision(content, digest(text, label))
    return Document(name, chunks, {"label": label}, (), revision)


@dataclass
class Model:
    """The model that documents are copied to."""

    info: ModelInfo = field(
        default_factory=lambda: ModelInfo("new", "2", DIMENSIONS, 64, True, False, "cpu")
    )


class World:
    """An index, and what stands between the copy and it; ``meanwhile`` is done while it embeds."""

    def __init__(self) -> None:
        self.index = MemoryIndex()
        self.model = Model()
        self.meanwhile: list[Callable[[], Awaitable[None]]] = []
        self.embedded: list[str] = []
        self.bad: dict[str, list[Exception]] = {}
        self.slept: list[float] = []
        self.copy = self.new_copy()

    def new_copy(self) -> DocumentCopy:
        """A copy that knows no more than what is in the index."""
        source, pace = ("old", "1"), Pace(0, sleep=self.sleep)
        target: Any = self.model
        ledger = pair(source, ("new", "2"))
        return DocumentCopy(self.index, self, source, target, pace, [ledger])

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def embed_documents(self, namespace: str, model: Any, texts: Sequence[str]) -> list[Any]:
        assert model is self.model
        if self.meanwhile:
            await self.meanwhile.pop(0)()
        self.embedded += texts
        return [
            self.bad[text].pop() if self.bad.get(text) else vector(model.info.name, text)
            for text in texts
        ]

    async def store(self, collection: Collection, documents: Sequence[Document]) -> None:
        await self.index.upsert(collection, documents)

    async def remove(self, collection: Collection, ids: Sequence[str]) -> None:
        await self.index.delete(collection, ids)

    async def put(self, where: Collection, name: str, text: str, label: str = "") -> None:
        await self.index.upsert(where, [document(name, text, model=where.model, label=label)])

    async def take(self, where: Collection, name: str) -> None:
        await self.index.delete(where, [name])

    async def contents(self, where: Collection) -> dict[str, tuple[str, Any]]:
        """Text and label by document; that each has the vectors of its model is looked at."""
        found = {}
        for one in await self.index.documents(where, "", 1000):
            for chunk in one.chunks:
                assert np.allclose(chunk.vector, vector(where.model, chunk.text), atol=1e-6)
            found[one.id] = (one.chunks[0].text, one.metadata["label"])
        return found

    async def settle(self, *, target_wins: bool = False) -> None:
        while await self.copy.run(target_wins=target_wins):
            pass

    async def bring_back(self) -> None:
        """Copies from the new model to the old one, after a restart."""
        self.model = Model(replace(self.model.info, name="old", version="1"))
        target: Any = self.model
        pace = Pace(0, sleep=self.sleep)
        ledger = pair(("old", "1"), ("new", "2"))
        copy = DocumentCopy(self.index, self, ("new", "2"), target, pace, [ledger])
        while await copy.run(target_wins=True):
            pass


@pytest.fixture
def world() -> World:
    return World()


async def test_documents_are_there_with_the_vectors_of_the_other_model(world: World) -> None:
    for number in range(150):
        await world.put(OLD, f"{number:03}", f"text {number}", "label")
    await world.settle()
    assert await world.contents(NEW) == await world.contents(OLD)
    assert len(await world.contents(NEW)) == 150


async def test_what_is_there_already_is_not_embedded_again(world: World) -> None:
    for name in "abc":
        await world.put(OLD, name, name)
    await world.settle()
    world.embedded.clear()
    world.copy = world.new_copy()
    await world.put(OLD, "b", "changed")
    await world.settle()
    assert world.embedded == ["changed", "changed2"]


async def test_a_change_of_labels_alone_comes_over_too(world: World) -> None:
    await world.put(OLD, "a", "text", "before")
    await world.settle()
    await world.put(OLD, "a", "text", "after")
    await world.settle()
    assert await world.contents(NEW) == {"a": ("text", "after")}


async def test_other_models_versions_and_namespaces_are_left_alone(world: World) -> None:
    others = [replace(OLD, version="0"), replace(OLD, model="third"), replace(NEW, namespace="m")]
    for number, other in enumerate(others):
        await world.put(other, f"{number}", "text")
    await world.put(OLD, "a", "text")
    await world.settle()
    assert set(await world.contents(NEW)) == {"a"}
    assert set(await world.contents(replace(NEW, namespace="m"))) == {"2"}


async def test_every_collection_of_the_model_is_copied(world: World) -> None:
    twins = [
        (replace(side, namespace=namespace, name=name))
        for namespace in ("n", "m")
        for name in ("c", "d")
        for side in (OLD, NEW)
    ]
    for old in twins[::2]:
        await world.put(old, "a", f"{old.namespace} {old.name}")
    await world.settle()
    for old, new in zip(twins[::2], twins[1::2], strict=True):
        assert await world.contents(new) == {"a": (f"{old.namespace} {old.name}", "")}


async def test_a_document_that_was_removed_meanwhile_is_removed_there(world: World) -> None:
    await world.put(OLD, "a", "a")
    await world.put(OLD, "b", "b")
    await world.settle()
    await world.take(OLD, "a")
    await world.settle()
    assert set(await world.contents(NEW)) == {"b"}


async def test_the_last_document_of_a_collection_is_removed_there_too(world: World) -> None:
    await world.put(OLD, "a", "a")
    await world.settle()
    await world.take(OLD, "a")
    await world.settle()
    assert await world.contents(NEW) == {}


async def test_documents_that_somebody_else_put_there_stay(world: World) -> None:
    await world.put(NEW, "theirs", "text")
    await world.put(OLD, "a", "a")
    await world.settle()
    await world.take(OLD, "a")
    await world.settle()
    assert set(await world.contents(NEW)) == {"theirs"}


async def test_a_document_that_somebody_else_puts_there_after_it_was_removed_stays(
    world: World,
) -> None:
    await world.put(OLD, "a", "a")
    await world.put(OLD, "b", "b")
    await world.settle()
    await world.take(OLD, "a")
    await world.settle()
    await world.put(NEW, "a", "theirs")
    await world.settle()
    assert set(await world.contents(NEW)) == {"a", "b"}


async def test_a_copy_that_goes_on_knows_what_the_one_before_has_brought(world: World) -> None:
    await world.put(OLD, "a", "a")
    await world.put(OLD, "b", "b")
    await world.copy.run(target_wins=False)
    await world.take(OLD, "a")
    world.copy = world.new_copy()
    await world.settle()
    assert set(await world.contents(NEW)) == {"b"}


async def test_a_document_that_cannot_be_embedded_is_counted_and_left_out(world: World) -> None:
    await world.put(OLD, "a", "a")
    await world.put(OLD, "b", "b")
    world.bad["b2"] = [InputRejectedError("no")] * 9
    await world.settle()
    assert set(await world.contents(NEW)) == {"a"}
    assert world.copy.progress.failed == 1


async def test_a_vector_of_zeros_is_no_vector(world: World) -> None:
    await world.put(OLD, "a", "a")
    zeros: Any = np.zeros(DIMENSIONS, np.float32)
    world.bad["a"] = [zeros] * 9
    await world.settle()
    assert await world.contents(NEW) == {}
    assert world.copy.progress.failed == 1


async def test_what_finds_the_queue_full_is_embedded_later(world: World) -> None:
    await world.put(OLD, "a", "a")
    await world.put(OLD, "b", "b")
    world.bad["b"] = [QueueFullError("full")] * 3
    await world.settle()
    assert set(await world.contents(NEW)) == {"a", "b"}
    assert world.embedded.count("a") == 1
    assert len(world.slept) == 3


async def test_a_model_that_stays_away_ends_the_copy_with_its_status(world: World) -> None:
    await world.put(OLD, "a", "a")
    world.bad["a"] = [QueueFullError("full")] * 99
    with pytest.raises(CallError, match="full") as error:
        await world.settle()
    assert error.value.code.name == "RESOURCE_EXHAUSTED"


async def test_a_model_that_becomes_another_version_ends_the_copy(world: World) -> None:
    async def change() -> None:
        world.model.info = replace(world.model.info, version="3")

    await world.put(OLD, "a", "a")
    world.meanwhile = [change]
    with pytest.raises(CallError, match="another version") as error:
        await world.settle()
    assert error.value.code.name == "ABORTED"
    assert await world.contents(NEW) == {}


async def test_progress_is_told(world: World) -> None:
    for name in "abc":
        await world.put(OLD, name, name)
    await world.copy.count()
    assert (world.copy.progress.done, world.copy.progress.total) == (0, 3)
    await world.settle()
    assert (world.copy.progress.done, world.copy.progress.total) == (3, 3)


async def test_after_the_switch_what_was_written_there_is_not_touched(world: World) -> None:
    for name in ("changed here", "changed there", "both", "gone here", "gone there", "same"):
        await world.put(OLD, name, "text")
    await world.settle()
    await world.put(OLD, "changed here", "late")
    await world.put(OLD, "both", "late")
    await world.take(OLD, "gone here")
    await world.put(OLD, "new here", "late")
    await world.put(NEW, "changed there", "newer")
    await world.put(NEW, "both", "newer")
    await world.take(NEW, "gone there")
    await world.put(NEW, "new there", "newer")
    await world.settle(target_wins=True)
    assert {name: text for name, (text, _) in (await world.contents(NEW)).items()} == {
        "changed here": "late",
        "new here": "late",
        "changed there": "newer",
        "both": "newer",
        "new there": "newer",
        "same": "text",
    }


async def test_what_is_written_there_while_a_straggler_is_embedded_is_not_touched(
    world: World,
) -> None:
    await world.put(OLD, "a", "text")
    await world.settle()
    await world.put(OLD, "a", "late")
    world.meanwhile = [lambda: world.put(NEW, "a", "newer")]
    await world.settle(target_wins=True)
    assert await world.contents(NEW) == {"a": ("newer", "")}


async def test_a_copy_in_the_other_direction_goes_by_the_same_ledger(world: World) -> None:
    for name in ("same", "changed there", "gone there", "changed here since", "gone here since"):
        await world.put(OLD, name, "text")
    await world.settle()
    await world.put(NEW, "changed there", "newer")
    await world.put(NEW, "new there", "newer")
    await world.take(NEW, "gone there")
    await world.put(NEW, "both", "newer")
    # By now the old model has writers of its own again.
    await world.put(OLD, "changed here since", "newest")
    await world.take(OLD, "gone here since")
    await world.put(OLD, "new here since", "newest")
    await world.put(OLD, "both", "newest")
    await world.bring_back()
    assert {name: text for name, (text, _) in (await world.contents(OLD)).items()} == {
        "same": "text",
        "changed there": "newer",
        "new there": "newer",
        "changed here since": "newest",
        "new here since": "newest",
        "both": "newest",
    }


async def test_when_all_was_removed_there_nothing_comes_back(world: World) -> None:
    await world.put(OLD, "a", "text")
    await world.settle()
    await world.take(NEW, "a")
    await world.bring_back()
    assert await world.contents(OLD) == {}


async def test_what_was_removed_after_it_was_brought_back_is_not_brought_back_again(
    world: World,
) -> None:
    await world.put(OLD, "a", "text")
    await world.settle()
    await world.put(NEW, "b", "text")
    await world.bring_back()
    await world.take(OLD, "b")
    await world.bring_back()
    assert set(await world.contents(OLD)) == {"a"}


async def test_pages_become_smaller_when_documents_have_many_chunks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    read = world.index.documents

    async def documents(collection: Collection, after: str, count: int) -> list[Document]:
        page = await read(collection, after, count)
        if collection == OLD:
            sizes.append(sum(len(one.chunks) for one in page))
        return page

    monkeypatch.setattr(world.index, "documents", documents)
    for number in range(80):
        large = document(f"{number:03}", "text")
        chunks = tuple(replace(large.chunks[0], id=str(part)) for part in range(100))
        await world.index.upsert(OLD, [replace(large, chunks=chunks)])
    await world.settle()
    assert max(sizes) <= 1024
    assert len(await world.contents(NEW)) == 80


names = st.sampled_from("abcdef")
edits = st.tuples(names, st.none() | st.sampled_from(["x", "y", "z"]))


@settings(max_examples=60)
@given(
    st.lists(edits, max_size=8),
    st.lists(st.lists(edits, max_size=3), max_size=6),
    st.lists(st.tuples(st.booleans(), edits), max_size=8),
    st.lists(edits, max_size=4),
)
def test_whatever_changes_when_nothing_is_lost_and_nothing_comes_back(
    before: list[tuple[str, str | None]],
    during: list[list[tuple[str, str | None]]],
    after: list[tuple[bool, tuple[str, str | None]]],
    theirs: list[tuple[str, str | None]],
) -> None:
    """``during`` happens while the copy embeds; ``after``, on either side, after the switch."""

    async def edit(
        world: World, where: Collection, edits: Sequence[tuple[str, str | None]]
    ) -> None:
        for name, text in edits:
            await (world.take(where, name) if text is None else world.put(where, name, text))

    async def run() -> None:
        world = World()
        await edit(world, NEW, [(name + " theirs", text) for name, text in theirs])
        kept = await world.contents(NEW)
        await edit(world, OLD, before)
        world.meanwhile = [lambda e=e: edit(world, OLD, e) for e in during]
        await world.settle()
        assert await world.contents(NEW) == await world.contents(OLD) | kept
        world.meanwhile.clear()
        switched = await world.contents(OLD)
        written = set()
        for there, (name, text) in after:
            await edit(world, NEW if there else OLD, [(name, text)])
            if there and (await world.contents(NEW)).get(name) != switched.get(name):
                written.add(name)
            elif there:
                written.discard(name)
        newer, late = await world.contents(NEW), await world.contents(OLD)
        world.copy = world.new_copy()
        await world.settle(target_wins=True)
        expected = {
            name: content
            for name in newer.keys() | late.keys()
            if (content := (newer if name in written or name in kept else late).get(name))
        }
        assert await world.contents(NEW) == expected
        await world.index.close()

    asyncio.run(run())
