"""Turns the tokeniser in a GGUF file into the files of a Hugging Face tokeniser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTROL = 3  # the token type of what is never written by users


def tokenizer_json(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of ``tokenizer.json`` for a tokeniser of the kind "smollm".

    It is byte-level BPE: digits alone, then words as in GPT-2, then merges. Bytes that the
    vocabulary lacks (six control characters, and what UTF-8 has no use for) are left out. With an
    unknown token in their place, which this model has for the end of a text, users could end
    theirs. Raises `SetupError` if the metadata are those of another tokeniser.
    """
    kind = (metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise SetupError(f"the tokeniser is of the kind {kind}, not ('gpt2', 'smollm')")
    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata["tokenizer.ggml.token_type"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _special(number, token)
            for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
            if kind == _CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level()],
        },
        "post_processor": None,
        "decoder": _byte_level(),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of ``tokenizer_config.json``: the chat template, and names of tokens."""
    tokens = metadata["tokenizer.ggml.tokens"]

    def token(name: str) -> str:
        return str(tokens[metadata[f"tokenizer.ggml.{name}_token_id"]])

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(metadata["tokenizer.ggml.add_bos_token"]),
        "add_prefix_space": bool(metadata["tokenizer.ggml.add_space_prefix"]),
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding"),
        "unk_token": token("unknown"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"],
        "chat_template": metadata["tokenizer.chat_template"],
    }


def _byte_level() -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def _special(number: int, token: str) -> dict[str, Any]:
    return {
        "id": number,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
