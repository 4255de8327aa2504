"""Turns texts into token ids, truncated to what the model reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tokenizers import Encoding

# A text is cut before it is tokenised, at first to this many characters a token.
_CHARS_A_TOKEN = 6
# A cut may split a word, and the pieces of what is left of it are not those of the word: WordPiece
# makes one token of a word above 100 characters, but up to 100 of one below. So many tokens before
# the cut are not trusted.
_MARGIN_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text, special tokens included."""

    ids: list[int]
    truncated: bool


class TextTokeniser:
    """Tokenises texts for one model. Safe to use from any thread; releases the GIL.

    Truncation and padding set in the tokeniser's file are overridden: the file describes how
    somebody once trained or exported the model, not how it is run here.
    """

    def __init__(self, path: Path, max_tokens: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more specific
            raise SetupError(f"{path}: not a readable tokenizer ({error})") from error
        if self._tokenizer.num_special_tokens_to_add(is_pair=False) >= max_tokens:
            raise SetupError(f"{path}: its special tokens alone fill {max_tokens} tokens")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._first_cut = (max_tokens + _MARGIN_TOKENS) * _CHARS_A_TOKEN

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Returns the tokens of each text. A long text costs what its beginning costs."""
        cuts = [_cut(text, self._first_cut) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(cuts)
        return [
            self._tokens(encoding, text, len(cut))
            for encoding, text, cut in zip(encodings, texts, cuts, strict=True)
        ]

    def _tokens(self, encoding: Encoding, text: str, size: int) -> Tokens:
        # Of a text whose beginning held few tokens (white space, say), a longer one is needed.
        while size < len(text) and _overflow(encoding) < _MARGIN_TOKENS:
            cut = _cut(text, 4 * size)
            (encoding,) = self._tokenizer.encode_batch_fast([cut])
            size = len(cut)
        return Tokens(encoding.ids, truncated=bool(encoding.overflowing))


def _cut(text: str, size: int) -> str:
    """The first ``size`` characters, less the word that the cut would split."""
    if len(text) <= size:
        return text
    end = max(text.rfind(space, size // 2, size) for space in " \n\t")
    return text[: end if end > 0 else size]


def _overflow(encoding: Encoding) -> int:
    return sum(len(part.ids) for part in encoding.overflowing)
