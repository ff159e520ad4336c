-- Takes over messages that were released, and messages whose holders have been silent; removes consumers that are gone.
-- KEYS: the stream. ARGV: the group, the own consumer, the silence in ms, the cursor, the most messages, whether the silence is
-- believed, and the least and the greatest time in ms that the server's clock is expected to say.
-- Returns the next cursor, the messages (id, fields, deliveries), how many were found that are not on the stream any more, and
-- what the server's clock says.
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
  -- Where the clock was set back, the last renewal of a message is in the future: its silence begins now.
  for _, pending in ipairs(redis.call('XPENDING', key, group, '-', '+', 10000)) do
    if pending[3] == 0 and pending[2] ~= 'released' then
      redis.call('XCLAIM', key, group, pending[2], 0, pending[1], 'JUSTID')
    end
  end
end
if not is_believed then
  return { cursor, messages, trimmed, now }
end

for _ = 1, 100 do -- a bound: each looks at ten messages for each that is wanted
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
  -- One that lives and holds nothing loses nothing either: it is there again with its next read.
  local gone = info['name'] == 'released' or info['idle'] > 2 * silence
  if info['name'] ~= me and info['pending'] == 0 and gone then
    redis.call('XGROUP', 'DELCONSUMER', key, group, info['name'])
  end
end
return { cursor, messages, trimmed, now }
