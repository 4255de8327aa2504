"""A tokeniser from the metadata of a GGUF file, run by the library that will run it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from sidecar.models.errors import SetupError
from sidecar.models.gguf_tokenizer import tokenizer_config, tokenizer_json

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2", "Ċ Ċ"]
LACKING = "\N{NULL}"
BYTES = sorted(set(ByteLevel.alphabet()) - {"Ā"})  # which stands for the byte 0
TOKENS = [*SPECIAL, *BYTES, *(merge.replace(" ", "") for merge in MERGES)]
METADATA = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)),
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.add_space_prefix": False,
    "tokenizer.chat_template": "{{ messages }}",
    "llama.context_length": 8192,
}
TOKENIZER = Tokenizer.from_str(json.dumps(tokenizer_json(METADATA)))


def tokens(text: str) -> list[str]:
    return list(TOKENIZER.encode(text).tokens)


@given(st.text(st.characters(exclude_characters=LACKING, exclude_categories=["Cs"])))
def test_any_text_comes_back_as_it_was(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello", ["hello"]),
        ("hello world", ["hello", "Ġw", "o", "r", "l", "d"]),
        ("12", ["1", "2"]),  # digits stay alone, though there is a merge
        ("\n\n", ["ĊĊ"]),
        ("é", ["Ã", "©"]),
    ],
)
def test_merges_apply_within_words_and_digits_stay_alone(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


def test_control_tokens_are_one_token_wherever_they_stand() -> None:
    assert TOKENIZER.encode("<|im_start|>hello<|im_end|>").ids == [1, TOKENS.index("hello"), 2]


def test_control_tokens_are_not_part_of_decoded_text() -> None:
    assert TOKENIZER.decode([1, TOKENS.index("hello"), 2]) == "hello"


def test_a_byte_that_the_vocabulary_lacks_is_left_out() -> None:
    assert tokens(f"he{LACKING}llo") == ["he", "ll", "o"]


@pytest.mark.parametrize(
    "change", [{"tokenizer.ggml.pre": "llama-bpe"}, {"tokenizer.ggml.model": 1}]
)
def test_another_tokeniser_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match=r"the tokeniser is of the kind .*, not \('gpt2', 'smoll"):
        tokenizer_json(METADATA | change)


def test_the_configuration_has_the_chat_template_and_the_names_of_tokens() -> None:
    config = tokenizer_config(METADATA)
    assert config["chat_template"] == "{{ messages }}"
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert (config["pad_token"], config["unk_token"]) == ("<|im_end|>", "<|endoftext|>")
