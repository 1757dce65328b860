-- Say that a process lives, and settle which partitions it delivers. Units: milliseconds on this Redis' clock.
-- KEYS: members (process -> last sign of life), owners (partition -> process; `seen`, `since`: see below).
-- ARGV: me, how long a sign of life counts, partitions, what I want (0 = only keep what I have, 1 = may take,
-- 2 = may take and give), then the processes that I know to be dead.
-- Answer: {1 if something was taken, my partitions}, {the members}.
-- All that a dead process had goes to the first who asks, at once: a batch may span several partitions. Later each gives
-- away what exceeds its fair share, when nothing of it is on its way.
local me, alive_for, count, want = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local GAP = alive_for / 2
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- While this Redis was away nobody could say that they live. So nobody is dead before all had time to say so again:
-- `seen` is the last time that anybody was here, `since` the start of the time without such a gap.
local seen, since = unpack(redis.call('HMGET', KEYS[2], 'seen', 'since'))
seen, since = tonumber(seen) or 0, tonumber(since) or now
if now - seen > GAP then since = now end
redis.call('HSET', KEYS[2], 'seen', now, 'since', since)
redis.call('ZADD', KEYS[1], now, me)
for i = 5, #ARGV do redis.call('ZREM', KEYS[1], ARGV[i]) end
if now - since >= GAP then redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - alive_for) end

local members, live = redis.call('ZRANGE', KEYS[1], 0, -1), {}
for _, name in ipairs(members) do live[name] = true end
local all, owner = redis.call('HGETALL', KEYS[2]), {}
for i = 1, #all, 2 do owner[all[i]] = all[i + 1] end

local mine, free, taken = {}, {}, 0
local function take(p)
  redis.call('HSET', KEYS[2], p, me)
  mine[#mine + 1], taken = tonumber(p), 1
end
for p = 0, count - 1 do
  local name = owner[tostring(p)]
  if name == me then
    mine[#mine + 1] = p
  elseif not name then
    free[#free + 1] = tostring(p)
  elseif want > 0 and not live[name] then
    take(tostring(p))
  end
end
local share = math.ceil(count / #members)
if want > 0 then
  while #free > 0 and #mine < share do take(table.remove(free)) end
end
if want == 2 then
  while #mine > share do redis.call('HDEL', KEYS[2], tostring(table.remove(mine))) end
end
return { taken, mine, members }
