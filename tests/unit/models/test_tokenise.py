"""Texts become tokens, whatever the tokeniser's file says of truncation and padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sidecar.models.errors import SetupError
from sidecar.models.tokenise import PairTokeniser, TextTokeniser
from sidecar.models.types import InputRejectedError

if TYPE_CHECKING:
    from pathlib import Path

CLS, SEP, ONE, TWO, UNKNOWN = 2, 3, 4, 5, 1


@pytest.fixture
def tokeniser(make_pack: Any) -> TextTokeniser:
    return TextTokeniser(make_pack.text() / "tokenizer.json", max_tokens=6)


def test_padding_and_truncation_of_the_file_are_overridden(tokeniser: TextTokeniser) -> None:
    (tokens,) = tokeniser(["one two one"])
    assert tokens.ids == [CLS, ONE, TWO, ONE, SEP]


def test_a_text_that_just_fits_is_not_truncated(tokeniser: TextTokeniser) -> None:
    (tokens,) = tokeniser(["one " * 4])
    assert (tokens.ids, tokens.truncated) == ([CLS, ONE, ONE, ONE, ONE, SEP], False)


def test_a_text_with_one_token_too_many_is_truncated(tokeniser: TextTokeniser) -> None:
    (tokens,) = tokeniser(["one " * 5])
    assert (tokens.ids, tokens.truncated) == ([CLS, ONE, ONE, ONE, ONE, SEP], True)


def test_an_empty_text_has_special_tokens_only(tokeniser: TextTokeniser) -> None:
    assert [tokens.ids for tokens in tokeniser(["", "  \n"])] == [[CLS, SEP], [CLS, SEP]]


def test_without_special_tokens_an_empty_text_has_none(make_pack: Any) -> None:
    path = make_pack.text(special_tokens=False) / "tokenizer.json"
    assert [tokens.ids for tokens in TextTokeniser(path, 6)(["", "one"])] == [[], [ONE]]


def test_words_behind_much_white_space_are_found(tokeniser: TextTokeniser) -> None:
    (tokens,) = tokeniser([" " * 100_000 + "one" + " " * 100_000 + "two"])
    assert (tokens.ids, tokens.truncated) == ([CLS, ONE, TWO, SEP], False)


def test_a_word_without_end_is_one_word(tokeniser: TextTokeniser) -> None:
    (tokens,) = tokeniser(["x" * 100_000])
    assert (tokens.ids, tokens.truncated) == ([CLS, UNKNOWN, SEP], False)


@pytest.fixture(scope="module")
def plain(minilm_folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@pytest.fixture(scope="module")
def cutting(minilm_folder: Path) -> TextTokeniser:
    return TextTokeniser(minilm_folder / "tokenizer.json", max_tokens=16)


pieces = st.sampled_from(
    ["a", " ", "word ", "é", "e\u0301", "\n", "你好", "🔥", "x" * 90, ". ", "ﬁ"]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(pieces, max_size=12), st.integers(1, 80))
def test_a_text_cut_before_tokenising_has_the_tokens_of_the_whole(
    plain: Tokenizer, cutting: TextTokeniser, parts: list[str], times: int
) -> None:
    text = "".join(parts) * times
    whole = plain.encode(text).ids
    (tokens,) = cutting([text])
    assert tokens.truncated == (len(whole) > 16)
    assert tokens.ids == (whole if len(whole) <= 16 else [*whole[:15], whole[-1]])


def test_a_long_text_is_read_no_further_than_needed(
    cutting: TextTokeniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    class Counting:
        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer = tokenizer

        def encode_batch_fast(self, texts: list[str]) -> Any:
            read.extend(map(len, texts))
            return self.tokenizer.encode_batch_fast(texts)

    monkeypatch.setattr(cutting, "_tokenizer", Counting(cutting._tokenizer))
    (tokens,) = cutting(["some words " * 100_000])
    assert tokens.truncated
    assert sum(read) < 1000


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(SetupError, match=r"tokenizer\.json: not a readable tokenizer"):
        TextTokeniser(tmp_path / "tokenizer.json", 6)


def test_a_limit_below_the_special_tokens_is_refused(make_pack: Any) -> None:
    with pytest.raises(SetupError, match=r"tokenizer\.json: its special tokens"):
        TextTokeniser(make_pack.text() / "tokenizer.json", 2)


# Pairs


def test_the_texts_of_a_pair_are_told_apart(make_pack: Any) -> None:
    path = make_pack.text() / "tokenizer.json"
    (tokens,) = PairTokeniser(path, max_tokens=8)([("one", "two two")])
    assert tokens.ids == [CLS, ONE, SEP, TWO, TWO, SEP]
    assert tokens.type_ids == [0, 0, 0, 1, 1, 1]
    assert tokens.special == [1, 0, 1, 0, 0, 1]


@pytest.fixture(scope="module")
def plain_pairs(minilm_folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(16, strategy="only_second")
    return tokenizer


@pytest.fixture(scope="module")
def cutting_pairs(minilm_folder: Path) -> PairTokeniser:
    return PairTokeniser(minilm_folder / "tokenizer.json", max_tokens=16)


@settings(max_examples=100, deadline=None)
@example("a " * 10, ["x" * 799 + "," + "y" * 150], 1)  # the first cut is inside the word of ys
@given(st.lists(pieces, max_size=3).map("".join), st.lists(pieces, max_size=12), st.integers(1, 80))
def test_a_passage_cut_before_tokenising_has_the_tokens_of_the_whole(
    plain_pairs: Tokenizer, cutting_pairs: PairTokeniser, query: str, parts: list[str], times: int
) -> None:
    passage = "".join(parts) * times
    try:
        whole = plain_pairs.encode(query, passage)
    except Exception:  # the library raises nothing more specific
        with pytest.raises(InputRejectedError, match=r"the query leaves no room"):
            cutting_pairs([(query, passage)])
        return
    (tokens,) = cutting_pairs([(query, passage)])
    assert (tokens.ids, tokens.type_ids) == (whole.ids, whole.type_ids)
    assert tokens.truncated == bool(whole.overflowing)


def test_special_tokens_of_a_pair_that_fill_the_limit_are_refused(make_pack: Any) -> None:
    with pytest.raises(SetupError, match=r"tokenizer\.json: its special tokens alone fill 3"):
        PairTokeniser(make_pack.text() / "tokenizer.json", 3)
