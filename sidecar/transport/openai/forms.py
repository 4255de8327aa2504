"""How the two kinds of text are written: a completion of a prompt, and a turn of a chat."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Protocol

from embercache.v1 import generate_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

_REASONS = {
    generate_pb2.FINISH_REASON_STOP: "stop",
    generate_pb2.FINISH_REASON_LENGTH: "length",
    generate_pb2.FINISH_REASON_FILTERED: "content_filter",
}


class Form(Protocol):
    """How an answer is written. A reason of None is that of a text that goes on."""

    id_prefix: str
    kind: str
    chunk_kind: str

    def choice(self, index: int, text: str, reason: str) -> dict[str, object]:
        """A whole answer."""
        ...

    def piece(self, text: str, reason: str | None) -> dict[str, object]:
        """A piece of an answer that is streamed."""
        ...

    def opening(self) -> dict[str, object] | None:
        """What a stream begins with, if there is anything to say before the text."""
        ...


class CompletionForm:
    """The answer of ``/v1/completions``."""

    id_prefix = "cmpl-"
    kind = "text_completion"
    chunk_kind = "text_completion"

    def choice(self, index: int, text: str, reason: str | None) -> dict[str, object]:
        """See `Form`."""
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def piece(self, text: str, reason: str | None) -> dict[str, object]:
        """See `Form`."""
        return self.choice(0, text, reason)

    def opening(self) -> None:
        """See `Form`."""


class ChatForm:
    """The answer of ``/v1/chat/completions``."""

    id_prefix = "chatcmpl-"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def choice(self, index: int, text: str, reason: str) -> dict[str, object]:
        """See `Form`."""
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def piece(self, text: str, reason: str | None) -> dict[str, object]:
        """See `Form`."""
        return self._chunk({"content": text} if text else {}, reason)

    def opening(self) -> dict[str, object]:
        """See `Form`."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def _chunk(self, delta: dict[str, str], reason: str | None) -> dict[str, object]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def head(form: Form, kind: str, model: str) -> dict[str, object]:
    """What every answer, and every chunk of one, begins with."""
    name = form.id_prefix + uuid.uuid4().hex
    return {"id": name, "object": kind, "created": int(time.time()), "model": model}


def finish_reason(summary: generate_pb2.GenerateSummary) -> str:
    """Why a text ended."""
    return _REASONS[summary.finish_reason]


def usage(summaries: Sequence[generate_pb2.GenerateSummary]) -> dict[str, object]:
    """What texts took, together. Cached tokens are those whose keys and values were reused."""
    prompt = sum(summary.usage.prompt_tokens for summary in summaries)
    completion = sum(summary.usage.completion_tokens for summary in summaries)
    cached = sum(tier.count for summary in summaries for tier in summary.usage.reused_tokens)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
