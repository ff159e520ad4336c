-- Appends a message, in the place of handled ones if there is no other.
-- KEYS: the stream. ARGV: the payload, the most messages.
-- Returns the id; or, when the stream is full, an empty string and the group that holds it up (an empty string for none).
local key, most = KEYS[1], tonumber(ARGV[2])

-- Whether one number is less than another: as text, since Lua's own are not exact above 2^53.
local function less(a, b)
  return #a < #b or (#a == #b and a < b)
end

-- Whether one id is before another.
local function before(a, b)
  local a_time, a_number = string.match(a, '(%d+)-(%d+)')
  local b_time, b_number = string.match(b, '(%d+)-(%d+)')
  return less(a_time, b_time) or (a_time == b_time and less(a_number, b_number))
end

-- The id right behind another; itself when its number is not exact in Lua, so that one message more is kept.
local function behind(id)
  local time, number = string.match(id, '(%d+)-(%d+)')
  if #number > 15 then
    return id
  end
  return time .. '-' .. string.format('%.0f', tonumber(number) + 1)
end

-- The oldest id that a group still needs, and the group; nothing when there is no group.
local function needed()
  local oldest, by
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local info = {}
    for i = 1, #group, 2 do
      info[group[i]] = group[i + 1]
    end
    local from = behind(info['last-delivered-id'])
    if info['pending'] > 0 then
      from = redis.call('XPENDING', key, info['name'])[2]
    end
    if not oldest or before(from, oldest) then
      oldest, by = from, info['name']
    end
  end
  return oldest, by
end

if redis.call('XLEN', key) >= most then
  local oldest, by = needed()
  if not oldest then
    return { '', '' }
  end
  -- Whole nodes of the stream's tree first, which is cheap, so that it is not at its bound again with the next message.
  redis.call('XTRIM', key, 'MINID', '~', oldest, 'LIMIT', 1000)
  if redis.call('XLEN', key) >= most then
    redis.call('XTRIM', key, 'MINID', '=', oldest)
  end
  if redis.call('XLEN', key) >= most then
    return { '', by }
  end
end
return { redis.call('XADD', key, '*', 'p', ARGV[1]), '' }
