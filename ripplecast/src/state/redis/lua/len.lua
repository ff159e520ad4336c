-- How many rows there are.
return done(0, redis.call('ZCARD', index))
