-- The beginning of each script of a table.
--
-- KEYS  1 the index: keys scored by the number of the change that made the row
--       2 the deadlines: keys scored by when they expire, in milliseconds
--       3 the history: the epoch, and how many changes there were in it, as "EPOCH NUMBER"
-- ARGV  1 PUBLISH or SPUBLISH, 2 the channel, 3 an epoch for a history that begins now; more from 4 on
-- Answer: 0 and what there is to say, or
--         1 more has expired than is deleted at once: nothing was done, call again
--         2 the table is full: how many rows it would hold
--         3 the sum is out of range: the value as it stays
--         4 the cursor is of another history
--
-- A row is a hash of its columns: integers in decimals, floats in the shortest decimals that read back the same, texts and
-- bytes as they are. A column that a row doesn't have reads as zero or empty. Integers are never Lua's numbers, which are
-- exact up to 2^53 only. Numbers of changes count by ones, so they stay far below that.
--
-- Time is used for deadlines alone: a clock that jumps makes rows expire early or late. Nothing is ordered by time.

local index, deadlines, numbers = KEYS[1], KEYS[2], KEYS[3]
local publish, channel, fresh = ARGV[1], ARGV[2], ARGV[3]
-- What the keys of the rows' hashes begin with: the index is ...:i, a row ...:r:KEY.
local rows = string.sub(index, 1, -2) .. 'r:'
-- Expired rows that are deleted by one call: more would keep other clients waiting.
local AT_ONCE = 100

local time = redis.call('TIME')
local millis = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch, number, changed = nil, nil, false

local function decimal(number)
  return string.format('%.0f', number)
end

-- The number of the last change. Where the history is not known, it is above all rows that are there.
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

-- Counts a change. Returns its number.
local function next_number()
  number, changed = last() + 1, true
  epoch = epoch or fresh
  return decimal(number)
end

-- Ends the script with that answer.
local function done(...)
  if changed then
    redis.call('SET', numbers, epoch .. ' ' .. decimal(number))
  end
  return { ... }
end

-- Publishes the last change: epoch and number; a letter; then each item with its length before it.
local function tell(letter, ...)
  local parts = { epoch, ' ', decimal(number), ' ', letter }
  for _, item in ipairs({ ... }) do
    parts[#parts + 1] = #item .. ':' .. item
  end
  redis.call(publish, channel, table.concat(parts))
end

-- Begins an epoch if there is none, or if the known one had more changes than are here: then some were lost. Its numbers
-- begin above the known ones.
local function settle(known, at)
  at = tonumber(at or 0) or 0
  last()
  if epoch and (epoch ~= known or number >= at) then
    return
  end
  epoch, number, changed = fresh, math.max(number, at) + 1, true
  tell('N')
end

-- Deletes a row that is there.
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

-- The values of a row, with false for those that it doesn't have; false if there is no row.
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

-- `count` arguments from `from` on.
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
