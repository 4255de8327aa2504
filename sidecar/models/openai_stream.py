"""Reads the events of a completion that an OpenAI-compatible service streams."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeGuard

from sidecar.models.types import ModelError, ModelUnavailableError

if TYPE_CHECKING:
    from sidecar.models.generation import FinishReason

_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "filtered",
}
_MOST_TOKENS = 2**31 - 1
_CHARACTERS_A_TOKEN, _ALWAYS_CHARACTERS = 64, 64 * 1024
_PIECES_A_TOKEN, _ALWAYS_PIECES = 8, 1024
_LARGEST_ANSWER = 2**18
_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class CompletionReader:
    """What the events of one stream have told so far.

    ``completion_tokens`` counts pieces, and ``prompt_tokens`` is 0, unless the service counts.
    An answer of ``max_tokens`` has a bounded number of characters and pieces; many times more than
    any model writes.
    """

    def __init__(self, max_tokens: int) -> None:
        tokens = min(max_tokens, _LARGEST_ANSWER)
        self._most_characters = _ALWAYS_CHARACTERS + tokens * _CHARACTERS_A_TOKEN
        self._most_pieces = _ALWAYS_PIECES + tokens * _PIECES_A_TOKEN
        self._finish_reason: str | None = None
        self._characters = 0
        self._pieces = 0
        self._half = ""
        self._usage: tuple[int, int] | None = None

    def read(self, event: Any) -> str:
        """Takes the next event; returns the text that it brings, which may be empty.

        Raises `ModelError` if the answer is longer than it can be.
        """
        if not isinstance(event, dict):
            return ""
        usage = event.get("usage")
        if isinstance(usage, dict):
            counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
            if _is_count(counts[0]) and _is_count(counts[1]):
                self._usage = counts[0], counts[1]
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return ""
        if isinstance(reason := choice.get("finish_reason"), str):
            self._finish_reason = reason
        delta = choice.get("delta")
        text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
        if not isinstance(text, str) or not text:
            return ""
        self._pieces += 1
        self._characters += len(text)
        if self._characters > self._most_characters or self._pieces > self._most_pieces:
            raise ModelError("the service went on far beyond max_tokens: is it what it should be?")
        return self._whole(text)

    def rest(self) -> str:
        """The text that is due after the last event."""
        rest, self._half = self._half, ""
        return _REPLACEMENT if rest else ""

    def _whole(self, text: str) -> str:
        """What UTF-8 can hold of a text: a surrogate pair may have been split over two events."""
        if not self._half and not _SURROGATE.search(text):
            return text
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def finish_reason(self) -> FinishReason:
        """Why the answer ended. Raises `ModelUnavailableError` if it was only broken off."""
        if self._finish_reason is None:
            raise ModelUnavailableError("the service broke off its answer: try again later")
        if self._finish_reason not in _FINISH_REASONS:
            shown = re.sub("[^a-z_]", "", self._finish_reason[:32])
            raise ModelUnavailableError(f"the service ended its answer with the reason {shown!r}")
        return _FINISH_REASONS[self._finish_reason]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return self._usage[0] if self._usage else 0

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer."""
        return self._usage[1] if self._usage else self._pieces


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _MOST_TOKENS
