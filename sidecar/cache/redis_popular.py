"""Popular queries as all sidecars count them together, in Redis.

For each namespace a sorted set counts digests and a hash has the requests. A full set makes room by
Space-Saving (Metwally et al., "Efficient computation of frequent and top-k elements in data
streams", 2005): a new query takes the place of the least one and goes on from its count, so that
what comes up now is not shut out by what is there.

Two more keys are of all namespaces: when each was last counted in, and how many bytes it has. While
all together have less than half of `MAX_BYTES`, a namespace may take what it needs, beyond that a
hundredth of that half. So no script has to touch the keys of another namespace, and there are never
more than `MAX_BYTES`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from sidecar.cache.keys import UNSALTED, canonical
from sidecar.cache.seals import PLAIN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sidecar.cache.keys import Digests
    from sidecar.cache.seals import Seal
    from sidecar.cache.warm import WarmTier

# Long enough for the queries of the day to be there when a schedule asks for them at night.
HALF_LIFE_SECONDS = 6 * 3600
MAX_NAMESPACES = 100
MAX_BYTES = 64 * 2**20
QUERY_OVERHEAD_BYTES = 256
"""What a query takes beside its request: its digest, twice, its count, and objects around them."""

_KEEP_SECONDS = 7 * 86400
_SECONDS = 2.0
_REQUESTS_AT_ONCE = 256

_Query: TypeAlias = tuple[str, bytes]

# Keys: counts, requests, sizes. First arguments: namespace, free bytes, share, overhead.
_SIZES = """
local function number(name) return tonumber(redis.call('HGET', KEYS[2], name) or 0) end
local namespace, overhead = ARGV[1], tonumber(ARGV[4])
local bytes, others = number('bytes'), 0
local sizes = redis.call('HGETALL', KEYS[3])
for i = 1, #sizes, 2 do
    if sizes[i] ~= namespace then others = others + tonumber(sizes[i + 1]) end
end
local room = math.max(tonumber(ARGV[2]) - others, tonumber(ARGV[3]))
local function drop_least()
    local gone = redis.call('ZPOPMIN', KEYS[1])
    local size = redis.call('HSTRLEN', KEYS[2], gone[1])
    if redis.call('HDEL', KEYS[2], gone[1]) == 1 then bytes = bytes - size - overhead end
    return tonumber(gone[2])
end
local function note_size()
    redis.call('HSET', KEYS[2], 'bytes', bytes)
    redis.call('HSET', KEYS[3], namespace, bytes)
end
"""

# Returns the digests whose requests are missing, and the namespaces that had to go.
_COUNT = (
    _SIZES
    + """
local capacity, half_life, keep = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local now = tonumber(redis.call('TIME')[1])
local halved = number('halved')
if halved == 0 then
    redis.call('HSET', KEYS[2], 'halved', now)
elseif now - halved >= half_life then
    local times = math.floor((now - halved) / half_life)
    redis.call('ZUNIONSTORE', KEYS[1], 1, KEYS[1], 'WEIGHTS', 0.5 ^ times)
    redis.call('HSET', KEYS[2], 'halved', halved + times * half_life)
end
if bytes > 0 then
    local fit = math.floor(redis.call('ZCARD', KEYS[1]) * room / bytes)
    capacity = math.max(1, math.min(capacity, fit))
end
for i = 9, #ARGV, 2 do
    local least = 0
    if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then
        while redis.call('ZCARD', KEYS[1]) >= capacity do least = drop_least() end
    end
    redis.call('ZINCRBY', KEYS[1], least + tonumber(ARGV[i + 1]), ARGV[i])
