-- Units: see ledger.lua. End the leases of one user that are due; the reaper calls it for users nobody else touches.
-- KEYS: account, leases, lease index, outbox. ARGV: call, as MessagePack. Answer: reservations returned.
local policy, call = POLICY, cmsgpack.unpack(ARGV[1])
local now = clock(call.now)
local a, dirty = load(policy, now)
local lease = a.lease
local count = expire(a, policy, call.user, now)
-- The index may still name a user whose account has been forgotten.
if a.lease == 0 then redis.call('ZREM', KEYS[3], call.user) end
if dirty or a.lease ~= lease then save(a, policy.ttl) end
return count
