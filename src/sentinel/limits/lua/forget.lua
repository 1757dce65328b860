-- Units: see ledger.lua. What Zion has said of a user's limits is not to be used any more, not even for a while: Zion must
-- be asked before anything is granted. What it was asked before this is not the last word.
-- KEYS: account, leases, lease index, outbox. ARGV: now (0 = this Redis' clock).
-- Answer: 1 if there is an account, else 0.
local a, _, packed = load(KEYS, clock(tonumber(ARGV[1])))
if not packed then return 0 end
if a[AT] > 0 then a[AT] = 0 end
a[SEQ] = a[SEQ] + 1
save(a, KEYS)
return 1
