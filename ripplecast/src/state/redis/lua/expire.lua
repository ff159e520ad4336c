-- Sets when a row expires. Returns 1 if the row exists.
-- ARGV  4 key, 5 the time in milliseconds, 0 for at once, or never
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
