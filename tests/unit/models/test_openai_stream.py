"""The events of a completion that is streamed: texts that are cut badly, and texts without end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.openai_stream import CompletionReader
from sidecar.models.types import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

ANY = st.characters(exclude_categories=())
SURROGATES = st.characters(categories=["Cs"])


def event(text: str) -> Any:
    return {"choices": [{"index": 0, "text": text}]}


def read_all(reader: CompletionReader, texts: Sequence[str]) -> list[str]:
    return [reader.read(event(text)) for text in texts]


def read(*texts: str) -> list[str]:
    """What comes of texts, and what is due at the end."""
    reader = CompletionReader(max_tokens=16)
    return [*read_all(reader, texts), reader.rest()]


def test_a_surrogate_pair_that_is_split_over_two_events_is_joined() -> None:
    assert read("a\ud83d", "\ude00b") == ["a", "\N{GRINNING FACE}b", ""]


def test_an_event_without_text_does_not_part_the_halves() -> None:
    assert read("\ud83d", "", "\ude00") == ["", "", "\N{GRINNING FACE}", ""]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a\ud83d"], ["a", "\ufffd"]),
        (["\ud83d", "b"], ["", "\ufffdb", ""]),
        (["\ude00b"], ["\ufffdb", ""]),
        (["\ud83d", "\ud83d", "\ude00"], ["", "\ufffd", "\N{GRINNING FACE}", ""]),
    ],
)
def test_half_of_a_pair_without_the_other_is_replaced(
    texts: list[str], expected: list[str]
) -> None:
    assert read(*texts) == expected


@given(st.lists(st.text(ANY | SURROGATES, min_size=1, max_size=3), max_size=8))
def test_however_a_text_is_split_it_is_the_same_and_utf8_can_hold_it(texts: list[str]) -> None:
    whole = "".join(texts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert "".join(read(*texts)) == whole
    assert all(piece.encode().decode() == piece for piece in read(*texts))


@pytest.mark.parametrize("text", ["a", "a" * 1000])
def test_an_answer_without_end_is_an_error(text: str) -> None:
    reader = CompletionReader(max_tokens=16)
    with pytest.raises(ModelError, match="far beyond max_tokens"):
        read_all(reader, [text] * 10_000)


@pytest.mark.parametrize("text", ["a" * 64, "abc"])
def test_a_long_answer_is_taken_if_as_many_tokens_were_asked_for(text: str) -> None:
    reader = CompletionReader(max_tokens=10_000)
    assert read_all(reader, [text] * 10_000) == [text] * 10_000


def test_an_answer_is_bounded_however_many_tokens_were_asked_for() -> None:
    reader = CompletionReader(max_tokens=2**32 - 1)
    with pytest.raises(ModelError):
        read_all(reader, ["a" * 2**20] * 64)
