-- Transfers all messages that a consumer holds to an owner, including delivered ones still in the consumer's
-- socket. The owner is the consumer itself, which renews its leases, or `released`, after which the consumer
-- is removed.
-- KEYS: the queue. ARGV: the group, the consumer, the owner.
-- Returns the number of messages.
local key, group, me, owner = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local held = redis.pcall('XPENDING', key, group, '-', '+', 10000, me) -- an error if the group does not exist
if held.err then
  return 0
end
for _, pending in ipairs(held) do
  redis.call('XCLAIM', key, group, owner, 0, pending[1], 'JUSTID')
end
if owner ~= me and not redis.call('XPENDING', key, group, '-', '+', 1, me)[1] then
  redis.call('XGROUP', 'DELCONSUMER', key, group, me)
end
return #held
