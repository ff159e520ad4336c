-- Finds messages that were delivered to the consumer and not settled, because a reply may have been lost.
-- KEYS: the queue. ARGV: the group, the consumer, the maximum number of messages.
-- Returns the messages (id, fields, deliveries), and the number of messages that the queue no longer
-- contains.
local key, group, me = KEYS[1], ARGV[1], ARGV[2]
local messages, trimmed = {}, 0
for _, pending in ipairs(redis.call('XPENDING', key, group, '-', '+', ARGV[3], me)) do
  local entry = redis.call('XRANGE', key, pending[1], pending[1])[1]
  if entry then
    messages[#messages + 1] = { pending[1], entry[2], pending[4] }
  else
    redis.call('XACK', key, group, pending[1])
    trimmed = trimmed + 1
  end
end
return { messages, trimmed }
