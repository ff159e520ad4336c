-- Redelivers a message that the consumer holds, or releases it.
-- KEYS: the queue. ARGV: the group, the consumer, the id, the action: again; release; return, when no
-- handler saw this delivery, so that it does not count; undo, a return that keeps the message.
-- Returns the number of deliveries; -1 if another consumer owns or has handled it; 0 if the queue no longer
-- contains it.
local key, group, me, id, what = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local pending = redis.pcall('XPENDING', key, group, id, id, 1) -- an error if the group does not exist
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
  owner = 'released' -- the next claim takes it, whatever the server's clock shows
end
if not redis.call('XCLAIM', key, group, owner, 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')[1] then
  return 0
end
return deliveries
