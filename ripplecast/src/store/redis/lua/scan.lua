-- A walk over the rows in the order in which they were made: the number at which it began; then, for each row, its key, the
-- number of the change that made it, and its values.
-- ARGV  4 number of columns, their names; the number at which the walk began, or begin, or all; the number after which it
--       goes on; the most rows, or -1
local width = tonumber(ARGV[4])
local names, began = arguments(5, width), ARGV[5 + width]
if began == 'begin' then
  began = string.format('%.0f', last())
elseif began == 'all' then
  -- A number of its own: all changes until now are below it, all later ones above.
  began = next_number()
end
local found = {}
local keys = redis.call('ZRANGEBYSCORE', index, '(' .. ARGV[6 + width], began, 'WITHSCORES', 'LIMIT', 0, ARGV[7 + width])
for at = 1, #keys, 2 do
  found[#found + 1] = keys[at]
  found[#found + 1] = keys[at + 1]
  found[#found + 1] = read(keys[at], names) or {}
end
return done(0, began, found)
