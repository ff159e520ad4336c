-- Adds to an integer column, in a new row if there is none. Returns the sum.
-- ARGV  4 capacity, 5 key, 6 column, 7 addend, 8 the column's minimum, 9 its maximum
local capacity, key, column = tonumber(ARGV[4]), ARGV[5], ARGV[6]

-- Splits a decimal into three signed numbers of seven digits, the highest first.
local function limbs(text)
  local sign = 1
  if string.sub(text, 1, 1) == '-' then
    sign, text = -1, string.sub(text, 2)
  end
  if #text > 21 or not string.find(text, '^%d+$') then
    error('a column that should hold an integer holds something else', 0)
  end
  text = string.rep('0', 21 - #text) .. text
  local high, middle, low = string.sub(text, 1, 7), string.sub(text, 8, 14), string.sub(text, 15)
  return sign * tonumber(high, 10), sign * tonumber(middle, 10), sign * tonumber(low, 10)
end

-- Normalizes so that the lower two are from 0 to 9999999 and the highest has the sign.
local function carry(high, middle, low)
  local up = math.floor(low / 10000000)
  low, middle = low - up * 10000000, middle + up
  up = math.floor(middle / 10000000)
  return high + up, middle - up * 10000000, low
end

-- Returns the sum of two decimals, as a decimal.
local function sum(a, b)
  local a1, a2, a3 = limbs(a)
  local b1, b2, b3 = limbs(b)
  local sign, high, middle, low = '', carry(a1 + b1, a2 + b2, a3 + b3)
  if high < 0 then
    sign, high, middle, low = '-', carry(-high, -middle, -low)
  end
  local digits = string.gsub(string.format('%.0f%07.0f%07.0f', high, middle, low), '^0+', '')
  if digits == '' then
    return '0'
  end
  return sign .. digits
end

-- Returns whether one decimal is less than another.
local function less(a, b)
  return string.sub(sum(a, string.sub(b, 1, 1) == '-' and string.sub(b, 2) or '-' .. b), 1, 1) == '-'
end

local value = redis.call('HGET', rows .. key, column) or '0'
local new = sum(value, ARGV[7])
if less(new, ARGV[8]) or less(ARGV[9], new) then
  return done(3, value)
end
local fresh = redis.call('EXISTS', rows .. key) == 0
if fresh then
  local would = redis.call('ZCARD', index) + 1
  if would > capacity then
    return done(2, would)
  end
end
local change = next_number()
if fresh then
  redis.call('ZADD', index, change, key)
end
redis.call('HSET', rows .. key, column, new)
tell('S', key, unpack(redis.call('HGETALL', rows .. key)))
return done(0, new)
