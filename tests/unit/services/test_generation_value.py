from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.generation import Completion, Piece
from sidecar.services.generation_value import (
    StoredCompletion,
    pack_completion,
    read_completion,
    read_prompt,
)

TOKENS = st.lists(st.integers(0, 2**16 - 1) | st.integers(0, 2**32 - 1), max_size=4).map(tuple)
TEXTS = st.text(max_size=10) | st.integers(100, 20_000).map("ü".__mul__)
COMPLETIONS = st.builds(
    Completion,
    pieces=st.lists(st.builds(Piece, TEXTS, TOKENS), max_size=8).map(tuple),
    finish_reason=st.sampled_from(["stop", "length", "filtered"]),
    prompt_tokens=st.integers(0, 2**32 - 1),
    completion_tokens=st.integers(0, 2**32 - 1),
)
NOT_WHOLE = r"an answer|codec can.t decode"
SHORT = Completion((Piece("Hé", (70_000,)), Piece("", (7, 8)), Piece("🙂")), "length", 300, 3)


@given(COMPLETIONS, TEXTS)
def test_an_answer_comes_back_in_its_pieces(completion: Completion, prompt: str) -> None:
    assert read_completion(pack_completion(completion, prompt)) == StoredCompletion(
        completion.pieces,
        completion.finish_reason,
        completion.prompt_tokens,
        completion.completion_tokens,
        prompt,
    )


@given(COMPLETIONS, TEXTS)
def test_the_prompt_is_read_without_the_rest(completion: Completion, prompt: str) -> None:
    payload = pack_completion(completion, prompt)
    assert read_prompt(payload) == prompt
    size_bytes = 1 if len(prompt.encode()) < 0x80 else 2 if len(prompt.encode()) < 1 << 14 else 3
    assert read_prompt(payload[: 1 + size_bytes + len(prompt.encode())]) == prompt


def test_an_answer_of_very_many_pieces_comes_back() -> None:
    pieces = tuple(Piece("ab"[: i % 3], tuple(range(i % 2 * 3))) for i in range(100_000))
    completion = Completion(pieces, "stop", 1, 150_000)
    assert read_completion(pack_completion(completion, "")).pieces == pieces


def test_a_short_answer_takes_a_few_bytes_a_token() -> None:
    pieces = tuple(Piece(" the", (token,)) for token in range(100))
    payload = pack_completion(Completion(pieces, "stop", 10, 100), "Hello")
    assert len(payload) < 100 * (len(" the") + 4) + 25


@given(COMPLETIONS, st.data())
def test_an_answer_that_was_cut_short_or_goes_on_is_an_error(
    completion: Completion, data: st.DataObject
) -> None:
    payload = pack_completion(completion, "prompt")
    with pytest.raises(ValueError, match=NOT_WHOLE):
        read_completion(payload[: data.draw(st.integers(0, len(payload) - 1))])
    with pytest.raises(ValueError, match=NOT_WHOLE):
        read_completion(payload + data.draw(st.binary(min_size=1, max_size=5)))


def test_every_cut_of_an_answer_is_an_error() -> None:
    payload = pack_completion(SHORT, "prompt")
    for size in range(len(payload)):
        with pytest.raises(ValueError, match=NOT_WHOLE):
            read_completion(payload[:size])


@given(st.binary(max_size=60), st.data())
def test_any_other_bytes_are_an_error_or_an_answer_but_nothing_worse(
    other: bytes, data: st.DataObject
) -> None:
    payload = pack_completion(SHORT, "prompt")
    place = data.draw(st.integers(0, len(payload)))
    for garbled in (other, b"\x01" + other, payload[:place] + other + payload[place + 1 :]):
        try:
            assert isinstance(read_completion(garbled), StoredCompletion)
        except ValueError:
            continue


@pytest.mark.parametrize("first", [0, 2, 255])
def test_another_format_is_an_error(first: int) -> None:
    payload = bytes([first]) + pack_completion(SHORT, "prompt")[1:]
    for read in (read_completion, read_prompt):
        with pytest.raises(ValueError, match="another format"):
            read(payload)


def test_a_number_that_never_ends_is_an_error() -> None:
    with pytest.raises(ValueError, match="too large a number"):
        read_prompt(b"\x01" + b"\xff" * 1000)


def test_half_a_surrogate_pair_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        pack_completion(SHORT, "\ud83d")
