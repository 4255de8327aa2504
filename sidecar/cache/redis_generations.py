"""Epochs and generations shared through Redis, and the stream that tells of their changes.

One hash for each namespace holds its epoch, its base and the generations of its tags; a change
and its announcement on the stream are one script, so neither is without the other. Their keys
share a hash tag: in a cluster they live on one node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.cache.generations import MAX_STORED_TAGS, StoreUnavailableError
from sidecar.cache.warm import WarmUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sidecar.cache.warm import WarmTier

STREAM_LENGTH = 100_000
TAG_FIELD = b"tag:"

# A number that only grows: the time in microseconds, or one more than the last.
_NEXT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function later(last)
    return string.format('%.0f', math.max(now, (tonumber(last) or 0) + 1))
end
"""

_LOAD = (
    _NEXT
    + """
local epoch = redis.call('HGET', KEYS[1], 'epoch')
local mine = tonumber(ARGV[1])
if not epoch or tonumber(epoch) < mine then
    if mine > 0 then epoch = ARGV[1] else epoch = later(nil) end
    redis.call('HSET', KEYS[1], 'epoch', epoch)
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'n', ARGV[3], 'f', 'epoch', 'g', epoch)
end
redis.call('HSETNX', KEYS[1], 'base', later(nil))
return {epoch, redis.call('HGET', KEYS[1], 'base')}
"""
)

_BUMP = (
    _NEXT
    + """
local function announce(field, value)
    redis.call('HSET', KEYS[1], field, value)
    redis.call(
        'XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'n', ARGV[1], 'f', field, 'g', value)
end
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[3]) then
    local epoch, base = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'base'))
    redis.call('DEL', KEYS[1])
    if epoch then redis.call('HSET', KEYS[1], 'epoch', epoch) end
    announce('base', later(base))
end
local result = {redis.call('HGET', KEYS[1], 'base') }
for i = 4, #ARGV do
    announce(ARGV[i], later(redis.call('HGET', KEYS[1], ARGV[i])))
    result[#result + 1] = redis.call('HGET', KEYS[1], ARGV[i])
end
return result
"""
)


class RedisGenerations:
    """A `GenerationStore` that every sidecar on the same Redis and prefix shares."""

    def __init__(self, warm: WarmTier, prefix: str) -> None:
        self._warm = warm
        self._prefix = prefix
        self.stream = f"{prefix}:{{state}}:invalidations".encode()

    async def load(self, namespace: str, epoch: int) -> tuple[int, int]:
        """See `GenerationStore.load`."""
        keys = (self._hash(namespace), self.stream)
        reply = await self._run(
            lambda redis: redis.eval(_LOAD, 2, *keys, epoch, STREAM_LENGTH, namespace)
        )
        return int(reply[0]), int(reply[1])

    async def generations(self, namespace: str, tags: Sequence[bytes]) -> dict[bytes, int]:
        """See `GenerationStore.generations`."""
        fields = [b"base", *map(_tag_field, tags)]
        base, *values = await self._run(lambda redis: redis.hmget(self._hash(namespace), fields))
        if base is None:
            # The hash was lost; the next load makes another.
            raise StoreUnavailableError("Redis has lost the state of the namespace")
        return {tag: int(value or base) for tag, value in zip(tags, values, strict=True)}

    async def bump_tags(
        self, namespace: str, tags: Sequence[bytes]
    ) -> tuple[int, dict[bytes, int]]:
        """See `GenerationStore.bump_tags`."""
        base, *values = await self._bump(namespace, [_tag_field(tag) for tag in tags])
        return base, dict(zip(tags, values, strict=True))

    async def bump_epoch(self, namespace: str) -> int:
        """See `GenerationStore.bump_epoch`."""
        return (await self._bump(namespace, [b"epoch"]))[1]

    async def remove(self, namespace: str, keys: Sequence[bytes]) -> None:
        """See `GenerationStore.remove`."""
        try:
            await self._warm.delete_many(keys)
        except WarmUnavailableError as error:
            raise StoreUnavailableError(str(error)) from error
        # Keys hold no space: see KeySpace.
        fields: dict[Any, Any] = {b"n": namespace, b"k": b" ".join(keys)}
        await self._run(
            lambda redis: redis.xadd(self.stream, fields, maxlen=STREAM_LENGTH, approximate=True)
        )

    async def _bump(self, namespace: str, fields: list[bytes]) -> list[int]:
        """The base, and the new value of each field."""
        # A hash that was lost needs its base before anything is written into it.
        await self.load(namespace, 0)
        keys = (self._hash(namespace), self.stream)
        reply = await self._run(
            lambda redis: redis.eval(
                _BUMP, 2, *keys, namespace, STREAM_LENGTH, MAX_STORED_TAGS, *fields
            )
        )
        return [int(value) for value in reply]

    def _hash(self, namespace: str) -> bytes:
        return f"{self._prefix}:{{state}}:namespace:{namespace}".encode()

    async def _run(self, command: Callable[[Any], Awaitable[Any]]) -> Any:
        try:
            return await self._warm.run(command)
        except WarmUnavailableError as error:
            raise StoreUnavailableError(str(error)) from error


def _tag_field(tag: bytes) -> bytes:
    return TAG_FIELD + tag.hex().encode()
