"""Popular queries as all sidecars count them together, in Redis.

For each namespace a sorted set counts digests and a hash has the requests. A full set makes room by
Space-Saving (Metwally et al., "Efficient computation of frequent and top-k elements in data
streams", 2005): a new query takes the place of the least one and goes on from its count, so that
what comes up now is not shut out by what is there.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from sidecar.cache.keys import digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sidecar.cache.warm import WarmTier

# Long enough for the queries of the day to be there when a schedule asks for them at night.
HALF_LIFE_SECONDS = 6 * 3600
MAX_NAMESPACES = 100
_KEEP_SECONDS = 7 * 86400
_SECONDS = 2.0
_REQUESTS_AT_ONCE = 256

_Query: TypeAlias = tuple[str, bytes]

_COUNT = """
local capacity, half_life, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(redis.call('TIME')[1])
local halved = tonumber(redis.call('HGET', KEYS[2], 'halved'))
if not halved then
    redis.call('HSET', KEYS[2], 'halved', now)
elseif now - halved >= half_life then
    local times = math.floor((now - halved) / half_life)
    redis.call('ZUNIONSTORE', KEYS[1], 1, KEYS[1], 'WEIGHTS', 0.5 ^ times)
    redis.call('HSET', KEYS[2], 'halved', halved + times * half_life)
end
for i = 6, #ARGV, 2 do
    local least = 0
    if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then
        while redis.call('ZCARD', KEYS[1]) >= capacity do
            local gone = redis.call('ZPOPMIN', KEYS[1])
            redis.call('HDEL', KEYS[2], gone[1])
            least = tonumber(gone[2])
        end
    end
    redis.call('ZINCRBY', KEYS[1], least + tonumber(ARGV[i + 1]), ARGV[i])
end
redis.call('ZADD', KEYS[3], now, ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - keep)
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - tonumber(ARGV[5]))
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], keep) end
local missing = {}
for i = 6, #ARGV, 2 do
    if redis.call('ZSCORE', KEYS[1], ARGV[i]) and redis.call('HEXISTS', KEYS[2], ARGV[i]) == 0 then
        missing[#missing + 1] = ARGV[i]
    end
end
return missing
"""

_KEEP = """
for i = 1, #ARGV, 2 do
    if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
        redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
    end
end
"""


class RedisPopular:
    """Counts of queries, at most ``capacity`` of a namespace, kept for a week after the last.

    Everything raises `WarmUnavailableError`.
    """

    def __init__(self, warm: WarmTier, prefix: str, capacity: int) -> None:
        self._warm = warm
        self._stem = f"{prefix}:{{state}}:popular"
        self._capacity = capacity
        self._registry = f"{self._stem}-namespaces".encode()

    async def add(self, namespace: str, counted: Sequence[tuple[_Query, int]]) -> None:
        """Adds to the counts of queries, each a kind and a request."""
        named = [(_name(query), query, times) for query, times in counted]
        counts, requests = self._keys(namespace)
        # A new one may drive out the least: that must not be one that comes later in this batch.
        pairs = [part for name, _, times in reversed(named) for part in (name, times)]
        limits = (self._capacity, HALF_LIFE_SECONDS, _KEEP_SECONDS, namespace, MAX_NAMESPACES)
        missing = await self._run(
            lambda redis: redis.eval(_COUNT, 3, counts, requests, self._registry, *limits, *pairs)
        )
        # A request is sent only where Redis does not have it, which is seldom.
        wanted = set(missing)
        fields = [(name, _pack(query)) for name, query, _ in named if name in wanted]
        for start in range(0, len(fields), _REQUESTS_AT_ONCE):
            parts = [part for pair in fields[start : start + _REQUESTS_AT_ONCE] for part in pair]
            await self._run(partial(_keep, [counts, requests], parts))

    async def top(self, namespace: str, count: int) -> dict[_Query, int]:
        """The ``count`` queries asked most, and about how often."""
        counts, requests = self._keys(namespace)
        scores = await self._run(
            lambda redis: redis.zrevrange(counts, 0, count - 1, withscores=True)
        )
        found: dict[_Query, int] = {}
        for start in range(0, len(scores), _REQUESTS_AT_ONCE):
            some = scores[start : start + _REQUESTS_AT_ONCE]
            names = [name for name, _ in some]
            packed = await self._run(partial(_requests, requests, names))
            for (_, score), data in zip(some, packed, strict=True):
                # Missing while another sidecar is about to write it.
                if data is not None:
                    found[_unpack(data)] = max(1, round(score))
        return found

    async def namespaces(self) -> list[str]:
        """The namespaces that were counted in of late."""
        names = await self._run(lambda redis: redis.zrange(self._registry, 0, -1))
        return [name.decode(errors="replace") for name in names]

    def _keys(self, namespace: str) -> tuple[bytes, bytes]:
        return (
            f"{self._stem}:{namespace}".encode(),
            f"{self._stem}-requests:{namespace}".encode(),
        )

    async def _run(self, command: Callable[[Any], Awaitable[Any]]) -> Any:
        return await self._warm.run(command, _SECONDS)


async def _keep(keys: Sequence[bytes], parts: Sequence[bytes], redis: Any) -> None:
    await redis.eval(_KEEP, len(keys), *keys, *parts)


async def _requests(key: bytes, names: Sequence[bytes], redis: Any) -> list[bytes | None]:
    found: list[bytes | None] = await redis.hmget(key, names)
    return found


def _name(query: _Query) -> bytes:
    return digest(query[0].encode(), query[1])


def _pack(query: _Query) -> bytes:
    return query[0].encode() + b"\0" + query[1]


def _unpack(data: bytes) -> _Query:
    kind, _, request = data.partition(b"\0")
    return kind.decode(errors="replace"), request
