-- Units: see ledger.lua. End the leases of one user that are due; the lease expirer calls it for users nobody else touches.
-- KEYS: account, leases, lease index, outbox. ARGV: now (0 = this Redis' clock), user. Answer: reservations returned.
local now, user = clock(tonumber(ARGV[1])), ARGV[2]
local a, dirty = load(KEYS, now)
local lease = a[LEASE]
local count = expire(a, KEYS, user, now)
-- The index may still name a user whose account has been forgotten.
if a[LEASE] == 0 then call('ZREM', KEYS[3], user) end
if dirty or a[LEASE] ~= lease then save(a, KEYS) end
return count
