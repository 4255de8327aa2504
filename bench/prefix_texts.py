"""Prompts of real text with exactly so many tokens, none of which begins like another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from bench.corpus import docstrings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ALL = 100_000


class Texts:
    """Words of the standard library's docstrings, each given once.

    A word begins with its space, where a byte-level tokenizer always begins a token: so the tokens
    of texts that are put together are those of the texts.
    """

    def __init__(self, pack: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(pack / "tokenizer.json"))
        self._words = self._each_word()

    def take(self, tokens: int) -> str:
        """The next words that have ``tokens`` tokens together. Raises `RuntimeError` at the end."""
        words = []
        missing = tokens
        for word, size in self._words:
            if size <= missing:
                words.append(word)
                missing -= size
            if not missing:
                break
        text = "".join(words)
        if len(self.ids(text)) != tokens:
            raise RuntimeError(f"there is no text of {tokens} tokens left")
        return text

    def ids(self, text: str) -> list[int]:
        """The text's tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _each_word(self) -> Iterator[tuple[str, int]]:
        for text in docstrings(_ALL):
            words = [f" {word}" for word in text.split()]
            encoded = self._tokenizer.encode_batch(words, add_special_tokens=False)
            yield from zip(words, map(len, encoded), strict=True)
