"""What prompts become tokens, and which are refused before."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from sidecar.models.decoder_pack import DecoderPack, KVLayout
from sidecar.models.generation import GenerationRequest, Sampling
from sidecar.models.prompt_reader import PromptReader
from sidecar.models.types import InputRejectedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.models.generation import Prompt

CONTEXT = 8


class Scope:
    def key(self, parent: bytes, tokens: bytes) -> bytes:
        return parent + tokens


def byte_level(*words: str) -> Tokenizer:
    """The letters of these words in GPT-2's alphabet, and the words themselves."""
    letters = sorted({letter for word in words for letter in word} | set("abÐ¶"))
    merges = [(word[:end], word[end]) for word in words for end in range(1, len(word))]
    names = [*letters, *(left + right for left, right in merges)]
    vocabulary = {name: place for place, name in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges))))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def plain(*words: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@pytest.fixture
def open_reader(tmp_path: Path) -> Callable[..., PromptReader]:
    def open_(
        tokenizer: Tokenizer, template: str | None = None, context_tokens: int = CONTEXT
    ) -> PromptReader:
        path = tmp_path / "tokenizer.json"
        tokenizer.save(str(path))
        pack = DecoderPack(
            path=Path("none"),
            inputs=(),
            kv=KVLayout((), (), 1, 1, np.dtype(np.float32), is_in_place=True),
            vocabulary=1000,
            context_tokens=context_tokens,
            end_tokens=frozenset(),
            tokenizer=path,
            chat_template=template,
            special_tokens={},
            version="",
        )
        return PromptReader(pack)

    return open_


def request(prompt: Prompt) -> GenerationRequest:
    return GenerationRequest(prompt, Sampling(max_tokens=1), Scope())


TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("tokenizer", "longest"),
    [
        (byte_level("abcd"), "abcd"),
        # Two letters of the alphabet of bytes for one of the text.
        (byte_level("Ð¶"), "ж"),
        (byte_level("Ð¶ÑĪ"), "жш"),
        (plain("?", "a", "жш"), " жш"),
    ],
    ids=["one byte a letter", "a letter", "two bytes a letter", "not of bytes"],
)
def test_a_text_of_more_bytes_than_the_context_of_longest_tokens_is_refused_without_reading_it(
    open_reader: Callable[..., PromptReader], tokenizer: Tokenizer, longest: str
) -> None:
    reader = open_reader(tokenizer)
    assert len(reader.read(request(longest * (CONTEXT - 1)))) == CONTEXT - 1
    too_long = longest * CONTEXT + "a"
    most = CONTEXT * len(longest.encode())
    with pytest.raises(
        InputRejectedError,
        match=rf"the prompt has {most + 1} bytes, and this model reads 8 tokens of prompt and"
        rf" answer together: about 32 bytes of English, and of no text more than {most}; shorten",
    ):
        reader.read(request(too_long))


def test_added_tokens_count_by_their_own_letters(open_reader: Callable[..., PromptReader]) -> None:
    tokenizer = byte_level("aa")
    tokenizer.add_special_tokens(["<жжж>"])
    reader = open_reader(tokenizer)
    assert len(reader.read(request("<жжж>" * 7))) == 7
    with pytest.raises(InputRejectedError, match=r"no text more than 64;"):
        reader.read(request("a" * 65))


def test_a_normalizer_does_not_hide_an_alphabet_of_bytes(
    open_reader: Callable[..., PromptReader],
) -> None:
    tokenizer = byte_level("Ð¶Ð¶")
    tokenizer.normalizer = normalizers.NFD()
    with pytest.raises(InputRejectedError, match=r"no text more than 32;"):
        open_reader(tokenizer).read(request("a" * 33))


def test_messages_are_counted_together_before_the_template_is_tried(
    open_reader: Callable[..., PromptReader],
) -> None:
    reader = open_reader(byte_level("aaaa"), "{{ raise_exception('tried') }}")
    with pytest.raises(InputRejectedError, match="tried"):
        reader.read(request((("user", "a" * 16), ("user", "a" * 16))))
    with pytest.raises(InputRejectedError, match="the prompt has 33 bytes"):
        reader.read(request((("user", "a" * 16), ("user", "a" * 17))))


def test_what_a_template_makes_of_messages_is_counted_too(
    open_reader: Callable[..., PromptReader],
) -> None:
    reader = open_reader(byte_level("aaaa"), TEMPLATE * 3)
    with pytest.raises(InputRejectedError, match="the prompt has 36 bytes"):
        reader.read(request((("user", "a" * 12),)))


def test_a_tokenizer_that_cuts_and_pads_does_neither_to_a_prompt(
    open_reader: Callable[..., PromptReader],
) -> None:
    tokenizer = byte_level("aa")
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=6)
    reader = open_reader(tokenizer)
    assert len(reader.read(request("ab" * 2))) == 4


def test_other_threads_work_while_a_long_prompt_is_read(
    open_reader: Callable[..., PromptReader],
) -> None:
    reader = open_reader(byte_level("aa"), context_tokens=10**6)
    text = request("ab a" * 20_000)
    begin, has_run = threading.Event(), threading.Event()

    def other() -> None:
        begin.wait()
        has_run.set()

    thread = threading.Thread(target=other)
    thread.start()
    interval = sys.getswitchinterval()
    # Threads only change places where one of them lets go of the interpreter's lock.
    sys.setswitchinterval(600)
    try:
        begin.set()
        for _ in range(20):
            reader.read(text)
            if has_run.is_set():
                break
        assert has_run.is_set()
    finally:
        sys.setswitchinterval(interval)
        thread.join()
