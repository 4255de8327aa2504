"""Options of requests as the protos have them: sampling, and the extension ``embercache``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embercache.v1 import common_pb2, generate_pb2

from sidecar.cache.items import CacheMode
from sidecar.transport.openai.errors import bad_field
from sidecar.transport.openai.fields import integer, items, text

if TYPE_CHECKING:
    from sidecar.transport.openai.fields import Fields

EXTENSION = "embercache"

IGNORED = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prediction",
        "parallel_tool_calls",
    }
)
"""Fields that change nothing about an answer."""

UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields that would change it and for which there is nothing here; and values that do not."""

_UINT32 = 2**32 - 1
_UINT64 = 2**64 - 1
_LEAST_INT64 = -(2**63)
# As many as the services take.
_MOST_STOPS = 16
_MOST_TAGS = 16
# The most that google.protobuf.Duration takes; what a lifetime may be, the services say.
_LONGEST_SECONDS = 315_576_000_000
_MODES = {mode.value: common_pb2.CacheMode.Value(f"CACHE_MODE_{mode.name}") for mode in CacheMode}


def sampling(fields: Fields) -> generate_pb2.Sampling:
    """Sampling, with what the call leaves open left open. Raises `ApiError`."""
    # Some clients send signed numbers: what matters is that another number is another seed.
    seed = fields.integer("seed", _LEAST_INT64, _UINT64)
    return generate_pb2.Sampling(
        max_tokens=_max_tokens(fields),
        temperature=fields.number("temperature"),
        top_k=fields.integer("top_k", 0, _UINT32) or 0,
        top_p=fields.number("top_p"),
        min_p=fields.number("min_p"),
        repetition_penalty=fields.number("repetition_penalty"),
        seed=None if seed is None else seed & _UINT64,
        stop=_stop(fields),
        stop_tokens=[
            integer(value, f"stop_token_ids[{i}]", 0, _UINT32)
            for i, value in enumerate(fields.items("stop_token_ids", _MOST_STOPS) or [])
        ],
    )


def cache_options(extension: Fields) -> common_pb2.CacheOptions | None:
    """The fields of the extension that say how the cache is used; None if there are none."""
    mode, ttl, tags = (
        extension.text("mode"),
        extension.number("ttl", 0),
        extension.texts("tags", _MOST_TAGS),
    )
    if mode is None and ttl is None and tags is None:
        return None
    options = common_pb2.CacheOptions(tags=tags or [])
    if mode is not None:
        if mode not in _MODES:
            raise bad_field(extension.path("mode"), f"give one of {', '.join(_MODES)}")
        options.mode = _MODES[mode]
    if ttl is not None:
        if ttl > _LONGEST_SECONDS:
            raise bad_field(extension.path("ttl"), "give seconds, at most ten years")
        options.ttl.FromNanoseconds(round(ttl * 1e9))
    return options


def semantic_options(extension: Fields) -> common_pb2.SemanticOptions | None:
    """``semantic``: true, false, or the least similarity, which means true. Raises `ApiError`."""
    value = extension.take("semantic")
    if value is None:
        return None
    on, off = common_pb2.SemanticOptions.MODE_ON, common_pb2.SemanticOptions.MODE_OFF
    if isinstance(value, bool):
        return common_pb2.SemanticOptions(mode=on if value else off)
    if not isinstance(value, int | float) or not 0 < value <= 1:
        raise bad_field(
            extension.path("semantic"),
            "give true, false, or the least similarity, above 0 and at most 1",
        )
    return common_pb2.SemanticOptions(mode=on, threshold=value)


def _max_tokens(fields: Fields) -> int | None:
    old = fields.integer("max_tokens", 1, _UINT32)
    new = fields.integer("max_completion_tokens", 1, _UINT32)
    if old is not None and new is not None and old != new:
        raise bad_field("max_tokens", "it differs from max_completion_tokens: give one of them")
    return old if new is None else new


def _stop(fields: Fields) -> list[str]:
    value = fields.take("stop")
    if value is None:
        return []
    values = items(value, "stop", _MOST_STOPS) if isinstance(value, list) else [value]
    return [text(entry, "stop") for entry in values]
