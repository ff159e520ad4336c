-- The beginning of each script of a table.
--
-- KEYS  1 the index: keys scored by the number of the change that made the row
--       2 the deadlines: keys scored by when they expire, in milliseconds
--       3 the number of the last change
-- ARGV  1 PUBLISH or SPUBLISH, 2 the channel, 3 what the names of the rows' hashes begin with; more from 4 on
-- Answer: 0 and what there is to say, or
--         1 more has expired than is deleted at once: nothing was done, call again
--         2 the table is full: how many rows it would hold
--         3 the sum is out of range: the value as it stays
--
-- A row is a hash of its columns: integers in decimals, floats in the shortest decimals that read back the same, texts and
-- bytes as they are. A column that a row doesn't have reads as zero or empty. Integers are never Lua's numbers, which are
-- exact up to 2^53 only; numbers of changes are microseconds, far below that.

local index, deadlines, numbers = KEYS[1], KEYS[2], KEYS[3]
local publish, channel, rows = ARGV[1], ARGV[2], ARGV[3]
-- Expired rows that are deleted by one call: more would keep other clients waiting.
local AT_ONCE = 100

local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local millis = math.floor(micros / 1000)
local number, changed = nil, false

-- The number of the last change.
local function last()
  number = number or tonumber(redis.call('GET', numbers) or '0')
  return number
end

-- The number of a change, higher than all before it.
local function next_number()
  number, changed = math.max(last() + 1, micros), true
  return string.format('%.0f', number)
end

-- Ends the script with that answer.
local function done(...)
  if changed then
    redis.call('SET', numbers, string.format('%.0f', number))
  end
  return { ... }
end

-- Tells those who watch: a letter, then each item with its length before it.
local function tell(letter, ...)
  local parts = { letter }
  for _, item in ipairs({ ... }) do
    parts[#parts + 1] = #item .. ':' .. item
  end
  redis.call(publish, channel, table.concat(parts))
end

-- Deletes a row that is there.
local function remove(key)
  redis.call('DEL', rows .. key)
  redis.call('ZREM', index, key)
  redis.call('ZREM', deadlines, key)
  tell('D', next_number(), key)
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
  tell('S', change, key, unpack(fields))
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

local due = redis.call('ZRANGEBYSCORE', deadlines, '-inf', string.format('%.0f', millis), 'LIMIT', 0, AT_ONCE)
for _, key in ipairs(due) do
  remove(key)
end
if #due == AT_ONCE then
  return done(1)
end
