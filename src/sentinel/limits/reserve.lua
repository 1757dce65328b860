-- Units: see ledger.lua. Admit one request over all dimensions at once, or refuse it and change nothing.
-- KEYS: account, leases, lease index, outbox. ARGV: policy and call, both MessagePack.
-- Answer: {code, now, granted, finite, refresh, stale, seq, wait, kind, which, limit, used, left, reset,
--          (remaining, reset) per window..., remaining concurrency or -1}
--   code 0 admitted, 1 refused, 2 no usable limits known; wait: ms until it would fit, -1 = never
--   kind of the blocker: 1 window, 2 concurrency, 3 quota; which: window number or dimension
local policy, call = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[2])
local now = clock(call.now)
local a = load(now)

local q = a.q
local fresh_until = q and q.at + policy.fresh or 0
if not q or now >= fresh_until + policy.stale then
  return { 2, now, 0, 0, 1, 0, a.seq }
end
local stale = (now >= fresh_until or (q.ends == 0 and a.rolled > q.at)) and 1 or 0
local refresh = 0
if stale == 1 and now >= a.claim then
  a.claim, refresh = now + CLAIM_MS, 1
end
local lease = a.lease
expire(a, policy.windows, call.user, now)
local dirty = a.lease ~= lease or refresh == 1

-- How much output fits; the rest of the request is all or nothing.
local totals, windows, room = {}, {}, left(a, 3)
for k, p in ipairs(policy.windows) do
  windows[k], totals[k] = live(a, p, now)
  if p.dim == 3 then room = math.min(room or p.limit, p.limit - totals[k]) end
end
local granted, finite = call.cost[3], room and 1 or 0
if room then
  granted = math.min(granted, room)
  if call.fair > 0 then granted = math.min(granted, math.max(call.fair, math.floor(room / 4))) end
end
granted = math.max(0, granted)
local cost = { 1, call.cost[2], granted < call.least and call.least or granted }

local wait, kind, which, limit, used, remaining, reset = 0, 0, 0, 0, 0, 0, 0
local function blocked(k_, w, number, l, u, r, at)
  kind, which, limit, used, remaining, reset = k_, number, l, u, r, at
  if w < 0 or wait < 0 then wait = -1 else wait = math.max(wait, w) end
end
if policy.concurrency >= 0 and a.open >= policy.concurrency then
  blocked(2, 1000, 0, policy.concurrency, a.open, 0, now + 1000)
end
for k, p in ipairs(policy.windows) do
  local missing = totals[k] + cost[p.dim] - p.limit
  if missing > 0 and cost[p.dim] > 0 then
    local w, freed, at = windows[k], 0, -1
    if cost[p.dim] <= p.limit then
      for i = 1, #w, 2 do
        freed = freed + w[i + 1]
        if freed >= missing then at = (w[i] + SLICES + 1) * p.slice break end
      end
    end
    local longer = at < 0 or at - now > wait
    if longer and wait >= 0 then
      blocked(1, at < 0 and -1 or at - now, k, p.limit, totals[k], math.max(0, p.limit - totals[k]),
        at < 0 and now + (SLICES + 1) * p.slice or at)
    end
  end
end
for d = 1, 3 do
  local l = left(a, d)
  if l and l < cost[d] and cost[d] > 0 and kind ~= 3 then
    wait = 0
    blocked(3, q.ends > 0 and q.ends - now or -1, d, q.limit[d], q.limit[d] - math.max(0, l), math.max(0, l), q.ends)
  end
end

local code = kind == 0 and 0 or 1
if code == 0 then
  cost[3] = granted
  for k, p in ipairs(policy.windows) do
    charge(windows[k], math.floor(now / p.slice), cost[p.dim])
    totals[k] = totals[k] + cost[p.dim]
  end
  add(a.held, cost, 1)
  a.open = a.open + 1
  local ends = now + policy.lease
  redis.call('HSET', KEYS[2], call.id, cmsgpack.pack({
    ends = ends, at = now, cost = cost, sent = -1, billed = { 0, 0, 0 },
    user = call.user, email = call.email, model = call.model,
  }))
  index(a, call.user, a.lease == 0 and ends or math.min(a.lease, ends))
end
if code == 0 or dirty then save(a, policy.ttl) end

local answer = { code, now, granted, finite, refresh, stale, a.seq, wait, kind, which, limit, used, remaining, reset }
for k, p in ipairs(policy.windows) do
  local w = windows[k]
  answer[#answer + 1] = math.max(0, p.limit - totals[k])
  answer[#answer + 1] = #w > 0 and (w[#w - 1] + SLICES + 1) * p.slice or now
end
answer[#answer + 1] = policy.concurrency >= 0 and math.max(0, policy.concurrency - a.open) or -1
return answer
