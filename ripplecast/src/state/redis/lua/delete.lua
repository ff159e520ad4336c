-- Deletes a row. Returns 1 if it existed.
-- ARGV  4 key
if redis.call('EXISTS', rows .. ARGV[4]) == 0 then
  return done(0, 0)
end
remove(ARGV[4])
return done(0, 1)
