-- Units: see ledger.lua. Zion has taken usage of one user: drop the records and move the sum from pending to used.
-- KEYS: account, leases, lease index, outbox. ARGV: policy and call, both MessagePack; call.new: Zion's new values,
-- -1 = not told; call.limit: Zion's limits, -2 = not told. Answer: records dropped, 0 when somebody did it before.
local policy, call = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[2])
local dropped = redis.call('XACK', KEYS[4], call.group, unpack(call.ids))
redis.call('XDEL', KEYS[4], unpack(call.ids))
if dropped == 0 then return 0 end
local now = clock(call.now)
local a = load(policy, now)
a.seq = a.seq + 1
add(a.pend, call.cost, -1)
-- Usage of a period that is over may be booked there or in the new one; a value that belongs to the old one tells
-- nothing. And where a limit has changed, there may be more to learn. Both times Zion is asked again soon.
local q, current, again = a.q, call.period == a.n, call.period ~= a.n
for d = 1, 3 do
  if q and current and call.new[d] >= 0 then
    q.used[d] = max(q.used[d], call.new[d])
  else
    a.blind[d] = a.blind[d] + call.cost[d]
  end
  if q and call.limit[d] >= 0 and call.limit[d] ~= q.limit[d] then
    q.limit[d], again = call.limit[d], true
  end
end
if q and again then a.ask = min(a.ask, q.at + CLAIM_MS) end
save(a, policy.ttl)
return dropped
