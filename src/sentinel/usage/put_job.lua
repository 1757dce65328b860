-- Write down a job, and when it is to be looked at next. KEYS: jobs, when they are due.
-- ARGV: id, job, milliseconds until then, 1 = only if it is there. Answer: 1, or 0 where it is not.
if ARGV[4] == '1' and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
