-- Appends a message. Drops handled ones if there is no other space.
-- KEYS: the queue. ARGV: the payload, the maximum number of messages.
-- Returns the id; or, if the queue is full, an empty string and the group that holds it up (an empty string
-- for none).
local key, most = KEYS[1], tonumber(ARGV[2])

-- Returns whether one number is less than another. Compares text, since Lua numbers are not exact above 2^53.
local function less(a, b)
  return #a < #b or (#a == #b and a < b)
end

-- Returns whether one id is before another.
local function before(a, b)
  local a_time, a_number = string.match(a, '(%d+)-(%d+)')
  local b_time, b_number = string.match(b, '(%d+)-(%d+)')
  return less(a_time, b_time) or (a_time == b_time and less(a_number, b_number))
end

-- Returns the id right after another. Returns the id itself if its number is not exact in Lua, which keeps
-- one message more.
local function behind(id)
  local time, number = string.match(id, '(%d+)-(%d+)')
  if #number > 15 then
    return id
  end
  return time .. '-' .. string.format('%.0f', tonumber(number) + 1)
end

-- Returns the oldest id that a group still needs, and the group; returns nothing if there is no group.
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
  -- First trim whole nodes of the stream's tree. This is cheap, and leaves space for more than the next
  -- message.
  redis.call('XTRIM', key, 'MINID', '~', oldest, 'LIMIT', 1000)
  if redis.call('XLEN', key) >= most then
    redis.call('XTRIM', key, 'MINID', '=', oldest)
  end
  if redis.call('XLEN', key) >= most then
    return { '', by }
  end
end
return { redis.call('XADD', key, '*', 'p', ARGV[1]), '' }
