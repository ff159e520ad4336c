-- One step of a counter, and the message that says what it became.
--
-- KEYS  1 the counter: a hash of v, its value; n, the number of its last change; x, when it expires in milliseconds
-- ARGV  1 PUBLISH or SPUBLISH, 2 the channel, 3 the operation, 4 and 5 what it takes
-- Answer: the value, then 1 if it was done, 0 if its condition was not met, 2 if it would overflow; then the number.
--
-- Values are decimal text and never Lua's numbers, which are exact up to 2^53 only. Numbers of changes are microseconds,
-- far below that. A counter that is 0 and doesn't expire is no key.

local key, publish, channel, operation = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
-- An expired counter is kept for that long, in milliseconds, so that whoever uses it next tells the others.
local GRACE = 60000

local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local millis = math.floor(micros / 1000)
local stored = redis.call('HMGET', key, 'v', 'n', 'x')
local value, number, expires = stored[1] or '0', tonumber(stored[2] or '0'), tonumber(stored[3] or nil)
local changed, redated = false, false

local function tell(note)
  redis.call(publish, channel, string.format('%.0f %s%s', number, value, note))
end

local function change(new)
  value, number, changed = new, math.max(number + 1, micros), true
  tell('')
end

-- Sets when it expires; nil is never.
local function date(new)
  if new ~= expires then
    expires, redated = new, true
  end
end

-- Adds on the server, which is exact; false if that would overflow.
local function add(by)
  local sum = redis.pcall('HINCRBY', key, 'v', by)
  if type(sum) == 'table' and sum.err then
    if string.find(sum.err, 'overflow', 1, true) then
      return false
    end
    error(sum.err, 0)
  end
  change(redis.call('HGET', key, 'v'))
  return true
end

-- Whether a decimal is less than another.
local function less(a, b)
  local a_negative, b_negative = string.sub(a, 1, 1) == '-', string.sub(b, 1, 1) == '-'
  if a_negative ~= b_negative then
    return a_negative
  end
  if a_negative then
    a, b = string.sub(b, 2), string.sub(a, 2)
  end
  if #a ~= #b then
    return #a < #b
  end
  return a < b
end

if expires and expires <= millis then
  redis.call('DEL', key)
  expires = nil
  if value ~= '0' then
    change('0')
  end
end

local done = 1
if operation == 'add' then
  if not add(ARGV[4]) then
    done = 2
  end
elseif operation == 'set' then
  date(nil)
  change(ARGV[4])
elseif operation == 'swap' then
  if value == ARGV[4] then
    date(nil)
    change(ARGV[5])
  else
    done = 0
  end
elseif operation == 'below' then
  if not (less(value, ARGV[4]) and add('1')) then
    done = 0
  end
elseif operation == 'expire' then
  if ARGV[4] == 'never' then
    date(nil)
  elseif ARGV[4] == '0' then
    date(nil)
    if value ~= '0' then
      change('0')
    end
  else
    date(millis + ARGV[4])
  end
elseif operation == 'look' then
  -- A number of its own: all changes until now are below it, all later ones above.
  number = math.max(number + 1, micros)
  if stored[1] then
    redis.call('HSET', key, 'n', string.format('%.0f', number))
  end
end

if changed or redated then
  if value == '0' and not expires then
    redis.call('DEL', key)
  else
    redis.call('HSET', key, 'v', value, 'n', string.format('%.0f', number))
    if redated and expires then
      redis.call('HSET', key, 'x', string.format('%.0f', expires))
      redis.call('PEXPIREAT', key, string.format('%.0f', expires + GRACE))
    elseif redated then
      redis.call('HDEL', key, 'x')
      redis.call('PERSIST', key)
    end
  end
elseif not stored[1] and operation ~= 'look' then
  -- It may have expired so long ago that nobody was told.
  number = micros
  tell(' ~')
end
return { value, done, string.format('%.0f', number) }
