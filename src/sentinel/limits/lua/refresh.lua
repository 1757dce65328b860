-- Units: see ledger.lua. Take what Zion says about a user's limits.
-- KEYS: account, leases, lease index, outbox, dead letters. ARGV: as doubles: now (0 = this Redis' clock), the account's
-- number of Zion's words when Zion was asked (-1 = take this as it is), limits, used, ends.
-- Answer: 1 if what is pending or refused should be compared with the records, else 0.
local LATE_MS = 3600000 -- So late Zion may begin a period; past that, what it says is meant.
local told = doubles(ARGV[1], 1, 11)
local now, seq, T_LIMIT, T_USED, T_ENDS = clock(told[1]), told[2], 2, 5, 8
local a = load(KEYS, now)
-- An acknowledgement that came meanwhile may be in Zion's `used` or not, and another answer may be younger than this
-- one. Then what is more counts, for `used` only grows within a period, and Zion is asked again soon.
local known, clean = a[AT] >= 0, seq == a[SEQ] or seq < 0
local ask, early = now + (seq == a[SEQ] and policy.fresh or CLAIM_MS), false
for d = 1, 3 do
  local used, ends = told[T_USED + d], told[T_ENDS + d]
  if known and ends > 0 and ends <= a[ROLLED + d] and now < a[ROLLED + d] + LATE_MS then
    -- Zion speaks of a period that is over. Ask again, less and less often, when the new one ends.
    used, ends, ask = a[USED + d], a[ENDS + d], min(ask, now + max(CLAIM_MS, now - a[ROLLED + d]))
  elseif known and a[ENDS + d] > 0 and ends > a[ENDS + d] then
    -- Zion has begun the next one before our clock did.
    a[ROLLED + d], early = a[ENDS + d], true
    if a.letters then a[a.letters + d] = 0 end
    if clean then a[BLIND + d] = 0 end
  elseif clean then
    a[BLIND + d] = 0
  elseif known then
    used = max(used, a[USED + d])
  end
  if ends > 0 and ends <= now then
    ask, ends = min(ask, now + max(CLAIM_MS, now - ends)), 0
  end
  a[LIMIT + d], a[USED + d], a[ENDS + d] = told[T_LIMIT + d], used, ends
end
if early then a[N] = a[N] + 1 end
a[SEQ], a[AT], a[ASK] = a[SEQ] + 1, now, ask
-- An account that begins may have forgotten records. In others it matters once it is more than what is left.
local compare = not known and call('XLEN', KEYS[4]) + call('XLEN', KEYS[5]) > 0
for d, l in ipairs({ left(a, now) }) do
  local unpaid = a[PEND + d] + (a.letters and a[a.letters + d] or 0)
  if unpaid > 0 and l < unpaid then compare = true end
end
save(a, KEYS)
return compare and 1 or 0
