-- Writes rows, all or none.
-- ARGV  4 capacity, 5 the time until the rows expire in milliseconds, or never; 6 number of columns, their
--       names; then each row's key and values
local capacity, after, width = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local first, step = 7 + width, 1 + width
local fresh, count = {}, 0
for at = first, #ARGV, step do
  local key = ARGV[at]
  if not fresh[key] and redis.call('EXISTS', rows .. key) == 0 then
    fresh[key], count = true, count + 1
  end
end
local would = redis.call('ZCARD', index) + count
if count > 0 and would > capacity then
  return done(2, would)
end
for at = first, #ARGV, step do
  put(ARGV[at], 7, at + 1, width)
  if after ~= 'never' then
    redis.call('ZADD', deadlines, decimal(millis + after), ARGV[at])
  end
end
return done(0)
