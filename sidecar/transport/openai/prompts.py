"""Requests for text, of both kinds: from JSON to GenerateRequest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embercache.v1 import generate_pb2

from sidecar.transport.openai.errors import bad_field
from sidecar.transport.openai.fields import fields as as_fields
from sidecar.transport.openai.fields import text
from sidecar.transport.openai.options import (
    EXTENSION,
    IGNORED,
    UNSUPPORTED,
    cache_options,
    sampling,
    semantic_options,
)

if TYPE_CHECKING:
    from sidecar.transport.openai.fields import Fields

_MOST_PROMPTS = 128
_MOST_MESSAGES = 10_000
_MOST_PARTS = 10_000
# OpenAI's newer models call the system "developer".
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Whose message it is among several of a role, which no template here says.
_IGNORED_IN_MESSAGES = frozenset({"name"})
# What clients put into messages that they got from here and send back.
_NEUTRAL_IN_MESSAGES: dict[str, tuple[object, ...]] = {
    "tool_calls": ([],),
    "function_call": (),
    "audio": (),
    "refusal": (),
    "annotations": ([],),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """The requests that one call makes, one for each prompt, and how it wants the answer."""

    requests: list[generate_pb2.GenerateRequest]
    model: str
    streams: bool
    include_usage: bool


def read_chat(fields: Fields) -> Asked:
    """A request of ``/v1/chat/completions``. Raises `ApiError`."""
    messages = fields.items("messages", _MOST_MESSAGES)
    if not messages:
        raise bad_field("messages", "give a list of at least one message")
    if sum(map(_count_parts, messages)) > _MOST_PARTS:
        raise bad_field("messages", f"they have more than {_MOST_PARTS} parts: join them")
    request = _options(fields)
    request.chat.messages.extend(
        _message(as_fields(value, f"messages[{i}]")) for i, value in enumerate(messages)
    )
    return _asked(fields, [request])


def read_completion(fields: Fields) -> Asked:
    """A request of ``/v1/completions``, for one or several prompts. Raises `ApiError`."""
    prompts = _prompts(fields.take("prompt"))
    options = _options(fields)
    requests = []
    for prompt in prompts:
        request = generate_pb2.GenerateRequest(text=prompt)
        request.MergeFrom(options)
        requests.append(request)
    asked = _asked(fields, requests)
    if asked.streams and len(prompts) > 1:
        raise bad_field("stream", "only one prompt can be streamed: make a call for each")
    return asked


def _asked(fields: Fields, requests: list[generate_pb2.GenerateRequest]) -> Asked:
    streams = fields.flag("stream") or False
    options = fields.fields("stream_options")
    include_usage = options.flag("include_usage") or False
    options.finish({"include_obfuscation"})
    fields.finish(IGNORED, UNSUPPORTED)
    return Asked(requests, requests[0].model, streams, include_usage)


def _options(fields: Fields) -> generate_pb2.GenerateRequest:
    """A request without its prompt."""
    extension = fields.fields(EXTENSION)
    request = generate_pb2.GenerateRequest(
        model=fields.required_text("model"),
        namespace=extension.text("namespace") or "",
        sampling=sampling(fields),
        cache=cache_options(extension),
        semantic=semantic_options(extension),
        store_sampled=extension.flag("store_sampled") or False,
    )
    extension.finish()
    return request


def _prompts(value: object) -> list[str]:
    if isinstance(value, str):
        return [text(value, "prompt")]
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_PROMPTS:
        raise bad_field("prompt", f"give a string, or a list of 1 to {_MOST_PROMPTS} strings")
    if any(isinstance(entry, int | list) for entry in value):
        raise bad_field("prompt", "tokens are not taken: send the text")
    return [text(entry, f"prompt[{i}]") for i, entry in enumerate(value)]


def _message(fields: Fields) -> generate_pb2.ChatMessage:
    role = fields.required_text("role")
    if role not in _ROLES:
        raise bad_field(fields.path("role"), f"give one of {', '.join(_ROLES)}")
    content = fields.take("content")
    if content is None and role == "assistant":
        # What an assistant that only called tools is said to have said.
        content = ""
    content = _content(content, fields.path("content"))
    fields.finish(_IGNORED_IN_MESSAGES, _NEUTRAL_IN_MESSAGES)
    return generate_pb2.ChatMessage(role=_ROLES[role], content=content)


def _count_parts(message: object) -> int:
    content = message.get("content") if isinstance(message, dict) else None
    return len(content) if isinstance(content, list) else 0


def _content(value: object, path: str) -> str:
    if not isinstance(value, list):
        return text(value, path)
    parts = []
    for i, part in enumerate(value):
        fields = as_fields(part, f"{path}[{i}]")
        if fields.text("type") != "text":
            raise bad_field(f"{path}[{i}].type", "only parts of type 'text' are taken")
        parts.append(text(fields.take("text"), f"{path}[{i}].text"))
        fields.finish()
    return "".join(parts)
