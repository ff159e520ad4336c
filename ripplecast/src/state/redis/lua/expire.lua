-- Sets when rows expire. Returns how many of them exist.
-- ARGV  4 the time in milliseconds, 0 for at once, or never; then the keys
local after, found = ARGV[4], 0
for i = 5, #ARGV do
  local key = ARGV[i]
  if redis.call('EXISTS', rows .. key) == 1 then
    found = found + 1
    if after == '0' then
      remove(key)
    elseif after == 'never' then
      redis.call('ZREM', deadlines, key)
    else
      redis.call('ZADD', deadlines, decimal(millis + after), key)
    end
  end
end
return done(0, found)
