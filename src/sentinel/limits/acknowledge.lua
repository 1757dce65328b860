-- Units: see ledger.lua. Zion has taken usage of one user: drop the records and move the sum from pending to used.
-- KEYS: account, outbox. ARGV: policy and call, both MessagePack; call.new: Zion's new values, -1 = not told;
-- call.limit: Zion's limits, -2 = not told. Answer: records dropped, 0 when somebody did it before.
local policy, call = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[2])
local dropped = redis.call('XACK', KEYS[2], call.group, unpack(call.ids))
redis.call('XDEL', KEYS[2], unpack(call.ids))
if dropped == 0 then return 0 end
local now = clock(call.now)
local a = load(now)
a.seq = a.seq + 1
if call.period == a.n then
  add(a.pend, call.cost, -1)
  local q = a.q
  if q then
    for d = 1, 3 do
      q.used[d] = call.new[d] >= 0 and math.max(q.used[d], call.new[d]) or q.used[d] + call.cost[d]
      if call.limit[d] >= 0 then q.limit[d] = call.limit[d] end
    end
  end
end
save(a, policy.ttl)
return dropped
