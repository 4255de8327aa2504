"""What the requests of all services have in common, and all that can be wrong with that."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc
from embercache.v1 import common_pb2
from google.protobuf.message import DecodeError, Message

from sidecar.access.caller import caller
from sidecar.cache.items import CacheMode
from sidecar.services.errors import CallError, invalid
from sidecar.units import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.cache.keys import Digests
    from sidecar.config import SemanticSettings

T = TypeVar("T")
M = TypeVar("M", bound=Message)

_DEFAULT_COLLECTION = "default"
MAX_TAGS = 16
MAX_ID_BYTES = 1024
_MAX_TAG_BYTES = 256
_MAX_TTL_SECONDS = 10 * 365 * 86400

_NAME = re.compile(NAME_PATTERN)
_MODES: dict[int, CacheMode] = {
    common_pb2.CACHE_MODE_UNSPECIFIED: CacheMode.DEFAULT,
    common_pb2.CACHE_MODE_DEFAULT: CacheMode.DEFAULT,
    common_pb2.CACHE_MODE_REFRESH: CacheMode.REFRESH,
    common_pb2.CACHE_MODE_BYPASS: CacheMode.BYPASS,
    common_pb2.CACHE_MODE_NO_STORE: CacheMode.NO_STORE,
    common_pb2.CACHE_MODE_ONLY_IF_CACHED: CacheMode.ONLY_IF_CACHED,
}
_SEMANTIC_MODES: dict[int, bool | None] = {
    common_pb2.SemanticOptions.MODE_UNSPECIFIED: None,
    common_pb2.SemanticOptions.MODE_ON: True,
    common_pb2.SemanticOptions.MODE_OFF: False,
}


@dataclass(frozen=True, slots=True)
class CacheChoices:
    """The cache options of a call; ``ttl`` in seconds, None if the default is to apply."""

    mode: CacheMode
    ttl: float | None
    tags: tuple[bytes, ...]


def decode(message_type: type[M], raw: bytes) -> M:
    """A message of that type from bytes. Raises `CallError`."""
    try:
        return message_type.FromString(raw)
    except DecodeError:
        name = message_type.DESCRIPTOR.full_name
        raise invalid(
            f"the bytes are not a {name}: use the published protos, and UTF-8 in every string"
        ) from None


def namespace(name: str, default: str) -> str:
    """The namespace of that name, or the default for an empty one: the caller's own, if he has one.

    Raises `CallError`, also if it is not one that the caller may use.
    """
    who = caller()
    chosen = _name(name, "namespace")
    if who is None:
        return chosen or default
    chosen = chosen or who.default_namespace(default)
    if not who.may_use(chosen):
        raise CallError(
            grpc.StatusCode.PERMISSION_DENIED,
            f"the caller {who.name} may not use this namespace: name one of his, or have it added"
            " to the policy of this sidecar",
        )
    return chosen


def collection(name: str) -> str:
    """The collection of that name, or the default for an empty one. Raises `CallError`."""
    return _name(name, "collection") or _DEFAULT_COLLECTION


def document_id(name: str) -> str:
    """The id of a document. Raises `CallError`."""
    if not 1 <= len(name.encode()) <= MAX_ID_BYTES:
        raise invalid(f"the id of a document has 1 to {MAX_ID_BYTES} bytes")
    return name


def check_tags(tags: Sequence[str], limit: int) -> list[bytes]:
    """The bytes of each tag. Raises `CallError`."""
    if len(tags) > limit:
        raise invalid(f"there are {len(tags)} tags, more than the {limit} allowed in one call")
    encoded = [tag.encode() for tag in tags]
    if not all(1 <= len(tag) <= _MAX_TAG_BYTES for tag in encoded):
        raise invalid(f"a tag has 1 to {_MAX_TAG_BYTES} bytes")
    return encoded


def tag_digests(digests: Digests, tags: Sequence[str], limit: int) -> tuple[bytes, ...]:
    """The digest of each tag, without repetition. Raises `CallError`."""
    return tuple(dict.fromkeys(digests.of(b"tag", tag) for tag in check_tags(tags, limit)))


def enum_value(meanings: Mapping[int, T], number: int, field: str) -> T:
    """What an enum's number means. Raises `CallError` for one that is not known here."""
    if number not in meanings:
        raise invalid(f"{field} has the unknown value {number}: this sidecar may be too old for it")
    return meanings[number]


def cache_choices(digests: Digests, options: common_pb2.CacheOptions) -> CacheChoices:
    """The cache options of a call. Raises `CallError`."""
    return CacheChoices(
        mode=enum_value(_MODES, options.mode, "cache.mode"),
        ttl=_ttl(options),
        tags=tag_digests(digests, options.tags, MAX_TAGS),
    )


def semantic_threshold(
    options: common_pb2.SemanticOptions, in_namespace: str, settings: SemanticSettings
) -> float | None:
    """The least similarity of another query whose answer may be given; None if none may.

    Raises `CallError`.
    """
    chosen = enum_value(_SEMANTIC_MODES, options.mode, "semantic.mode")
    threshold = settings.threshold
    if options.HasField("threshold"):
        threshold = options.threshold
        if not 0 < threshold <= 1:
            raise invalid("semantic.threshold must be above 0 and at most 1")
    if chosen is None:
        chosen = in_namespace in settings.namespaces
    return threshold if chosen else None


def _name(name: str, what: str) -> str:
    if name and not _NAME.fullmatch(name):
        raise invalid(f"a {what} has 1 to 64 letters, digits, '.', '_' or '-'")
    return name


def _ttl(options: common_pb2.CacheOptions) -> float | None:
    if not options.HasField("ttl"):
        return None
    seconds = options.ttl.seconds + options.ttl.nanos / 1e9
    if not 0 < seconds <= _MAX_TTL_SECONDS:
        raise invalid(
            "cache.ttl must be positive and at most ten years: leave it out for the default, or"
            " use CACHE_MODE_NO_STORE to store nothing"
        )
    return seconds
