-- Write down a job, and when it is to be looked at next. KEYS: jobs, when they are due.
-- ARGV: id, job, milliseconds until then, 1 = only if it is there, 2 = only if it is not. Answer: 1, or 0 where that is otherwise.
local is_there = redis.call('HEXISTS', KEYS[1], ARGV[1])
if (ARGV[4] == '1' and is_there == 0) or (ARGV[4] == '2' and is_there == 1) then return 0 end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
