"""Loads ``tokenizer.json``, which may come from anywhere, into the library that runs it."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_VOCABULARY = 2**20
"""Tokens of a model; the largest published vocabularies have half as many."""


def load_tokenizer(path: Path) -> Tokenizer:
    """Returns the tokeniser in a file. Raises `SetupError` if it cannot be used."""
    with usable(path):
        _check_merges(json.loads(path.read_bytes()))
        tokenizer = Tokenizer.from_file(str(path))
        size = tokenizer.get_vocab_size()
    if size > MAX_VOCABULARY:
        raise SetupError(f"{path}: has {size} tokens, more than {MAX_VOCABULARY}")
    return tokenizer


@contextlib.contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turns whatever the library raises over a file into `SetupError`."""
    try:
        yield
    except BaseException as error:
        # A panic of the library, which is written in Rust, is not an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise SetupError(f"{path}: not a readable tokenizer ({error})") from error


def _check_merges(content: Any) -> None:
    """Raises `ValueError` for merges of BPE that do not have the prefix which they must have.

    The library takes it off unseen, and ends the process if that leaves half of a character.
    """
    model = content["model"]
    prefix = model.get("continuing_subword_prefix")
    if not prefix or "merges" not in model:
        return
    for merge in model["merges"]:
        _, second = merge.split(" ") if isinstance(merge, str) else merge
        if not second.startswith(prefix):
            raise ValueError("a merge lacks the continuing_subword_prefix")
