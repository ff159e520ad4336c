-- Returns the number of rows.
return done(0, redis.call('ZCARD', index))
