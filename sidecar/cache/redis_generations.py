"""Epochs and generations shared through Redis, and the stream that tells of their changes.

For each namespace, one hash holds its epoch, its base and the generations of its tags, and a small
one the numbers of its scopes. A change and its announcement on the stream are one script, so
neither is without the other. Their keys share a hash tag: in a cluster they live on one node.

Redis may evict or lose any of these keys on its own. The field ``scoped`` of the first hash is the
largest number in the second, so that the loss of either shows; the namespace then gets a new epoch.

None of these numbers can be authenticated: Redis makes them. Who can write to it can invalidate
anything, and can take an invalidation back, so that what was right before it is given again until
its lifetime ends. A number far ahead of Redis' clock, which no script makes, counts as a loss:
nothing could exceed it. Changes, which say what an invalidation leaves valid, are sealed.
"""

from __future__ import annotations

import time
from itertools import chain
from typing import TYPE_CHECKING, Any

from sidecar.cache.generations import MAX_STORED_TAGS, Bumped, Stored, StoreUnavailableError
from sidecar.cache.keys import canonical
from sidecar.cache.namespace_state import MAX_SCOPES
from sidecar.cache.seals import PLAIN
from sidecar.cache.warm import WarmUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sidecar.cache.seals import Seal
    from sidecar.cache.warm import WarmTier

STREAM_LENGTH = 100_000
STREAM_CHANGES_BYTES = 64 * 2**20
"""About what the stream may hold of changes. Larger ones make it shorter."""
EXPECTED_SECONDS = 86_400
MOST_AHEAD_US = 10 * 365 * 86_400 * 10**6
"""How far a number may be ahead of the time: clocks differ, and every number exceeds the last."""
TAG_FIELD = b"tag:"
SCOPE_FIELD = b"scope:"

# KEYS: the hash, the stream, the scopes. ARGV: namespace, length of the stream, most scopes, and a
# number that new epochs must exceed; more by script. A new number is the time in microseconds, or
# one more than the last.
_COMMON = (
    f"local most_ahead = {MOST_AHEAD_US}"
    """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if tonumber(ARGV[4]) > now + most_ahead then
    return redis.error_reply('ERR the clock is far behind what a sidecar knows')
end
local function later(last)
    return string.format('%.0f', math.max(now, (tonumber(last) or 0) + 1))
end
local function tell(field, value, ...)
    redis.call(
        'XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'n', ARGV[1], 'f', field, 'g', value, ...)
end
local function get(field)
    return redis.call('HGET', KEYS[1], field)
end
local function scopes_above(number)
    local oldest, newest
    local all = redis.call('HGETALL', KEYS[3])
    for i = 1, #all, 2 do
        local value = tonumber(all[i + 1])
        if value > number then
            oldest, newest = math.min(oldest or value, value), math.max(newest or value, value)
        else
            redis.call('HDEL', KEYS[3], all[i])
        end
    end
    if newest then
        redis.call('HSET', KEYS[1], 'scoped', string.format('%.0f', newest))
    else
        redis.call('HDEL', KEYS[1], 'scoped')
    end
    return oldest, newest
end
local function set_epoch(value)
    redis.call('HSET', KEYS[1], 'epoch', value)
    scopes_above(tonumber(value))
    tell('epoch', value)
end
local function set_scope(scope, value)
    redis.call('HSET', KEYS[3], scope, value)
    local oldest = scopes_above(0)
    tell('scope:' .. scope, value)
    if redis.call('HLEN', KEYS[3]) > tonumber(ARGV[3]) then
        set_epoch(string.format('%.0f', oldest))
    end
end
local function begin(first_field)
    local forged, newest = false, tonumber(ARGV[4])
    local function check(value)
        if not value then return end
        if string.match(value, '^%d+$') and tonumber(value) <= now + most_ahead then
            newest = math.max(newest, tonumber(value))
        else
            forged = true
        end
    end
    for _, value in ipairs(redis.call('HMGET', KEYS[1], 'epoch', 'base', 'scoped')) do
        check(value)
    end
    for _, value in ipairs(redis.call('HVALS', KEYS[3])) do check(value) end
    for i = first_field, #ARGV do check(get(ARGV[i])) end
    if forged then redis.call('DEL', KEYS[1], KEYS[3]) end
    redis.call('HSETNX', KEYS[1], 'base', later(nil))
    local epoch, scoped = get('epoch'), get('scoped')
    if not epoch or (scoped and redis.call('EXISTS', KEYS[3]) == 0) then
        set_epoch(later(newest))
    end
    if forged then tell('base', get('base')) end
end
"""
)

