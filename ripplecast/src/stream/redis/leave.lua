-- Releases whatever a consumer still holds, and removes the consumer.
-- KEYS: the stream. ARGV: the group, the consumer.
local key, group, me = KEYS[1], ARGV[1], ARGV[2]
local held = redis.pcall('XPENDING', key, group, '-', '+', 10000, me) -- an error when there is no such group
if held.err then
  return 0
end
for _, pending in ipairs(held) do
  redis.call('XCLAIM', key, group, 'released', 0, pending[1], 'JUSTID')
end
if not redis.call('XPENDING', key, group, '-', '+', 1, me)[1] then
  redis.call('XGROUP', 'DELCONSUMER', key, group, me)
end
return #held
