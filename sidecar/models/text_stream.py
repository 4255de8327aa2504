"""The text of tokens as they come, as far as it can be told."""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


class TextStream:
    """Tells the text of an answer while its tokens come, up to the first stop string.

    What it tells is, put together, the decoded text of all tokens without special ones, cut where
    the first stop string begins, however the text falls into tokens. A token costs the same however
    long the answer is.

    One difference: where a tokeniser falls back to tokens of single bytes ("<0x0A>") and a run of
    them is not UTF-8, decoding the whole replaces every byte of the run, while here the characters
    in it are told as they come.

    The `DecodeStream` of tokenizers (0.23) is not used: it holds back for as long as bytes are not
    UTF-8, and cannot tell what is left at the end.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.stopped = False
        self._bytes = _TokenBytes(tokenizer)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = _StopStrings(stop)

    def add(self, token: int) -> str:
        """The text that can be told now that this token came.

        It is empty while a character is incomplete or the text may be the beginning of a stop
        string, and always once `stopped`.
        """
        return self._tell(self._decoder.decode(self._bytes.of(token)), last=False)

    def finish(self) -> str:
        """What was held back, now that no more tokens come.

        An incomplete character becomes U+FFFD. Sets `stopped` if a stop string is in what was held
        back: it came, but a longer one that begins before it might have come as well.
        """
        return self._tell(self._decoder.decode(b"", final=True), last=True)

    def _tell(self, text: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        told, self.stopped = self._stop.split(text, last=last)
        return told


class _StopStrings:
    """Finds the first of some strings in a text that comes piece by piece."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._longest = max(map(len, strings), default=0)
        self._held = ""

    def split(self, text: str, *, last: bool) -> tuple[str, bool]:
        """What comes before the first stop string, and whether one came.

        Unless this is the last text, an end that may be the beginning of one is held back.
        """
        text = self._held + text
        for place in range(len(text) if self._strings else 0):
            if text.startswith(self._strings, place):
                return text[:place], True
            if not last and len(text) - place < self._longest:
                end = text[place:]
                if any(string.startswith(end) for string in self._strings):
                    self._held = end
                    return text[:place], False
        self._held = ""
        return text, False


class _TokenBytes:
    """The UTF-8 bytes that each token adds to a text, which depend on the token before it.

    Decoders leave out a space or put one in at the beginning of a text or between two tokens, so a
    token is decoded behind the one before it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {
            token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special
        }
        steps = _decoder_steps(tokenizer)
        self._is_byte_level = "ByteLevel" in steps
        self._falls_back = "ByteFallback" in steps
        self._before: int | None = None

    def of(self, token: int) -> bytes:
        """What the next token adds; nothing for special and unknown ones."""
        name = self._tokenizer.id_to_token(token)
        if name is None or token in self._special:
            return b""
        if self._is_byte_level:
            return _byte_level(name)
        before, self._before = self._before, token
        byte = _BYTE_TOKEN.fullmatch(name) if self._falls_back else None
        # Some decoders strip a text's first space, even if it came as a byte.
        if byte and (before is not None or int(byte[1], 16) > 0x7F):
            return bytes.fromhex(byte[1])
        told = "" if before is None else self._tokenizer.decode([before])
        together = [token] if before is None else [before, token]
        return self._tokenizer.decode(together)[len(told) :].encode()


def _decoder_steps(tokenizer: Tokenizer) -> set[str]:
    """The types of what a tokeniser's decoder does, which only its saved form tells."""
    if tokenizer.decoder is None:
        return set()
    decoder = json.loads(tokenizer.decoder.__getstate__())
    return {step["type"] for step in decoder.get("decoders", [decoder])}


def _byte_level_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies, as GPT-2 assigned them.

    A byte that is a printable character of Latin-1 stands for itself; the others are, in their
    order, the characters from U+0100.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


_BYTE_LEVEL = _byte_level_alphabet()


def _byte_level(name: str) -> bytes:
    try:
        return bytes([_BYTE_LEVEL[character] for character in name])
    except KeyError:
        # A token that was added to the vocabulary as it is.
        return name.encode()
