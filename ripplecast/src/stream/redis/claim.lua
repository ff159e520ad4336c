-- Takes over messages that were released, and messages whose holders have been silent; removes consumers that are gone.
-- KEYS: the stream. ARGV: the group, the own consumer, the silence in ms, the cursor, the most messages.
-- Returns the next cursor, the messages (id, fields, deliveries), and how many were found that are not on the stream any more.
local key, group, me, silence = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local cursor, most = ARGV[4], tonumber(ARGV[5])
local messages, trimmed = {}, 0

for _, pending in ipairs(redis.call('XPENDING', key, group, '-', '+', most, 'released')) do
  local message = redis.call('XCLAIM', key, group, me, 0, pending[1])[1]
  if message then
    messages[#messages + 1] = { message[1], message[2], pending[4] + 1 }
  else
    trimmed = trimmed + 1
  end
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
return { cursor, messages, trimmed }
