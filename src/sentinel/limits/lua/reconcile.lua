-- Units: see ledger.lua. Correct what an account counts as pending and as dead letters by the records there are.
-- KEYS: account, leases, lease index, outbox, dead letters. ARGV: now (0 = this Redis' clock); as doubles, what was found
-- in outbox and dead letters: how many entries in all; of this user the sum in the outbox, then of each letter requests,
-- input, output, period and moment; then the last entry of either, '' = none.
-- Answer: 1 corrected, 0 nothing to correct, -1 something has come or gone meanwhile, look again.
local now, count = clock(tonumber(ARGV[1])), #ARGV[2] / 8
local found = doubles(ARGV[2], 1, count)
for i = 1, 2 do
  local last = call('XREVRANGE', KEYS[3 + i], '+', '-', 'COUNT', 1)[1]
  if call('XLEN', KEYS[3 + i]) ~= found[i] or (last and last[1] or '') ~= ARGV[2 + i] then return -1 end
end
local a, dirty = load(KEYS, now)
local letters = { 0, 0, 0 }
for i = 6, count, 5 do
  for d = 1, 3 do
    if is_current(a, d, found[i + 3], found[i + 4]) then letters[d] = letters[d] + found[i + d - 1] end
  end
end
local corrected = 0
for d = 1, 3 do
  local pending, dead = found[2 + d], a.letters and a[a.letters + d] or 0
  if a[PEND + d] ~= pending then a[PEND + d], corrected = pending, 1 end
  if dead ~= letters[d] then a[letters_of(a) + d], corrected = letters[d], 1 end
end
if corrected == 1 or dirty then save(a, KEYS) end
return corrected
