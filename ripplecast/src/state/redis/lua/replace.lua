-- Writes or deletes a row if it is the expected one. Returns 1 if it was.
-- ARGV  4 capacity, 5 key, 6 number of columns, their names, their zeros; then the expected row and the new
--       row, each as 0 for no row, or 1 and the values
local capacity, key, width = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local names, zeros = arguments(7, width), arguments(7 + width, width)
local at = 7 + 2 * width
local values = read(key, names)
local same = (ARGV[at] == '1') == (values ~= false)
if ARGV[at] == '1' then
  for i = 1, width do
    same = same and (values[i] or zeros[i]) == ARGV[at + i]
  end
  at = at + width
end
at = at + 1
if not same then
  return done(0, 0)
end
if ARGV[at] == '0' then
  if values then
    remove(key)
  end
  return done(0, 1)
end
if not values then
  local would = redis.call('ZCARD', index) + 1
  if would > capacity then
    return done(2, would)
  end
end
put(key, 7, at + 1, width)
return done(0, 1)
