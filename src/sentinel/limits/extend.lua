-- Units: see ledger.lua. Keep a lease alive, note what its stream has delivered, and reserve more output for it.
-- KEYS: account, leases, lease index, outbox, settled ids. ARGV: policy and call, both MessagePack.
-- Answer: output tokens added to the reservation, 0 when nothing is left. A lease that had ended is taken up again,
-- unless its request is settled: a renewal that comes after the end must not open it anew.
local policy, call = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[2])
if redis.call('SISMEMBER', KEYS[5], call.id) == 1 then return 0 end
local now = clock(call.now)
local a = load(now)
expire(a, policy.windows, call.user, now)

local more = call.more
for _, p in ipairs(policy.windows) do
  if p.dim == 3 then
    local _, total = live(a, p, now)
    more = math.min(more, p.limit - total)
  end
end
if left(a, 3) then more = math.min(more, left(a, 3)) end
more = math.max(0, more)

local packed = redis.call('HGET', KEYS[2], call.id)
local lease = packed and cmsgpack.unpack(packed)
if not lease then
  lease = {
    at = now, cost = { 1, call.cost[2], call.cost[3] }, sent = -1, billed = billed_before(call.id),
    user = call.user, email = call.email, model = call.model,
  }
  a.open = a.open + 1
  add(a.held, lease.cost, 1)
end
for _, p in ipairs(policy.windows) do
  if p.dim == 3 then charge(a.w[p.name], math.floor(now / p.slice), more) end
end
lease.cost[3] = lease.cost[3] + more
a.held[3] = a.held[3] + more
lease.sent = math.max(lease.sent, call.sent)
lease.ends = now + policy.lease
redis.call('HSET', KEYS[2], call.id, cmsgpack.pack(lease))
index(a, call.user, a.lease == 0 and lease.ends or math.min(a.lease, lease.ends))
save(a, policy.ttl)
return more
