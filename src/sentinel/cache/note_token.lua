-- Note that a token is a user's, for the time that Redis may know whose it is. Units: milliseconds on this Redis' clock.
-- KEYS: the user's tokens (digest -> end). ARGV: digest, time to live, most tokens.
-- Answer: the digests that are too many, those that end first; they are not noted any more, so nobody may know them.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl, most = tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ttl, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ttl)
local dropped, popped = {}, redis.call('ZPOPMIN', KEYS[1], math.max(0, redis.call('ZCARD', KEYS[1]) - most))
for i = 1, #popped, 2 do dropped[#dropped + 1] = popped[i] end
return dropped
