-- Reads rows. Returns the values of each, or nothing where there is no row.
-- ARGV  4 number of columns, their names; then the keys
local width = tonumber(ARGV[4])
local names, found = arguments(5, width), {}
for at = 5 + width, #ARGV do
  found[#found + 1] = read(ARGV[at], names)
end
return done(0, found)
