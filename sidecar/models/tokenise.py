"""Turns texts, and pairs of them, into token ids, truncated to what the model reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.models.errors import SetupError
from sidecar.models.tokenizer_file import load_tokenizer
from sidecar.models.types import InputRejectedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tokenizers import Encoding

    from sidecar.models.types import Pair

# A text is cut before it is tokenised, at first to this many characters a token.
_CHARS_A_TOKEN = 6
# A cut may split a word, and the pieces of what is left of it are not those of the word: WordPiece
# makes one token of a word above 100 characters, but up to 100 of one below. So many tokens before
# the cut are not trusted.
_MARGIN_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text or pair, special tokens included.

    ``special`` has a 1 for each token that the tokeniser added and a 0 for each of the text;
    ``type_ids`` has a 1 for each token of a pair's second text, where the model tells them apart.
    Empty lists stand for zeros.
    """

    ids: list[int]
    truncated: bool
    special: list[int] = field(default_factory=list)
    type_ids: list[int] = field(default_factory=list)


class _Tokeniser:
    """A tokeniser that cuts its inputs: texts, or the second texts of pairs.

    Truncation and padding set in the tokeniser's file are overridden: the file describes how
    somebody once trained or exported the model, not how it is run here.
    """

    def __init__(self, path: Path, max_tokens: int, *, pairs: bool) -> None:
        self._tokenizer = load_tokenizer(path)
        if self._tokenizer.num_special_tokens_to_add(is_pair=pairs) >= max_tokens:
            raise SetupError(f"{path}: its special tokens alone fill {max_tokens} tokens")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(
            max_tokens, strategy="only_second" if pairs else "longest_first"
        )
        self._max_tokens = max_tokens
        self._first_cut = (max_tokens + _MARGIN_TOKENS) * _CHARS_A_TOKEN

    def _encode(self, texts: Sequence[str], queries: Sequence[str | None]) -> list[Tokens]:
        """Tokenises each text, as the second one of a pair where there is a query."""
        cuts = [_cut(text, self._first_cut) for text in texts]
        inputs = [_input(query, cut) for query, cut in zip(queries, cuts, strict=True)]
        encodings = self._tokenizer.encode_batch_fast(inputs)
        return [
            self._tokens(encoding, text, query, len(cut))
            for encoding, text, query, cut in zip(encodings, texts, queries, cuts, strict=True)
        ]

    def _tokens(self, encoding: Encoding, text: str, query: str | None, size: int) -> Tokens:
        # Of a text whose beginning held few tokens (white space, say), a longer one is needed.
        while size < len(text) and _overflow(encoding, query) < _MARGIN_TOKENS:
            cut = _cut(text, 4 * size)
            (encoding,) = self._tokenizer.encode_batch_fast([_input(query, cut)])
            size = len(cut)
        return Tokens(
            encoding.ids,
            truncated=bool(encoding.overflowing),
            special=encoding.special_tokens_mask,
            type_ids=encoding.type_ids,
        )


class TextTokeniser(_Tokeniser):
    """Tokenises texts for one model. Safe to use from any thread; releases the GIL."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        super().__init__(path, max_tokens, pairs=False)

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Returns the tokens of each text. A long text costs what its beginning costs."""
        return self._encode(texts, [None] * len(texts))


class PairTokeniser(_Tokeniser):
    """Tokenises queries with passages for one model, and truncates the passages alone.

    Safe to use from any thread; releases the GIL.
    """

    def __init__(self, path: Path, max_tokens: int) -> None:
        super().__init__(path, max_tokens, pairs=True)

    def __call__(self, pairs: Sequence[Pair]) -> list[Tokens]:
        """Returns the tokens of each pair. A long passage costs what its beginning costs.

        Raises `InputRejectedError` if a query leaves no room for its passage.
        """
        # A query is never cut, so one that is surely too long is not even read.
        if any(len(query) > self._first_cut for query, _ in pairs):
            raise self._too_long()
        try:
            return self._encode([text for _, text in pairs], [query for query, _ in pairs])
        except Exception as error:  # the library raises nothing more specific
            if "Truncation" in str(error):
                raise self._too_long() from error
            raise

    def _too_long(self) -> InputRejectedError:
        return InputRejectedError(
            f"the query leaves no room for a passage: this model reads {self._max_tokens} tokens of"
            " both together; shorten the query"
        )


def _input(query: str | None, text: str) -> str | Pair:
    return text if query is None else (query, text)


def _cut(text: str, size: int) -> str:
    """The first ``size`` characters, less the word that the cut would split."""
    if len(text) <= size:
        return text
    end = max(text.rfind(space, size // 2, size) for space in " \n\t")
    return text[: end if end > 0 else size]


def _overflow(encoding: Encoding, query: str | None) -> int:
    """How many tokens of the text were truncated; each part of the overflow repeats the query."""
    text = 0 if query is None else 1
    return sum(part.sequence_ids.count(text) for part in encoding.overflowing)