# KEYS: the hash, the scopes. What a namespace has, as it is for as long as nothing is lost: one
# short script, since every sidecar asks for it all the time.
_READ = """
local numbers = redis.call('HMGET', KEYS[1], 'epoch', 'base', 'scoped')
return {numbers[1], numbers[2], numbers[3], unpack(redis.call('HGETALL', KEYS[2]))}
"""

# ARGV: the caller's epoch, then its scopes, each with its number.
_LOAD = (
    _COMMON
    + """
begin(#ARGV + 1)
if tonumber(ARGV[5]) > tonumber(get('epoch')) then set_epoch(ARGV[5]) end
for i = 6, #ARGV, 2 do
    local held = redis.call('HGET', KEYS[3], ARGV[i]) or get('epoch')
    if tonumber(ARGV[i + 1]) > tonumber(held) then set_scope(ARGV[i], ARGV[i + 1]) end
end
return {get('epoch'), get('base'), unpack(redis.call('HGETALL', KEYS[3]))}
"""
)

# ARGV: most tags, the change, then the fields of the tags.
_BUMP_TAGS = (
    _COMMON
    + """
begin(7)
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[5]) then
    local kept = {'epoch', get('epoch'), 'base', later(get('base'))}
    local scoped = get('scoped')
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], unpack(kept))
    if scoped then redis.call('HSET', KEYS[1], 'scoped', scoped) end
    tell('base', get('base'))
end
local result = {get('base')}
for i = 7, #ARGV do
    local previous = get(ARGV[i]) or get('base')
    local generation = later(previous)
    redis.call('HSET', KEYS[1], ARGV[i], generation)
    if ARGV[6] == '' then
        tell(ARGV[i], generation)
    else
        tell(ARGV[i], generation, 'p', previous, 'c', ARGV[6])
    end
    result[#result + 1] = previous
    result[#result + 1] = generation
end
return result
"""
)

# ARGV: the scope, empty for the whole namespace.
_BUMP_SCOPE = (
    _COMMON
    + """
begin(#ARGV + 1)
local _, newest = scopes_above(0)
local number = later(math.max(tonumber(get('epoch')), newest or 0, tonumber(ARGV[4])))
if ARGV[5] == '' then set_epoch(number) else set_scope(ARGV[5], number) end
return number
"""
)

# ARGV: fields of tags, one of which has a number that no script made.
_REPAIR = _COMMON + "begin(5)"

# KEYS: a hash, from change to token. ARGV: seconds, then changes, each with its token.
_EXPECT = """
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""

# ARGV: the token, then changes.
_SETTLE = """
for i = 2, #ARGV do
    if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
