-- Jobs of one partition that are due, the first of them first; until then nobody else is told of them.
-- KEYS: jobs, when they are due. ARGV: milliseconds, so many at once. Answer: id, job, id, job, ...
local time = redis.call('TIME')
local now, found = time[1] * 1000 + math.floor(time[2] / 1000), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[2])) do
  local job = redis.call('HGET', KEYS[1], id)
  if job then
    redis.call('ZADD', KEYS[2], now + ARGV[1], id)
    found[#found + 1], found[#found + 2] = id, job
  else
    redis.call('ZREM', KEYS[2], id)
  end
end
return found
