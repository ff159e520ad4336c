-- The prefix of each table script.
--
-- KEYS  1 the index: keys scored by the number of the change that created the row
--       2 the deadlines: keys scored by their expiry in milliseconds
--       3 the history: the epoch, and the number of changes in it, as "EPOCH NUMBER"
-- ARGV  1 PUBLISH or SPUBLISH, 2 the channel, 3 an epoch for a new history; more from 4 on
-- Returns 0 and the script's result, or
--         1 more rows have expired than one call deletes: nothing was done, call again
--         2 the table is full: the number of rows it would hold
--         3 the sum is out of range: the unchanged value
--         4 the cursor belongs to another history
--
-- A row is a hash of its columns: integers in decimal, floats in the shortest decimal that reads back the
-- same, text and bytes unchanged. A column missing from a row reads as zero or empty. Integers are never Lua
-- numbers, which are exact only up to 2^53. Changes are counted one by one, so their number stays far below
-- that.
--
-- Time is used only for deadlines: if the clock jumps, rows expire early or late. Nothing is ordered by time.

local index, deadlines, numbers = KEYS[1], KEYS[2], KEYS[3]
local publish, channel, fresh = ARGV[1], ARGV[2], ARGV[3]
-- Prefix of the rows' hashes: the index is ...:i, a row ...:r:KEY.
local rows = string.sub(index, 1, -2) .. 'r:'
-- Expired rows deleted by one call. More would keep other clients waiting.
local AT_ONCE = 100

local time = redis.call('TIME')
local millis = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch, number, changed = nil, nil, false

local function decimal(number)
  return string.format('%.0f', number)
end

-- Returns the number of the last change. If the history is not known, the result is at least that of the
-- newest row.
local function last()
  if not number then
    local found, count = string.match(redis.call('GET', numbers) or '', '^(%x+) (%d+)$')
    if found then
      epoch, number = found, tonumber(count)
    else
      local newest = redis.call('ZREVRANGE', index, 0, 0, 'WITHSCORES')
      number = tonumber(newest[2] or '0')
    end
  end
  return number
end

-- Counts a change and returns its number.
local function next_number()
  number, changed = last() + 1, true
  epoch = epoch or fresh
  return decimal(number)
end

-- Ends the script with that result.
local function done(...)
  if changed then
    redis.call('SET', numbers, epoch .. ' ' .. decimal(number))
  end
  return { ... }
end

-- Publishes the last change: epoch and number; a letter; then each item, prefixed with its length.
local function tell(letter, ...)
  local parts = { epoch, ' ', decimal(number), ' ', letter }
  for _, item in ipairs({ ... }) do
    parts[#parts + 1] = #item .. ':' .. item
  end
  redis.call(publish, channel, table.concat(parts))
end

-- Begins an epoch if there is none, or if the known epoch had more changes than are here, which means that
-- some were lost. The new numbers start above the known ones.
local function settle(known, at)
  at = tonumber(at or 0) or 0
  last()
  if epoch and (epoch ~= known or number >= at) then
    return
  end
  epoch, number, changed = fresh, math.max(number, at) + 1, true
  tell('N')
end

-- Deletes an existing row.
local function remove(key)
  redis.call('DEL', rows .. key)
  redis.call('ZREM', index, key)
  redis.call('ZREM', deadlines, key)
  next_number()
  tell('D', key)
end

-- Writes a row: `width` names and values of ARGV.
local function put(key, names, values, width)
  local fields = {}
  for i = 0, width - 1 do
    fields[#fields + 1] = ARGV[names + i]
    fields[#fields + 1] = ARGV[values + i]
  end
  local change = next_number()
  if redis.call('DEL', rows .. key) == 0 then
    redis.call('ZADD', index, change, key)
  else
    redis.call('ZREM', deadlines, key)
  end
  redis.call('HSET', rows .. key, unpack(fields))
  tell('S', key, unpack(fields))
end

-- Returns the values of a row, with false for missing ones; returns false if there is no row.
local function read(key, names)
  if #names > 0 then
    local values = redis.call('HMGET', rows .. key, unpack(names))
    for _, value in ipairs(values) do
      if value then
        return values
      end
    end
    return redis.call('EXISTS', rows .. key) == 1 and values
  end
  return redis.call('EXISTS', rows .. key) == 1 and {}
end

-- Returns `count` arguments, starting at `from`.
local function arguments(from, count)
  local found = {}
  for i = 0, count - 1 do
    found[#found + 1] = ARGV[from + i]
  end
  return found
end

local due = redis.call('ZRANGEBYSCORE', deadlines, '-inf', decimal(millis), 'LIMIT', 0, AT_ONCE)
for _, key in ipairs(due) do
  remove(key)
end
if #due == AT_ONCE then
  return done(1)
end
