-- Runs one operation on a counter and publishes the result if the counter changed.
--
-- KEYS  1 the counter, and the channel of its changes. A hash: v, the value; n, the number of changes so far;
--       e, the epoch in which they are counted; x, the expiry in milliseconds
-- ARGV  1 PUBLISH or SPUBLISH, 2 an epoch for a new history, 3 the operation, from 4 on its operands
-- Returns the value; 1 if done, 0 if the condition was not met, 2 on overflow; the epoch; the number of
-- changes; the time until it expires in milliseconds, or an empty string.
--
-- Values are decimal text and never Lua numbers, which are exact only up to 2^53. Changes are counted from 1
-- in each epoch, so their number stays far below that.
--
-- A message is "EPOCH NUMBER VALUE", or "?" if the history is lost: every node that follows the counter must
-- then read it.
--
-- Time is used only for expiry. If the clock jumps, a counter expires, and its key is forgotten, early or
-- late. Forgetting a key is safe, because the next change begins a new epoch. Nothing is ordered by time.

local key, publish, fresh, operation = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
-- How long the history of a counter that is 0 or has expired is kept after its last use, in milliseconds.
local KEPT = 900000

local time = redis.call('TIME')
local millis = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = redis.call('HMGET', key, 'v', 'n', 'x', 'e')
local value, number, expires, epoch = stored[1] or '0', tonumber(stored[2] or '0'), tonumber(stored[3] or nil), stored[4]
local before, changed, redated = value, false, false

local function tell()
  redis.call(publish, key, string.format('%s %.0f %s', epoch, number, value))
end

local function change(new)
  epoch = epoch or fresh
  value, number, changed = new, number + 1, true
  tell()
end

-- Sets the expiry; nil means never.
local function date(new)
  if new ~= expires then
    expires, redated = new, true
  end
end

-- Adds on the server, which is exact; returns false on overflow.
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

-- Returns whether one decimal is less than another.
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
  date(nil)
  if value ~= '0' then
    redis.call('HSET', key, 'v', '0')
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
    date(ARGV[6] ~= 'never' and millis + ARGV[6] or nil)
    change(ARGV[5])
  else
    done = 0
  end
elseif operation == 'below' then
  if not (less(value, ARGV[4]) and add('1')) then
    done = 0
  end
  -- A window starts with its first increment. It also starts for a counter that has a value but no expiry.
  if ARGV[5] ~= 'never' and value ~= '0' and not expires then
    date(millis + ARGV[5])
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
  -- ARGV 4 to 6: the epoch, number and value known to the reader, or three empty strings. If the same epoch
  -- has fewer changes here, or another value after the same number of changes, then changes were lost. A new
  -- epoch begins and is published. Its numbers start above those the reader knows, so that they only increase
  -- for the reader's tabs.
  local known, at = ARGV[4], tonumber(ARGV[5]) or 0
  local is_lost = epoch == known and (number < at or (number == at and value ~= ARGV[6]))
  if is_lost or not epoch then
    epoch, number, changed = fresh, math.max(number, at) + 1, true
    tell()
  elseif value == '0' and not expires then
    redis.call('PEXPIRE', key, KEPT)
  end
end

if changed or redated then
  epoch = epoch or fresh
  redis.call('HSET', key, 'v', value, 'n', string.format('%.0f', number), 'e', epoch)
  if expires then
    if redated then
      redis.call('HSET', key, 'x', string.format('%.0f', expires))
      redis.call('PEXPIREAT', key, string.format('%.0f', expires + KEPT))
    end
  else
    if redated then
      redis.call('HDEL', key, 'x')
    end
    if value == '0' then
      redis.call('PEXPIRE', key, KEPT)
    elseif redated or before == '0' then
      redis.call('PERSIST', key)
    end
  end
elseif not stored[1] then
  redis.call(publish, key, '?')
end
return { value, done, epoch or '', string.format('%.0f', number), expires and string.format('%.0f', expires - millis) or '' }
