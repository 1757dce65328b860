-- Units: see ledger.lua. Delete a dead letter: an operator has decided that what it sums up is not to be billed.
-- KEYS: account, leases, lease index, outbox, dead letters. ARGV: now (0 = this Redis' clock), entry.
-- Answer: 1, or 0 where it is not there.
local now, entry = clock(tonumber(ARGV[1])), ARGV[2]
local letter = read_letter(KEYS[5], entry)
if not letter then return 0 end
local a, _, packed = load(KEYS, now)
forget_letter(a, letter)
save_before(a, KEYS, packed)
return call('XDEL', KEYS[5], entry)
