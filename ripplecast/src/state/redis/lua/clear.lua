-- Deletes all rows and returns their number. Observers are notified once.
local count = redis.call('ZCARD', index)
-- A number of arguments that Lua safely passes to one call.
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
