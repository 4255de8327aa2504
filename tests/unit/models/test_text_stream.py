from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from sidecar.models.text_stream import TextStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LINES = ["the thing there is the 東京 thing", "Hello, wörld! isn't it, über café? 🙂🙃", "a\n\n  b"]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>", "<|start|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.add_tokens([AddedToken("ab cd €"), AddedToken("Ġx")])
    return tokenizer


def sequence_of_byte_level() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=90, special_tokens=["[UNK]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=90, special_tokens=["<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def end_of_word() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=90,
        special_tokens=["<s>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As SentencePiece models are converted: unknown characters are tokens of single bytes."""
    names = ["<s>", "▁", "▁▁", "▁the", "the", "▁a", "a", ",", *(f"<0x{b:02X}>" for b in range(256))]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def no_decoder() -> Tokenizer:
    tokenizer = word_piece()
    tokenizer.decoder = None
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    make.__name__: make
    for make in (
        byte_level,
        sequence_of_byte_level,
        word_piece,
        metaspace,
        end_of_word,
        byte_fallback,
        no_decoder,
    )
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def bytes_only() -> Tokenizer:
    return byte_level()


def some_tokens(tokenizer: Tokenizer, data: st.DataObject) -> list[int]:
    """Any tokens at all, unknown ones too, but for broken runs of bytes of a byte fallback."""
    size = tokenizer.get_vocab_size()
    first_byte = tokenizer.token_to_id("<0x00>")
    if first_byte is None:
        return data.draw(st.lists(st.integers(0, size + 3), max_size=40))
    characters = (st.just(" ") | st.characters(codec="utf-8")).map(
        lambda c: [first_byte + b for b in c.encode()]
    )
    others = st.integers(0, first_byte - 1).map(lambda token: [token])
    return [*chain.from_iterable(data.draw(st.lists(characters | others, max_size=20)))]


def stops_in(text: str, data: st.DataObject) -> list[str]:
    """Stop strings, many of which are in the text or begin in it."""
    stops = data.draw(st.lists(st.text("the ,\ufffdab", min_size=1, max_size=4), max_size=2))
    if text:
        for _ in range(data.draw(st.integers(0, 3))):
            start = data.draw(st.integers(0, len(text) - 1))
            part = text[start : start + data.draw(st.integers(1, 8))]
            stops.append(part + data.draw(st.sampled_from(["", "", "the", "\ufffd"])))
    return stops


def cut(text: str, stop: Sequence[str]) -> str:
    return text[: min((place for s in stop if (place := text.find(s)) >= 0), default=len(text))]


def tell(stream: TextStream, tokens: Sequence[int]) -> list[str]:
    return [stream.add(token) for token in tokens]


@given(st.data())
def test_what_is_told_is_the_text_of_all_tokens_without_special_ones(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    tokens = some_tokens(tokenizer, data)
    stream = TextStream(tokenizer, [])
    assert "".join(tell(stream, tokens)) + stream.finish() == tokenizer.decode(tokens)
    assert not stream.stopped


@given(st.data())
def test_what_is_told_ends_before_the_first_stop_string(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    tokens = some_tokens(tokenizer, data)
    text = tokenizer.decode(tokens)
    stop = stops_in(text, data)
    stream = TextStream(tokenizer, stop)
    assert "".join(tell(stream, tokens)) + stream.finish() == cut(text, stop)
    assert stream.stopped == any(string in text for string in stop)


@given(st.data())
def test_all_is_told_that_can_no_longer_change(bytes_only: Tokenizer, data: st.DataObject) -> None:
    tokens = some_tokens(bytes_only, data)
    stop = stops_in(bytes_only.decode(tokens), data)
    stream, told = TextStream(bytes_only, stop), ""
    for count, token in enumerate(tokens, 1):
        told += stream.add(token)
        text = bytes_only.decode(tokens[:count])
        held = cut(text, stop)[len(told) :]
        # Held back: an incomplete character, or what begins a stop string, or both.
        begins = {held, held.removesuffix("\ufffd")} - {""}
        assert not held or any(s.startswith(b) for s in [*stop, "\ufffd"] for b in begins)


def test_a_character_of_several_tokens_is_told_when_it_is_complete(bytes_only: Tokenizer) -> None:
    tokens = bytes_only.encode("é€x").ids
    stream = TextStream(bytes_only, [])
    assert [text for text in tell(stream, tokens) if text] == ["é", "€", "x"]
    assert len(tokens) > 3


def test_an_incomplete_character_at_the_end_is_told_as_a_replacement(bytes_only: Tokenizer) -> None:
    stream = TextStream(bytes_only, [])
    assert "".join(tell(stream, bytes_only.encode("ö€").ids[:-1])) == "ö"
    assert stream.finish() == "\ufffd"


def test_bytes_that_are_no_text_hold_nothing_back_for_long(bytes_only: Tokenizer) -> None:
    (broken,) = [token for token in range(300) if bytes_only.id_to_token(token) == "ÿ"]
    stream = TextStream(bytes_only, [])
    assert tell(stream, [broken] * 500) == ["\ufffd"] * 500


def test_bytes_of_a_fallback_are_told_character_by_character() -> None:
    tokenizer = byte_fallback()
    stream = TextStream(tokenizer, [])
    tokens = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "€€".encode()] + [3]
    assert tell(stream, tokens) == ["", "", "€", "", "", "€", " the"]


def test_text_that_may_be_the_beginning_of_a_stop_string_is_held_back(
    bytes_only: Tokenizer,
) -> None:
    stream = TextStream(bytes_only, ["xyz"])
    assert tell(stream, bytes_only.encode("axyaxyz").ids) == ["a", "", "", "xya", "", "", ""]
    assert stream.stopped
    assert stream.finish() == ""


def test_nothing_is_told_once_a_stop_string_came(bytes_only: Tokenizer) -> None:
    stream = TextStream(bytes_only, ["x"])
    assert tell(stream, bytes_only.encode("axbxc").ids) == ["a", "", "", "", ""]
    assert stream.finish() == ""


def test_of_two_stop_strings_the_one_that_begins_first_counts_even_if_it_ends_later(
    bytes_only: Tokenizer,
) -> None:
    stream = TextStream(bytes_only, ["bc", "abcd"])
    assert tell(stream, bytes_only.encode("xabc").ids) == ["x", "", "", ""]
    assert not stream.stopped
    assert stream.add(bytes_only.token_to_id("d")) == ""
    assert stream.stopped


def test_a_stop_string_that_waited_for_a_longer_one_counts_at_the_end(
    bytes_only: Tokenizer,
) -> None:
    stream = TextStream(bytes_only, ["bc", "abcd"])
    tell(stream, bytes_only.encode("xabc").ids)
    assert stream.finish() == "a"
    assert stream.stopped


def test_a_stop_string_within_a_longer_token_is_found() -> None:
    tokenizer = byte_level()
    stream = TextStream(tokenizer, [" c"])
    assert stream.add(tokenizer.token_to_id("ab cd €")) == "ab"
    assert stream.stopped


def test_special_and_unknown_tokens_have_no_text(bytes_only: Tokenizer) -> None:
    stream = TextStream(bytes_only, [])
    tokens = [bytes_only.token_to_id("<|start|>"), 10_000, bytes_only.token_to_id("<|end|>")]
    assert tell(stream, tokens) == ["", "", ""]
