-- Units: see ledger.lua. Take what Zion says about a user's limits.
-- KEYS: account. ARGV: policy and call, both MessagePack. call.seq: acknowledgements known when Zion was asked.
-- An acknowledgement may have overtaken this answer: then the higher `used` is the later one, for it only grows
-- within a period. Answer: 1.
local policy, call = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[2])
local now = clock(call.now)
local a = load(now)
local q = a.q
local used = call.used
if q and call.ends > 0 and call.ends <= a.rolled then
  -- Zion still speaks of the period that is over.
  used, call.ends = q.used, 0
elseif q and q.ends > 0 and call.ends > q.ends then
  a.rolled, a.n = q.ends, a.n + 1
  a.pend = { 0, 0, 0 }
elseif q and call.seq ~= a.seq then
  for d = 1, 3 do used[d] = math.max(used[d], q.used[d]) end
end
-- A period that was over before we knew of it is Zion's affair: its `used` counts, its end tells nothing.
if call.ends <= now then call.ends = 0 end
a.q = { at = now, ends = call.ends, limit = call.limit, used = used }
a.claim = 0
save(a, policy.ttl)
return 1
