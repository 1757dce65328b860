-- Units: see ledger.lua. Admit one request over all dimensions at once, or refuse it and change nothing.
-- KEYS: account, leases, lease index, outbox. ARGV: call, as MessagePack.
-- Answer, as a row of doubles (a table would take 5 us more): code, now, granted, finite, refresh, stale, seq, wait, kind,
-- which, limit, used, left, reset, then remaining and reset for each window, then remaining concurrency or -1
--   code 0 admitted, 1 refused, 2 no usable limits known; wait: ms until it would fit, -1 = never
--   kind of the blocker: 1 window, 2 concurrency, 3 quota; which: window number or dimension
local policy, call = POLICY, cmsgpack.unpack(ARGV[1])
local now = clock(call.now)
local a, dirty = load(policy, now)

local q = a.q
local fresh_until = q and q.at + policy.fresh or 0
if not q or now >= fresh_until + policy.stale then
  if dirty then save(a, policy.ttl) end
  return struct.pack('<ddddddd', 2, now, 0, 0, 1, 0, a.seq)
end
local stale, refresh = now >= fresh_until and 1 or 0, 0
if now >= a.ask then
  a.ask, refresh, dirty = now + CLAIM_MS, 1, true
end
local lease = a.lease
expire(a, policy, call.user, now)
dirty = dirty or a.lease ~= lease

-- How much output fits; the rest of the request is all or nothing.
local totals, windows, room = {}, {}, left(a, 3)
for k, p in ipairs(policy.windows) do
  windows[k], totals[k] = live(a, p, now)
  if p.dim == 3 then room = min(room or p.limit, p.limit - totals[k]) end
end
local granted, finite = call.cost[3], room and 1 or 0
if room then
  granted = min(granted, room)
  if call.fair > 0 then granted = min(granted, max(call.fair, floor(room / 4))) end
end
granted = max(0, granted)
local cost = { 1, call.cost[2], max(granted, call.least) }

-- The blocker that is told: a quota before a window before concurrency, and of its kind the one that lasts longest.
local wait, kind, which, limit, used, remaining, reset = 0, 0, 0, 0, 0, 0, 0
local function blocked(k, w, number, l, u, at)
  local longer = wait >= 0 and (w < 0 or w > wait)
  if kind == 0 or longer or (k == 3 and kind ~= 3) then
    kind, which, limit, used, remaining, reset = k, number, l, u, max(0, l - u), at
  end
  if longer then wait = w end
end
if policy.concurrency >= 0 and a.open >= policy.concurrency then
  blocked(2, 1000, 0, policy.concurrency, a.open, now + 1000)
end
for k, p in ipairs(policy.windows) do
  local missing, w = totals[k] + cost[p.dim] - p.limit, windows[k]
  if missing > 0 and cost[p.dim] > 0 then
    local at, freed = -1, 0
    for i = 2, cost[p.dim] <= p.limit and #w or 0 do
      freed = freed + w[i]
      if freed >= missing then at = gone(p, w[1] + i - 2) break end
    end
    blocked(1, at < 0 and -1 or at - now, k, p.limit, totals[k], at < 0 and now + p.window or at)
  end
end
for d = 1, 3 do
  local l = left(a, d)
  if l and l < cost[d] and cost[d] > 0 then
    -- Tokens that are only reserved come back, as a rule, long before the period ends.
    local returns = d > 1 and l + a.held[d] >= cost[d]
    blocked(3, returns and 1000 or q.ends[d] > 0 and q.ends[d] - now or -1, d, q.limit[d], q.limit[d] - l, q.ends[d])
  end
end

local code = kind == 0 and 0 or 1
if code == 0 then
  cost[3] = granted
  for k, p in ipairs(policy.windows) do
    charge(windows[k], slice_of(p, now), cost[p.dim])
    totals[k] = totals[k] + cost[p.dim]
  end
  add(a.held, cost, 1)
  a.open = a.open + 1
  local ends = now + policy.lease
  redis.call('HSET', KEYS[2], call.id, cmsgpack.pack({
    ends = ends, at = now, cost = cost, sent = -1, billed = { 0, 0, 0 },
    who = call.who,
  }))
  index(a, call.user, a.lease == 0 and ends or min(a.lease, ends))
end
if code == 0 or dirty then save(a, policy.ttl) end

local answer = { code, now, granted, finite, refresh, stale, a.seq, wait, kind, which, limit, used, remaining, reset }
for k, p in ipairs(policy.windows) do
  local w = windows[k]
  answer[13 + 2 * k] = max(0, p.limit - totals[k])
  answer[14 + 2 * k] = #w > 0 and gone(p, w[1] + #w - 2) or now
end
local size = 15 + 2 * #policy.windows
answer[size] = policy.concurrency >= 0 and max(0, policy.concurrency - a.open) or -1
return struct.pack('<' .. string.rep('d', size), unpack(answer, 1, size))
