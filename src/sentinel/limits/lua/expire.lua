-- Units: see ledger.lua. End the leases of one user that are due; the lease expirer calls it for users nobody else touches.
-- KEYS: account, leases, lease index, outbox. ARGV: now (0 = this Redis' clock), user. Answer: reservations returned.
local now, user = clock(tonumber(ARGV[1])), ARGV[2]
-- As a rule all are settled by then: what says that there are some is taken back, and the rest of the account stays.
local packed = call('GET', KEYS[1])
local ends = packed and unpack_from('<d', packed, 8 * (LEASE - 2) + 1) or 0
if ends > 0 and ends <= now and call('HLEN', KEYS[2]) == 0 then
  call('ZREM', KEYS[3], user)
  undoing('ZADD', KEYS[3], ends, user)
  call('SETRANGE', KEYS[1], 8 * (OPEN - 2), pack('<ddddd', 0, 0, 0, 0, 0)) -- OPEN, LEASE, HELD
  return 0
end
local a, dirty = load(KEYS, now)
local lease = a[LEASE]
local count = expire(a, KEYS, user, now)
-- The index may still name a user whose account has been forgotten.
if lease == 0 then call('ZREM', KEYS[3], user) end
if dirty or a[LEASE] ~= lease then save(a, KEYS) end
return count
