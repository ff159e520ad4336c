-- Sets when a row expires; 1 if it is there.
-- ARGV  4 key, 5 in how many milliseconds, 0 for at once, or never
local key, after = ARGV[4], ARGV[5]
if redis.call('EXISTS', rows .. key) == 0 then
  return done(0, 0)
end
if after == '0' then
  remove(key)
elseif after == 'never' then
  redis.call('ZREM', deadlines, key)
else
  redis.call('ZADD', deadlines, decimal(millis + after), key)
end
return done(0, 1)