end
note_size()
-- Of many in one second, none is older than the one that is counted in now.
redis.call('ZADD', KEYS[4], now + redis.call('TIME')[2] / 1e6, namespace)
local gone = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now - keep)
for _, name in ipairs(redis.call('ZRANGE', KEYS[4], #gone, -1 - tonumber(ARGV[8]))) do
    gone[#gone + 1] = name
end
for _, name in ipairs(gone) do
    redis.call('ZREM', KEYS[4], name)
    redis.call('HDEL', KEYS[3], name)
end
for i = 1, 4 do redis.call('EXPIRE', KEYS[i], keep) end
local missing = {}
for i = 9, #ARGV, 2 do
    if redis.call('ZSCORE', KEYS[1], ARGV[i]) and redis.call('HEXISTS', KEYS[2], ARGV[i]) == 0 then
        missing[#missing + 1] = ARGV[i]
    end
end
return {missing, gone}
"""
)

_KEEP = (
    _SIZES
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return end
for i = 5, #ARGV, 2 do
    if redis.call('ZSCORE', KEYS[1], ARGV[i])
            and redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1]) == 1 then
        bytes = bytes + #ARGV[i + 1] + overhead
    end
end
while bytes > room and redis.call('ZCARD', KEYS[1]) > 0 do drop_least() end
note_size()
"""
)

# Requests that are not to be trusted. They are missing then, and written by who counts them next.
_FORGET = (
    _SIZES
    + """
for i = 5, #ARGV do
    local size = redis.call('HSTRLEN', KEYS[2], ARGV[i])
    if redis.call('HDEL', KEYS[2], ARGV[i]) == 1 then bytes = bytes - size - overhead end
end
note_size()
"""
)

# Keys: when namespaces were counted in, counts, requests. It may have come back meanwhile.
_DROP = """
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then redis.call('UNLINK', KEYS[2], KEYS[3]) end
"""


class RedisPopular:
    """Counts of queries, at most ``capacity`` of a namespace, kept for a week after the last.

    At most `MAX_NAMESPACES` and `MAX_BYTES` in all: the namespace that was not counted in for
    longest goes, and of one that is too large, the queries asked least. ``digests`` name requests,
    which are kept through ``seal``. Everything raises `WarmUnavailableError`.
    """

    def __init__(
        self,
        warm: WarmTier,
        prefix: str,
        capacity: int,
        *,
        digests: Digests = UNSALTED,
        seal: Seal = PLAIN,
    ) -> None:
        self._warm = warm
        self._digests = digests
        self._seal = seal
        self._stem = f"{prefix}:{{state}}:popular"
        self._capacity = capacity
        self._registry = f"{self._stem}-namespaces".encode()
        self._sizes = f"{self._stem}-sizes".encode()

    async def add(self, namespace: str, counted: Sequence[tuple[_Query, int]]) -> None:
        """Adds to the counts of queries, each a kind and a request."""
        named = [(self._name(namespace, query), query, times) for query, times in counted]
        keys = [*self._keys(namespace.encode()), self._sizes]
        bounds = _bounds(namespace)
        # A new one may drive out the least: that must not be one that comes later in this batch.
        pairs = [part for name, _, times in reversed(named) for part in (name, times)]
        limits = (self._capacity, HALF_LIFE_SECONDS, _KEEP_SECONDS, MAX_NAMESPACES)
        missing, gone = await self._eval(
            _COUNT, [*keys, self._registry], [*bounds, *limits, *pairs]
        )
        for name in gone:
            await self._drop(name)
        # A request is sent only where Redis does not have it, which is seldom.
        wanted = set(missing)
        fields = [
            (name, self._seal.seal(canonical((keys[1], name)), _pack(query)))
            for name, query, _ in named
            if name in wanted
        ]
        for start in range(0, len(fields), _REQUESTS_AT_ONCE):
            parts = [part for pair in fields[start : start + _REQUESTS_AT_ONCE] for part in pair]
            await self._eval(_KEEP, keys, [*bounds, *parts])

    async def top(self, namespace: str, count: int) -> dict[_Query, int]:
        """The ``count`` queries asked most, and about how often."""
        counts, requests = self._keys(namespace.encode())
        scores = await self._run(
            lambda redis: redis.zrevrange(counts, 0, count - 1, withscores=True)
        )
        found: dict[_Query, int] = {}
        for start in range(0, len(scores), _REQUESTS_AT_ONCE):
            some = scores[start : start + _REQUESTS_AT_ONCE]
            names = [name for name, _ in some]
            packed = await self._run(partial(_requests, requests, names))
            bad: list[bytes] = []
            for (name, score), data in zip(some, packed, strict=True):
                # Missing while another sidecar is about to write it.
                if data is None:
                    continue
                opened = self._seal.open(canonical((requests, name)), data)
                if opened is None:
                    bad.append(name)
                else:
                    found[_unpack(opened)] = max(1, round(score))
            if bad:
                keys = (counts, requests, self._sizes)
                await self._eval(_FORGET, keys, [*_bounds(namespace), *bad])
        return found

    async def namespaces(self) -> list[str]:
        """The namespaces that were counted in of late."""
        names = await self._run(lambda redis: redis.zrange(self._registry, 0, -1))
        return [name.decode(errors="replace") for name in names]

    async def _drop(self, name: bytes) -> None:
        """Removes the keys of a namespace that is not registered any more."""
        await self._eval(_DROP, [self._registry, *self._keys(name)], [name])

    def _name(self, namespace: str, query: _Query) -> bytes:
        return self._digests.of(namespace.encode(), query[0].encode(), query[1])

    def _keys(self, namespace: bytes) -> tuple[bytes, bytes]:
        stem = self._stem.encode()
        return stem + b":" + namespace, stem + b"-requests:" + namespace

    async def _eval(self, script: str, keys: Sequence[bytes], arguments: Sequence[object]) -> Any:
        return await self._run(lambda redis: redis.eval(script, len(keys), *keys, *arguments))

    async def _run(self, command: Callable[[Any], Awaitable[Any]]) -> Any:
        return await self._warm.run(command, _SECONDS)


async def _requests(key: bytes, names: Sequence[bytes], redis: Any) -> list[bytes | None]:
    found: list[bytes | None] = await redis.hmget(key, names)
    return found


def _bounds(namespace: str) -> tuple[str, int, int, int]:
    return namespace, MAX_BYTES // 2, MAX_BYTES // 2 // MAX_NAMESPACES, QUERY_OVERHEAD_BYTES


def _pack(query: _Query) -> bytes:
    return query[0].encode() + b"\0" + query[1]


def _unpack(data: bytes) -> _Query:
    kind, _, request = data.partition(b"\0")
    return kind.decode(errors="replace"), request
