-- Units: see ledger.lua. Take what Zion says about a user's limits.
-- KEYS: account, leases, lease index, outbox. ARGV: call, as MessagePack; call.seq: the account's when
-- Zion was asked, -1 = take it as it is. Answer: 1.
local LATE_MS = 3600000 -- So late Zion may begin a period; past that, what it says is meant.
local policy, call = POLICY, cmsgpack.unpack(ARGV[1])
local now = clock(call.now)
local a = load(policy, now)
-- An acknowledgement that came meanwhile may be in Zion's `used` or not, and another answer may be younger than this
-- one. Then what is more counts, for `used` only grows within a period, and Zion is asked again soon.
local q, clean = a.q, call.seq == a.seq or call.seq < 0
local used, ends, ask = call.used, call.ends, now + (call.seq == a.seq and policy.fresh or CLAIM_MS)
local early = false
for d = 1, 3 do
  if q and ends[d] > 0 and ends[d] <= a.rolled[d] and now < a.rolled[d] + LATE_MS then
    -- Zion speaks of a period that is over. Ask again, less and less often, when the new one ends.
    used[d], ends[d], ask = q.used[d], q.ends[d], min(ask, now + max(CLAIM_MS, now - a.rolled[d]))
  elseif q and q.ends[d] > 0 and ends[d] > q.ends[d] then
    -- Zion has begun the next one before our clock did.
    a.rolled[d], early = q.ends[d], true
    if clean then a.blind[d] = 0 end
  elseif clean then
    a.blind[d] = 0
  elseif q then
    used[d] = max(used[d], q.used[d])
  end
  if ends[d] > 0 and ends[d] <= now then
    ask, ends[d] = min(ask, now + max(CLAIM_MS, now - ends[d])), 0
  end
end
if early then a.n = a.n + 1 end
a.seq = a.seq + 1
a.q, a.ask = { at = now, ends = ends, limit = call.limit, used = used }, ask
save(a, policy.ttl)
return 1
