"""Fields that requests of several services have: from arguments to what is sent."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.duration_pb2 import Duration

from embercache.errors import CACHED_CLASSES, CALL_CLASSES, InvalidArgumentError
from embercache.v1 import common_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from embercache.errors import Classes
    from embercache.types import CacheMode

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_MODES: Mapping[CacheMode, common_pb2.CacheMode.ValueType] = {
    "default": common_pb2.CACHE_MODE_DEFAULT,
    "refresh": common_pb2.CACHE_MODE_REFRESH,
    "bypass": common_pb2.CACHE_MODE_BYPASS,
    "no_store": common_pb2.CACHE_MODE_NO_STORE,
    "only_if_cached": common_pb2.CACHE_MODE_ONLY_IF_CACHED,
}


def fill_cache_options(
    options: common_pb2.CacheOptions,
    mode: CacheMode,
    ttl: float | timedelta | None,
    tags: Sequence[str],
) -> None:
    """Writes what is not the default, so that a request without options has no such message."""
    if mode != "default":
        options.mode = choose("mode", mode, _MODES)
    if ttl is not None:
        options.ttl.CopyFrom(_duration(ttl))
    if tags:
        options.tags.extend(several("tags", tags))


def error_classes(options: common_pb2.CacheOptions) -> Classes:
    """What the status of a call for one answer means, which depends on whether it may compute."""
    cached_only = options.mode == common_pb2.CACHE_MODE_ONLY_IF_CACHED
    return CACHED_CLASSES if cached_only else CALL_CLASSES


def semantic_options(semantic: bool | float) -> common_pb2.SemanticOptions:
    """On, off, or on from a similarity."""
    if isinstance(semantic, bool):
        modes = common_pb2.SemanticOptions
        return modes(mode=modes.MODE_ON if semantic else modes.MODE_OFF)
    if not 0 < semantic <= 1:
        raise InvalidArgumentError(
            f"semantic is {semantic}; give True, False, or the least cosine: above 0, at most 1"
        )
    return common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_ON, threshold=semantic)


def choose(name: str, given: _Key, values: Mapping[_Key, _Value]) -> _Value:
    """The value of a choice. Raises `InvalidArgumentError` that lists those there are."""
    try:
        return values[given]
    except KeyError:
        known = ", ".join(str(key) for key in values)
        raise InvalidArgumentError(f"{name} is {given!r}; it must be one of {known}") from None


def several(name: str, given: _Value) -> _Value:
    """The values themselves. Raises `TypeError` for one str, which would be read as letters."""
    if isinstance(given, str):
        raise TypeError(f"{name} is a single str; put it into a list: [{name.removesuffix('s')}]")
    return given


def text(name: str, given: object) -> str:
    """The str itself. Raises `TypeError` for anything else."""
    if not isinstance(given, str):
        raise TypeError(f"{name} is a {type(given).__name__}; give a str")
    return given


@contextlib.contextmanager
def unicode_only(index: int | None = None) -> Iterator[None]:
    """Turns protobuf's error on half a character into one that does not quote the text."""
    try:
        yield
    except UnicodeEncodeError:
        raise InvalidArgumentError(
            "the text has a lone surrogate, which is no Unicode character", index=index
        ) from None


def _duration(ttl: float | timedelta) -> Duration:
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if not 0 < seconds < float("inf"):
        raise InvalidArgumentError(f"ttl is {ttl}; it must be a positive number of seconds")
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
