-- Units: see ledger.lua. Keep a lease alive, note what its stream has delivered, and reserve more output for it.
-- KEYS: account, leases, lease index, outbox, settled ids. ARGV: call, as MessagePack.
-- Answer: output tokens added to the reservation, 0 when nothing is left. A lease that had ended is taken up again,
-- unless its request is settled: a renewal that comes after the end must not open it anew.
local policy, call = POLICY, cmsgpack.unpack(ARGV[1])
if redis.call('SISMEMBER', KEYS[5], call.id) == 1 then return 0 end
local now = clock(call.now)
local a = load(policy, now)
expire(a, policy, call.user, now)

local packed = redis.call('HGET', KEYS[2], call.id)
local lease = packed and cmsgpack.unpack(packed)
if not lease then
  -- Its windows have given back all but what was billed.
  local billed = billed_before(call.id)
  lease = {
    at = now, cost = { 1, call.cost[2], call.cost[3] }, sent = -1, billed = billed,
    who = call.who,
  }
  a.open = a.open + 1
  add(a.held, lease.cost, 1)
  correct(a, policy.windows, { cost = { 1, billed[2], billed[3] }, at = now }, lease.cost, now)
end

local more, room, windowed = call.more, left(a, 3), false
if room then more = min(more, room) end
for _, p in ipairs(policy.windows) do
  if p.dim == 3 then
    local _, total = live(a, p, now)
    more, windowed = min(more, p.limit - total), true
  end
end
if more > 0 then
  for _, p in ipairs(policy.windows) do
    if p.dim == 3 then charge(a.w[p.id], slice_of(p, now), more) end
  end
  if windowed then
    local taken = lease.more or {}
    taken[#taken + 1], taken[#taken + 2] = now, more
    lease.more = taken
  end
  lease.cost[3], a.held[3] = lease.cost[3] + more, a.held[3] + more
end
lease.sent, lease.ends = max(lease.sent, call.sent), now + policy.lease
redis.call('HSET', KEYS[2], call.id, cmsgpack.pack(lease))
index(a, call.user, a.lease == 0 and lease.ends or min(a.lease, lease.ends))
save(a, policy.ttl)
return max(0, more)
