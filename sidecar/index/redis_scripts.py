"""The changes and reads that Redis makes as a whole, in Lua.

All but `IDENTIFY` take the keys of a collection in the order of `sidecar.index.redis_layout.Keys`.
"""

from __future__ import annotations

_COMMON = """
local vectors, documents, raw, ids, garbage, state = unpack(KEYS)
local function count(field) return tonumber(redis.call('HGET', state, field) or 0) end
local function add(field, number) return redis.call('HINCRBY', state, field, number) end
local function elements(header)
    local names = {}
    for i = 1, header.chunks do names[i] = header.write .. ':' .. i end
    return names
end
local function header_of(id)
    local text = redis.call('HGET', documents, id)
    return text and cjson.decode(text), text
end
local function retire(header)
    for _, name in ipairs(elements(header)) do redis.call('ZADD', garbage, 0, name) end
end
local function read(id)
    local header, text = header_of(id)
    if not header then return false end
    local document = {text}
    for _, name in ipairs(elements(header)) do
        document[#document + 1] = redis.call('VGETATTR', vectors, name)
        document[#document + 1] = redis.call('HGET', raw, name)
    end
    return document
end
"""

# The number of the last change; how many documents there are or should be; whether some are lost.
STATE = (
    _COMMON
    + """
local known = redis.call('HLEN', documents)
local stored = math.max(count('documents'), known)
local chunks = math.max(count('chunks'), stored)
local lost = known < stored or redis.call('ZCARD', ids) < stored
    or redis.call('VCARD', vectors) < chunks or redis.call('HLEN', raw) < chunks
return {count('clock'), stored, lost and 1 or 0}
"""
)

# The keys are that of the identity, and one that is not there. The identity: the one that is
# stored, or else the argument. An error if Redis does not know all that searching needs.
IDENTIFY = """
local added = redis.pcall('VADD', KEYS[2], 'VALUES', 1, 1, 'a', 'SETATTR', '{}')
if type(added) == 'table' then return added end
local found = redis.pcall('VSIM', KEYS[2], 'VALUES', 1, 1, 'WITHSCORES', 'WITHATTRIBS')
redis.call('DEL', KEYS[2])
if found.err then return found end
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
"""

# Seconds, then elements that are about to be added: they are garbage unless they are put to use
# in that time. What is left of documents that are lost is removed: nobody can find it.
ANNOUNCE = (
    _COMMON
    + """
local due = redis.call('TIME')[1] + ARGV[1]
local waiting = redis.call('ZCARD', garbage)
if redis.call('EXISTS', documents) == 0 and (redis.call('EXISTS', ids) == 1
    or redis.call('VCARD', vectors) > waiting or redis.call('HLEN', raw) > waiting) then
    redis.call('UNLINK', vectors, raw, ids, garbage)
end
for i = 2, #ARGV do redis.call('ZADD', garbage, due, ARGV[i]) end
"""
)

# Document id, header, in hexadecimal the content that the document there must have, or '', and the
# write that it must be of, or '' for none there. 'changed' if it is of another write: what comes
# late, when its sender has given it up, must not undo what was stored since. 'gone' if it has
# another content, 'late' if the elements of the header may have been removed as garbage.
COMMIT = (
    _COMMON
    + """
local id, header, expected, before = ARGV[1], cjson.decode(ARGV[2]), ARGV[3], ARGV[4]
local old = header_of(id)
if before ~= (old and old.write or '') then return 'changed' end
if expected ~= '' and not (old and old.content == expected) then return 'gone' end
local names = elements(header)
for _, name in ipairs(names) do
    if tonumber(redis.call('ZSCORE', garbage, name) or 0) == 0 then return 'late' end
end
for _, name in ipairs(names) do redis.call('ZREM', garbage, name) end
local known = redis.call('HLEN', documents)
-- While some are lost, it may be one of them.
if not old and known >= count('documents') then add('documents', 1) end
if known == 0 then redis.call('HDEL', state, 'chunks') end
add('chunks', header.chunks - (old and old.chunks or 0))
if old then retire(old) end
header.clock = add('clock', 1)
redis.call('HSET', documents, id, cjson.encode(header))
redis.call('ZADD', ids, 0, id)
return 'done'
"""
)

# Document id, and the write that the document there must be of, or '' for none there. Whether there
# was one; 'changed' if it is of another write.
DELETE = (
    _COMMON
    + """
local old = header_of(ARGV[1])
if ARGV[2] ~= (old and old.write or '') then return 'changed' end
if old then
    retire(old)
    add('documents', -1)
    add('chunks', -old.chunks)
elseif redis.call('HLEN', documents) < count('documents') then
    -- One that is lost, which nobody needs to store again.
    add('documents', -1)
end
redis.call('HDEL', documents, ARGV[1])
redis.call('ZREM', ids, ARGV[1])
return old and 1 or 0
"""
)

# How many at most. Elements to be removed; from now on nobody can put them to use.
CLAIM_GARBAGE = (
    _COMMON
    + """
local due = redis.call('TIME')[1]
local names = redis.call('ZRANGE', garbage, '-inf', due, 'BYSCORE', 'LIMIT', 0, ARGV[1])
for _, name in ipairs(names) do redis.call('ZADD', garbage, 0, name) end
return names
"""
)

# Document ids. For each that is there, its header and the attributes and vectors of its chunks.
READ = (
    _COMMON
    + """
local found = {}
for _, id in ipairs(ARGV) do
    local document = read(id)
    if document then found[#found + 1] = document end
end
return found
"""
)

# A document id and how many at most. As `READ`, of those that come after this id.
READ_AFTER = (
    _COMMON
    + """
local found = {}
for _, id in ipairs(redis.call('ZRANGE', ids, '(' .. ARGV[1], '+', 'BYLEX', 'LIMIT', 0, ARGV[2])) do
    found[#found + 1] = read(id)
end
return found
"""
)
