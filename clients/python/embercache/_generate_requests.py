"""Builds the requests of ``generate``: from arguments to protobuf messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from embercache._fields import fill_cache_options, semantic_options, several, text, unicode_only
from embercache.errors import InvalidArgumentError
from embercache.generate import ChatMessage
from embercache.v1 import generate_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from typing_extensions import Unpack

    from embercache.generate import GenerateOptions, Prompt
    from embercache.types import CacheMode

_Number = TypeVar("_Number", int, int | None)

_MESSAGE_FIELDS = {"role", "content"}


def generate_request(
    prompt: Prompt,
    *,
    model: str = "",
    model_version: str = "",
    namespace: str = "",
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    stop_tokens: Sequence[int] = (),
    mode: CacheMode = "default",
    ttl: float | timedelta | None = None,
    tags: Sequence[str] = (),
    semantic: bool | float | None = None,
    store_sampled: bool = False,
) -> generate_pb2.GenerateRequest:
    """A request that has every option of `GenerateOptions`."""
    request = generate_pb2.GenerateRequest(
        model=model,
        model_version=model_version,
        namespace=namespace,
        store_sampled=store_sampled,
    )
    if isinstance(prompt, str):
        with unicode_only():
            request.text = prompt
    else:
        _fill_chat(request.chat, prompt)
    with unicode_only():
        sampling = generate_pb2.Sampling(
            max_tokens=_whole("max_tokens", max_tokens),
            temperature=temperature,
            top_k=_whole("top_k", top_k),
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=_whole("seed", seed, bits=64),
            stop=several("stop", stop),
            stop_tokens=[_whole("a stop token", token) for token in stop_tokens],
        )
    # So that a request without options has no such message.
    if sampling.ListFields():
        request.sampling.CopyFrom(sampling)
    if semantic is not None:
        request.semantic.CopyFrom(semantic_options(semantic))
    fill_cache_options(request.cache, mode, ttl, tags)
    return request


class Generation:
    """A generation to be invalidated: the arguments of `Client.generate`, checked at once."""

    __slots__ = ("message",)

    def __init__(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> None:
        self.message = generate_request(prompt, **options)


def _fill_chat(
    chat: generate_pb2.Chat, messages: Sequence[ChatMessage | Mapping[str, str]]
) -> None:
    if isinstance(messages, ChatMessage | Mapping):
        raise TypeError("prompt is a single message; put it into a list: [message]")
    chat.SetInParent()
    for index, message in enumerate(messages):
        role, content = _message(message, index)
        with unicode_only(index):
            chat.messages.add(
                role=text(f"the role of message {index}", role),
                content=text(f"the content of message {index}", content),
            )


def _message(message: ChatMessage | Mapping[str, str], index: int) -> tuple[str, str]:
    if isinstance(message, ChatMessage):
        return message.role, message.content
    if not isinstance(message, Mapping):
        raise TypeError(
            f"message {index} is a {type(message).__name__}; give a ChatMessage, or a mapping with"
            " role and content"
        )
    if set(message) != _MESSAGE_FIELDS:
        raise InvalidArgumentError(
            f"it has {', '.join(map(str, message)) or 'nothing'}; a message has role and content,"
            " and nothing else",
            index=index,
        )
    return message["role"], message["content"]


def _whole(name: str, value: _Number, bits: int = 32) -> _Number:
    """The number itself. What it must be beyond fitting its field, the sidecar knows."""
    if value is not None and not 0 <= value < 1 << bits:
        raise InvalidArgumentError(f"{name} is {value}; it must be 0 to {(1 << bits) - 1}")
    return value
