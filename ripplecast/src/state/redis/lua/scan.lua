-- Scans the rows in the order of their creation. Returns the number of changes at which the scan began; for
-- each row its key, the number of the change that created it, and its values; then the epoch of the numbers.
-- ARGV  4 number of columns, their names; the number at which the scan began, or begin, or all; the number
--       after which to continue; the maximum number of rows, or -1; the epoch of these numbers, or for all:
--       the epoch and the number known to the reader, or two empty strings
local width = tonumber(ARGV[4])
local names, began, known = arguments(5, width), ARGV[5 + width], ARGV[8 + width]
if began == 'begin' then
  settle()
  began = decimal(number)
elseif began == 'all' then
  settle(known, ARGV[9 + width])
  began = decimal(number)
else
  settle(known, began)
  if epoch ~= known then
    return done(4)
  end
end
local found = {}
local keys = redis.call('ZRANGEBYSCORE', index, '(' .. ARGV[6 + width], began, 'WITHSCORES', 'LIMIT', 0, ARGV[7 + width])
for at = 1, #keys, 2 do
  found[#found + 1] = keys[at]
  found[#found + 1] = keys[at + 1]
  found[#found + 1] = read(keys[at], names) or {}
end
return done(0, began, found, epoch)
