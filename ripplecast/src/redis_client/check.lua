-- Runs every command that is used later once, so that a missing permission is reported by name at the start.
-- KEYS  five unused keys of one slot: a string, a hash, a sorted set, a set, a stream
local text, hash, sorted, set, stream = unpack(KEYS)
local group = 'probe'
redis.call('DEL', unpack(KEYS))

redis.call('SET', text, '1', 'PX', 1000)
redis.call('GET', text)
redis.call('EXISTS', text)
redis.call('PERSIST', text)
redis.call('PEXPIREAT', text, redis.call('TIME')[1] * 1000 + 1000)

redis.call('HSET', hash, 'f', '1')
redis.call('HINCRBY', hash, 'f', 1)
redis.call('HGET', hash, 'f')
redis.call('HMGET', hash, 'f')
redis.call('HGETALL', hash)
redis.call('PEXPIRE', hash, 1000)
redis.call('HDEL', hash, 'f')

redis.call('ZADD', sorted, 1, 'm')
redis.call('ZCARD', sorted)
redis.call('ZSCORE', sorted, 'm')
redis.call('ZRANGE', sorted, 0, 0)
redis.call('ZRANGEBYSCORE', sorted, 0, 1)
redis.call('ZREM', sorted, 'm')

redis.call('SADD', set, 'm')
redis.call('SRANDMEMBER', set, 1)
redis.call('SREM', set, 'm')

redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
local id = redis.call('XADD', stream, '*', 'f', '1')
redis.call('XREADGROUP', 'GROUP', group, 'c', 'COUNT', 1, 'STREAMS', stream, '>')
redis.call('XPENDING', stream, group)
redis.call('XCLAIM', stream, group, 'c', 0, id)
redis.call('XAUTOCLAIM', stream, group, 'c', 0, '0')
redis.call('XACK', stream, group, id)
redis.call('XINFO', 'STREAM', stream)
redis.call('XINFO', 'GROUPS', stream)
redis.call('XINFO', 'CONSUMERS', stream, group)
redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)
redis.call('XLEN', stream)
redis.call('XTRIM', stream, 'MAXLEN', 0)
redis.call('XGROUP', 'DELCONSUMER', stream, group, 'c')
redis.call('XGROUP', 'DESTROY', stream, group)

redis.call(ARGV[1], text, '')
return redis.call('UNLINK', unpack(KEYS))
