-- Units: see ledger.lua. Take what Zion says about a user's limits.
-- KEYS: account, leases, lease index, outbox. ARGV: policy and call, both MessagePack; call.seq: acknowledgements
-- known when Zion was asked, -1 = take it as it is. Answer: 1.
local LATE_MS = 3600000 -- So late Zion may begin a period; past that, what it says is meant.
local policy, call = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[2])
local now = clock(call.now)
local a = load(policy, now)
-- An acknowledgement that came meanwhile may be in Zion's `used` or not. Then what is more counts, for `used` only
-- grows within a period, and Zion is asked again soon.
local q, clean = a.q, call.seq == a.seq or call.seq < 0
local used, ends, ask = call.used, call.ends, now + (call.seq == a.seq and policy.fresh or CLAIM_MS)
local early = false
for d = 1, 3 do
  local over = ends[d] > 0 and ends[d] <= now
  if q and over and ends[d] <= a.rolled[d] and now < a.rolled[d] + LATE_MS then
    -- Zion still speaks of the period that is over.
    used[d] = q.used[d]
  elseif q and q.ends[d] > 0 and ends[d] > q.ends[d] then
    -- Zion has begun the next one before our clock did.
    a.rolled[d], early = q.ends[d], true
    if clean then a.blind[d] = 0 end
  elseif clean then
    a.blind[d] = 0
  elseif q then
    used[d] = max(used[d], q.used[d])
  end
  if over then
    -- Ask again, less and less often, when the new period ends.
    ask, ends[d] = min(ask, now + max(CLAIM_MS, now - ends[d])), 0
  end
end
if early then a.n = a.n + 1 end
a.q, a.ask = { at = now, ends = ends, limit = call.limit, used = used }, ask
save(a, policy.ttl)
return 1
