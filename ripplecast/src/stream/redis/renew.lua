-- Renews whatever a consumer holds: also what was delivered to it and waits in its socket.
-- KEYS: the stream. ARGV: the group, the consumer.
-- Returns how many messages that is.
local key, group, me = KEYS[1], ARGV[1], ARGV[2]
local held = redis.pcall('XPENDING', key, group, '-', '+', 10000, me) -- an error when there is no such group
if held.err then
  return 0
end
for _, pending in ipairs(held) do
  redis.call('XCLAIM', key, group, me, 0, pending[1], 'JUSTID')
end
return #held
