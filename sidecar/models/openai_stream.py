"""Reads the events of a completion that an OpenAI-compatible service streams."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeGuard

from sidecar.models.types import ModelUnavailableError

if TYPE_CHECKING:
    from sidecar.models.generation import FinishReason

_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "filtered",
}
_MOST_TOKENS = 2**31 - 1


class CompletionReader:
    """What the events of one stream have told so far.

    ``completion_tokens`` counts pieces, and ``prompt_tokens`` is 0, unless the service counts.
    """

    def __init__(self) -> None:
        self._finish_reason: str | None = None
        self._pieces = 0
        self._usage: tuple[int, int] | None = None

    def read(self, event: Any) -> str:
        """Takes the next event; returns the text that it brings, which may be empty."""
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
        return text

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
