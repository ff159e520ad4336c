-- Deletes all rows; how many there were. Those who watch are told once.
local count = redis.call('ZCARD', index)
-- As many as Lua passes to one call without fear.
local STEP = 1000
for from = 0, count - 1, STEP do
  local names = redis.call('ZRANGE', index, from, from + STEP - 1)
  for i, key in ipairs(names) do
    names[i] = rows .. key
  end
  redis.call('UNLINK', unpack(names))
end
if count > 0 then
  redis.call('UNLINK', index, deadlines)
  next_number()
  tell('C')
end
return done(0, count)