"""


class RedisGenerations:
    """A `GenerationStore` that every sidecar on the same Redis and prefix shares.

    Changes go through ``seal``, for the stream, the namespace and the tag: see `change_name`.
    """

    def __init__(self, warm: WarmTier, prefix: str, *, seal: Seal = PLAIN) -> None:
        self._warm = warm
        self._prefix = prefix
        self._seal = seal
        self.stream = f"{prefix}:{{state}}:invalidations".encode()

    async def load(self, namespace: str, epoch: int, scopes: Mapping[bytes, int]) -> Stored:
        """See `GenerationStore.load`."""
        stored = await self._read(namespace)
        if stored is not None and _has_all(stored, epoch, scopes):
            return stored
        known = max(epoch, *scopes.values(), 0)
        reply = await self._eval(_LOAD, namespace, known, epoch, *chain(*scopes.items()))
        return _stored(*reply)

    async def _read(self, namespace: str) -> Stored | None:
        """What Redis has; None if a part is lost, or is what no script makes."""
        keys = (self._hash(namespace), self._scopes(namespace))
        epoch, base, scoped, *scopes = await self._run(
            lambda redis: redis.eval(_READ, len(keys), *keys)
        )
        if epoch is None or base is None or (scoped is not None and not scopes):
            return None
        try:
            _number(scoped or b"0")
            return _stored(epoch, base, *scopes)
        except StoreUnavailableError:
            return None

    async def generations(
        self, namespace: str, tags: Sequence[bytes]
    ) -> tuple[int, dict[bytes, int]] | None:
        """See `GenerationStore.generations`."""
        fields = [b"epoch", b"scoped", b"base", *map(_tag_field, tags)]
        reply = await self._run(lambda redis: redis.hmget(self._hash(namespace), fields))
        epoch, scoped, base, *values = reply
        if epoch is None or base is None:
            return None
        try:
            newest = max(parse_number(epoch), parse_number(scoped or b"0"))
            generations = [parse_number(value or base) for value in values]
        except ValueError:
            await self._eval(_REPAIR, namespace, 0, *fields[3:])
            return None
        return newest, dict(zip(tags, generations, strict=True))

    async def bump_tags(self, namespace: str, tags: Sequence[bytes], change: bytes) -> Bumped:
        """See `GenerationStore.bump_tags`."""
        if change:
            change = self._seal.seal(change_name(self.stream, namespace, *tags), change)
        # Changes are of very different sizes, and Redis' memory is no more than what is needed.
        length = min(STREAM_LENGTH, STREAM_CHANGES_BYTES // max(len(change), 1))
        fields = map(_tag_field, tags)
        reply = await self._eval(
            _BUMP_TAGS, namespace, 0, MAX_STORED_TAGS, change, *fields, length=length
        )
        base, *numbers = map(_number, reply)
        steps = zip(numbers[::2], numbers[1::2], strict=True)
        return Bumped(base, dict(zip(tags, steps, strict=True)))

    async def bump_scope(self, namespace: str, scope: bytes, known: int) -> int:
        """See `GenerationStore.bump_scope`."""
        return _number(await self._eval(_BUMP_SCOPE, namespace, known, scope))

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

    async def expect(
        self, namespace: str, tag: bytes, changes: Sequence[bytes], token: bytes
    ) -> None:
        """See `GenerationStore.expect`."""
        key = self._expected(namespace, tag)
        fields = chain.from_iterable((change, token) for change in changes)
        await self._run(lambda redis: redis.eval(_EXPECT, 1, key, EXPECTED_SECONDS, *fields))

    async def expected(
        self, namespace: str, tag: bytes, changes: Sequence[bytes]
    ) -> list[bytes | None]:
        """See `GenerationStore.expected`."""
        key = self._expected(namespace, tag)
        tokens: list[bytes | None] = await self._run(lambda redis: redis.hmget(key, list(changes)))
        return tokens

    async def settle(
        self, namespace: str, tag: bytes, changes: Sequence[bytes], token: bytes
    ) -> None:
        """See `GenerationStore.settle`."""
        key = self._expected(namespace, tag)
        await self._run(lambda redis: redis.eval(_SETTLE, 1, key, token, *changes))

    async def _eval(
        self, script: str, namespace: str, known: int, *more: Any, length: int = STREAM_LENGTH
    ) -> Any:
        keys = (self._hash(namespace), self.stream, self._scopes(namespace))
        arguments = (namespace, length, MAX_SCOPES, known, *more)
        return await self._run(lambda redis: redis.eval(script, len(keys), *keys, *arguments))

    def _hash(self, namespace: str) -> bytes:
        return f"{self._prefix}:{{state}}:namespace:{namespace}".encode()

    def _scopes(self, namespace: str) -> bytes:
        return f"{self._prefix}:{{state}}:scopes:{namespace}".encode()

    def _expected(self, namespace: str, tag: bytes) -> bytes:
        return f"{self._prefix}:{{state}}:expected:{tag.hex()}:{namespace}".encode()

    async def _run(self, command: Callable[[Any], Awaitable[Any]]) -> Any:
        try:
            return await self._warm.run(command)
        except WarmUnavailableError as error:
            raise StoreUnavailableError(str(error)) from error


def parse_number(data: bytes) -> int:
    """A number as Redis keeps it. Raises `ValueError` for one that no script has made."""
    number = int(data)
    if not 0 <= number <= time.time_ns() // 1000 + MOST_AHEAD_US:
        raise ValueError("not a number of microseconds")
    return number


def _number(data: bytes) -> int:
    try:
        return parse_number(data)
    except ValueError as error:
        raise StoreUnavailableError("Redis has something else under a namespace") from error


def _stored(epoch: bytes, base: bytes, *scopes: bytes) -> Stored:
    """From what a script returns. Raises `StoreUnavailableError`."""
    numbers = map(_number, scopes[1::2])
    return Stored(_number(epoch), _number(base), dict(zip(scopes[::2], numbers, strict=True)))


def _has_all(stored: Stored, epoch: int, scopes: Mapping[bytes, int]) -> bool:
    """Whether a store knows of all that a caller does."""
    return stored.epoch >= epoch and all(
        stored.scopes.get(scope, stored.epoch) >= number for scope, number in scopes.items()
    )


def change_name(stream: bytes, namespace: str, *tags: bytes) -> bytes:
    """What a change is sealed for. With a change there is one tag."""
    return canonical((stream, namespace.encode(), *tags))


def _tag_field(tag: bytes) -> bytes:
    return TAG_FIELD + tag.hex().encode()
