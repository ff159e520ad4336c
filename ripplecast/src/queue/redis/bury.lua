-- Moves a message to the dead letters, unless another consumer owns or has handled it.
-- KEYS: the queue, its dead letters. ARGV: the group, the consumer, the id, the payload, the reason, the
-- deliveries, the maximum number of dead letters.
-- Returns whether the message was moved.
local key, dead, group, me, id = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local pending = redis.pcall('XPENDING', key, group, id, id, 1) -- an error if the group does not exist
if pending.err or not pending[1] then
  if redis.call('XRANGE', key, id, id)[1] then
    return 0
  end
elseif pending[1][2] ~= me then
  return 0
end
redis.call('XADD', dead, 'MAXLEN', '~', ARGV[7], '*', 'p', ARGV[4], 'i', id, 'g', group, 'r', ARGV[5], 'n', ARGV[6])
redis.call('XACK', key, group, id)
return 1
