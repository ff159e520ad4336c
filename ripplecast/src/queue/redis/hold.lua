-- Delivers a message that the consumer holds again, or releases it.
-- KEYS: the stream. ARGV: the group, the consumer, the id, what to do: again, release, or return when no handler saw this
-- delivery, so that it doesn't count; undo is a return that keeps the message.
-- Returns how often it was delivered; -1 when another has it or it is handled; 0 when it is not on the stream any more.
local key, group, me, id, what = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local pending = redis.pcall('XPENDING', key, group, id, id, 1) -- an error when there is no such group
if pending.err or not pending[1] then
  return redis.call('XRANGE', key, id, id)[1] and -1 or 0
end
if pending[1][2] ~= me then
  return -1
end
local deliveries = pending[1][4]
if what == 'again' then
  deliveries = deliveries + 1
elseif (what == 'return' or what == 'undo') and deliveries > 0 then
  deliveries = deliveries - 1
end
local owner = me
if what == 'release' or what == 'return' then
  owner = 'released' -- whoever looks next takes it, whatever the server's clock says
end
if not redis.call('XCLAIM', key, group, owner, 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')[1] then
  return 0
end
return deliveries
