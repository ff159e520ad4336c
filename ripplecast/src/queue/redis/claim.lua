-- Takes over released messages and those of silent consumers. Removes dead consumers.
-- KEYS: the queue. ARGV: the group, our own consumer, the silence in ms, the cursor, the maximum number of
-- messages, whether to trust the silence, and the minimum and maximum in ms that the server's clock is
-- expected to show.
-- Returns the next cursor, the messages (id, fields, deliveries), the number of messages that the queue no
-- longer contains, and the time of the server's clock.
local key, group, me, silence = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local cursor, most = ARGV[4], tonumber(ARGV[5])
local is_believed, least, greatest = ARGV[6] == '1', tonumber(ARGV[7]), tonumber(ARGV[8])
local messages, trimmed = {}, 0
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

for _, pending in ipairs(redis.call('XPENDING', key, group, '-', '+', most, 'released')) do
  local message = redis.call('XCLAIM', key, group, me, 0, pending[1])[1]
  if message then
    messages[#messages + 1] = { message[1], message[2], pending[4] + 1 }
  else
    trimmed = trimmed + 1
  end
end

if now < least or now > greatest then
  is_believed = false
  -- If the clock was set back, the last renewal of a message is in the future. Its silence starts again now.
  for _, pending in ipairs(redis.call('XPENDING', key, group, '-', '+', 10000)) do
    if pending[3] == 0 and pending[2] ~= 'released' then
      redis.call('XCLAIM', key, group, pending[2], 0, pending[1], 'JUSTID')
    end
  end
end
if not is_believed then
  return { cursor, messages, trimmed, now }
end

for _ = 1, 100 do -- limits the work: each call scans ten messages for each one wanted
  if #messages >= most then
    break
  end
  local found = redis.call('XAUTOCLAIM', key, group, me, silence, cursor, 'COUNT', most - #messages)
  cursor = found[1]
  for _, message in ipairs(found[2]) do
    local pending = redis.call('XPENDING', key, group, message[1], message[1], 1)
    messages[#messages + 1] = { message[1], message[2], pending[1][4] }
  end
  trimmed = trimmed + #(found[3] or {})
  if cursor == '0-0' then
    break
  end
end

for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', key, group)) do
  local info = {}
  for i = 1, #consumer, 2 do
    info[consumer[i]] = consumer[i + 1]
  end
  -- A live consumer that holds nothing loses nothing: its next read creates it again.
  local gone = info['name'] == 'released' or info['idle'] > 2 * silence
  if info['name'] ~= me and info['pending'] == 0 and gone then
    redis.call('XGROUP', 'DELCONSUMER', key, group, info['name'])
  end
end
return { cursor, messages, trimmed, now }
