-- Reads the status of a queue. KEYS: the queue, its dead letters.
-- Returns the length, the number of messages ever published, the newest id, the number of dead letters, and
-- the groups: name, consumers, pending, lag (-1 for unknown), the newest id delivered.
local key = KEYS[1]
local dead = redis.call('XLEN', KEYS[2])
if redis.call('EXISTS', key) == 0 then
  return { 0, 0, '0-0', dead, {} }
end

local function named(flat)
  local info = {}
  for i = 1, #flat, 2 do
    info[flat[i]] = flat[i + 1]
  end
  return info
end

local stream, groups = named(redis.call('XINFO', 'STREAM', key)), {}
for i, flat in ipairs(redis.call('XINFO', 'GROUPS', key)) do
  local group = named(flat)
  local consumers = group['consumers']
  if consumers > 0 then
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', key, group['name'])) do
      if named(consumer)['name'] == 'released' then
        consumers = consumers - 1 -- it only holds released messages
      end
    end
  end
  groups[i] = { group['name'], consumers, group['pending'], group['lag'] or -1, group['last-delivered-id'] }
end
return { stream['length'], stream['entries-added'], stream['last-generated-id'], dead, groups }
