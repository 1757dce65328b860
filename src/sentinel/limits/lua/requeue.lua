-- Units: see ledger.lua. Put a dead letter back into the outbox, once: what it sums up is pending again.
-- KEYS: account, leases, lease index, outbox, dead letters. ARGV: now (0 = this Redis' clock), entry, whose it is now.
-- Answer: the new entry, or nil.
local now, entry = clock(tonumber(ARGV[1])), ARGV[2]
local letter = read_letter(KEYS[5], entry)
if not letter then return nil end
local a, _, packed = load(KEYS, now)
forget_letter(a, letter)
add(a, PEND, 1, letter, 0)
-- An older version has told no cost.
local micro_usd = letter.micro_usd or pack('<d', 0)
local new = call('XADD', KEYS[4], '*', 'who', ARGV[3], 'sum', letter.sum, 'micro_usd', micro_usd)
undoing('XDEL', KEYS[4], new)
save_before(a, KEYS, packed)
call('XDEL', KEYS[5], entry)
return new
