"""What every index does: take strings as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from sidecar.index.filters import In, Not
from sidecar.index.types import Chunk, Document, Revision

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.index.types import Collection, Index, Scalar

    MakeDocument = Callable[..., Document]
    NewCollection = Callable[..., Collection]

ALL = 1000
QUERY = np.array([1, 0, 0, 0], np.float32)
ODD_STRINGS = [
    pytest.param("\"double\" 'single' `back`", id="quotes"),
    pytest.param("back\\slash \\n \\\\", id="backslashes"),
    pytest.param("line\nbreak\r\n\ttab", id="control"),
    pytest.param("größer 例 👩‍🔬 \u202e e\u0301", id="unicode"),
    pytest.param(" leading and trailing ", id="spaces"),
    pytest.param("a:b|c,d;e{f}[g]*?%_", id="separators"),
    pytest.param("true", id="looks like a truth value"),
    pytest.param("1", id="looks like a number"),
    pytest.param("null", id="looks like nothing"),
    pytest.param("x" * 1024, id="long"),
]


@pytest.mark.parametrize("odd", ODD_STRINGS)
async def test_odd_strings_are_taken_as_they_are(
    index: Index, collection: Collection, odd: str
) -> None:
    stored = document(odd, odd, {"a": odd, "b": odd + "b"}, (odd,))
    await index.upsert(collection, [stored, document(odd + "2", odd, {"a": odd + "b"}, ())])
    [hit] = await index.search(collection, QUERY, 10, In("a", (odd,)))
    assert (hit.document, hit.chunk, hit.text) == (odd, odd, odd)
    assert hit.metadata == stored.metadata
    assert hit.tags == (odd,)
    [back, _] = await index.documents(collection, "", 10)
    assert (back.id, back.chunks[0].id, back.chunks[0].text) == (odd, odd, odd)
    assert await index.revisions(collection, [odd, odd + "x"]) == [stored.revision, None]
    assert await index.delete(collection, [odd + "x", odd]) == [False, True]
    assert [one.id for one in await index.documents(collection, "", 10)] == [odd + "2"]


async def test_empty_strings_are_values_like_any_other(
    index: Index, collection: Collection
) -> None:
    await index.upsert(
        collection, [document("a", "", {"f": ""}, ("",), text=""), document("b", "", {}, ())]
    )
    [hit] = await index.search(collection, QUERY, 10, In("f", ("",)))
    assert (hit.document, hit.chunk, hit.text, hit.tags) == ("a", "", "", ("",))
    [hit] = await index.search(collection, QUERY, 10, Not(In("f", ("",))))
    assert hit.document == "b"


async def test_long_texts_come_back_whole(index: Index, collection: Collection) -> None:
    text = "Ein langer Text, größer als eine Seite. " * 20_000
    await index.upsert(collection, [document("d", "c", {"f": text[:5000]}, (), text=text)])
    [hit] = await index.search(collection, QUERY, 10, In("f", (text[:5000],)))
    assert hit.text == text


def document(
    name: str,
    chunk: str,
    metadata: dict[str, Scalar],
    tags: tuple[str, ...],
    text: str | None = None,
) -> Document:
    only = Chunk(chunk, chunk if text is None else text, QUERY)
    return Document(name, (only,), metadata, tags, Revision(b"content", b"whole"))
