-- Units: see ledger.lua. Admit one request over all dimensions at once, or refuse it and change nothing.
-- KEYS: account, leases, lease index, outbox. ARGV: id, user, and as doubles: now (0 = this Redis' clock), input, output,
-- least and fair output (policy.py, Ask).
-- Answer, as a row of 64-bit integers (a table would take 5 us more): code, now, granted, finite, refresh, stale, seq, wait, kind,
-- which, limit, used, left, reset, then remaining and reset for each window, then remaining concurrency or -1
--   code 0 admitted, 1 refused, 2 no usable limits known; wait: ms until it would fit, -1 = never
--   kind of the blocker: 1 window, 2 concurrency, 3 quota; which: window number or dimension
local now, input, output, least, fair = unpack_from('<ddddd', ARGV[3])
now = clock(now)
local user = ARGV[2]
local a, dirty = load(KEYS, now)

local fresh_until = a[AT] + policy.fresh
if a[AT] < 0 or now >= fresh_until + policy.stale then
  if dirty then save(a, KEYS) end
  return pack('<i8i8i8i8i8i8i8', 2, now, 0, 0, 1, 0, a[SEQ])
end
local stale, refresh = now >= fresh_until and 1 or 0, 0
if now >= a[ASK] then
  a[ASK], refresh, dirty = now + CLAIM_MS, 1, true
end
local lease = a[LEASE]
expire(a, KEYS, user, now)
dirty = dirty or a[LEASE] ~= lease

-- How much output fits; the rest of the request is all or nothing.
local room = left(a, 3)
for k, p in ipairs(windows) do
  local _, total = live(a, k, now)
  if p.dim == 3 then room = min(room or p.limit, p.limit - total) end
end
local granted, finite = output, room and 1 or 0
if room then
  granted = min(granted, room)
  if fair > 0 then granted = min(granted, max(fair, floor(room / 4))) end
end
granted = max(0, granted)
local cost = { 1, input, max(granted, least) }

-- The blocker that is told: a quota before a window before concurrency, and of its kind the one that lasts longest.
local wait, kind, which, limit, used, remaining, reset = 0, 0, 0, 0, 0, 0, 0
local function blocked(k, w, number, l, u, at)
  local longer = wait >= 0 and (w < 0 or w > wait)
  if kind == 0 or longer or (k == 3 and kind ~= 3) then
    kind, which, limit, used, remaining, reset = k, number, l, u, max(0, l - u), at
  end
  if longer then wait = w end
end
if policy.concurrency >= 0 and a[OPEN] >= policy.concurrency then
  blocked(2, 1000, 0, policy.concurrency, a[OPEN], now + 1000)
end
for k, p in ipairs(windows) do
  local w, amount = a[WINDOWS][k], cost[p.dim]
  local missing = w[SUM] + amount - p.limit
  if missing > 0 and amount > 0 then
    local at, freed, count = -1, 0, amount <= p.limit and #w[SLICE] / w[EACH] or 0
    local slices = amounts(w, 1, count)
    for i = 1, count do
      freed = freed + slices[i]
      if freed >= missing then at = gone(p, w[FIRST] + i - 1) break end
    end
    blocked(1, at < 0 and -1 or at - now, k, p.limit, w[SUM], at < 0 and now + p.window or at)
  end
end
for d = 1, 3 do
  local l, ends = left(a, d), a[ENDS + d]
  if l and l < cost[d] and cost[d] > 0 then
    -- Tokens that are only reserved come back, as a rule, long before the period ends.
    local returns = d > 1 and l + a[HELD + d] >= cost[d]
    blocked(3, returns and 1000 or ends > 0 and ends - now or -1, d, a[LIMIT + d], a[LIMIT + d] - l, ends)
  end
end

if kind == 0 then
  cost[3] = granted
  for k, p in ipairs(windows) do charge(a[WINDOWS][k], slice_of(p, now), cost[p.dim]) end
  add(a, HELD, 1, cost, 0)
  a[OPEN] = a[OPEN] + 1
  local ends = now + policy.lease
  redis.call('HSET', KEYS[2], ARGV[1], pack(LEASE_HEAD, ends, now, 1, input, granted, -1, 0, 0, 0, 0))
  index(a, KEYS, user, a[LEASE] == 0 and ends or min(a[LEASE], ends))
end
if kind == 0 or dirty then save(a, KEYS) end

local answer = {
  kind == 0 and 0 or 1, now, granted, finite, refresh, stale, a[SEQ], wait, kind, which, limit, used, remaining, reset,
}
for k, p in ipairs(windows) do
  local w = a[WINDOWS][k]
  answer[13 + 2 * k] = max(0, p.limit - w[SUM])
  answer[14 + 2 * k] = w[SLICE] ~= '' and gone(p, w[FIRST] + #w[SLICE] / w[EACH] - 1) or now
end
answer[15 + 2 * #windows] = policy.concurrency >= 0 and max(0, policy.concurrency - a[OPEN]) or -1
return pack(ANSWER, unpack(answer))
