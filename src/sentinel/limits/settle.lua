-- Units: see ledger.lua. Replace a reservation by the true cost and append the usage record, once per request id.
-- KEYS: account, leases, lease index, outbox, settled ids. ARGV: call, as MessagePack.
-- Answer: 1 settled now, 0 was settled before.
local policy, call = POLICY, cmsgpack.unpack(ARGV[1])
if redis.call('SADD', KEYS[5], call.id) == 0 then return 0 end
redis.call('PEXPIRE', KEYS[5], policy.remember)
local now = clock(call.now)
local a = load(policy, now)

local spent, packed = call.cost, redis.call('HGET', KEYS[2], call.id)
local lease
if packed then
  lease = cmsgpack.unpack(packed)
  redis.call('HDEL', KEYS[2], call.id)
  add(a.held, lease.cost, -1)
  a.open = max(0, a.open - 1)
else
  -- The lease ended before, or this Redis has forgotten it.
  local billed = billed_before(call.id)
  lease = { at = now, cost = { 1, billed[2], billed[3] }, billed = billed }
end
-- An admitted request stays in the window of requests even if it cost nothing in the end.
correct(a, policy.windows, lease, { 1, spent[2], spent[3] }, now)
bill(a, call.who, spent, lease.billed, call.at)
save(a, policy.ttl)
return 1
