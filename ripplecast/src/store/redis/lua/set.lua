-- Writes rows, all or none.
-- ARGV  4 capacity, 5 number of columns, their names; then for each row its key and values
local capacity, width = tonumber(ARGV[4]), tonumber(ARGV[5])
local first, step = 6 + width, 1 + width
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
  put(ARGV[at], 6, at + 1, width)
end
return done(0)
