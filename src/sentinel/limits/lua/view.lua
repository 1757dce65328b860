-- Units: see ledger.lua. What a user may spend and has spent. Changes nothing, not even what is due.
-- KEYS: account, leases, lease index, outbox. ARGV: now (0 = this Redis' clock).
-- Answer, as a row of 64-bit integers: known (0 = no usable limits), now, refresh, seq, then for each dimension its limit
-- (-1 = none), for each what is used, reserved, on its way to Zion or
-- refused by it, for each when its period ends (0 = never, or not
-- known), then remaining and reset for each window, then requests in flight
local a = stored(KEYS)
-- To a clock that went back nothing has happened since.
local now = max(clock(tonumber(ARGV[1])), a[LAST])
roll(a, now)
local answer = { is_known(a, now) and 1 or 0, now, now >= a[ASK] and 1 or 0, a[SEQ] }
for d = 1, 3 do
  answer[4 + d] = a[LIMIT + d]
  answer[7 + d] = a[USED + d] + a[BLIND + d] + a[PEND + d] + a[HELD + d] + (a.letters and a[a.letters + d] or 0)
  answer[10 + d] = a[ENDS + d]
end
for k = 1, #windows do
  local p = windows[k]
  live(a, p, slice_of(p, now))
  local b, sum = p.base, a[p.base + SUM]
  answer[12 + 2 * k] = max(0, p.limit - sum)
  answer[13 + 2 * k] = sum > 0 and gone(p, a[b + FIRST] + a[b + BYTES] / slice_bytes(sum)) or now
end
answer[14 + 2 * #windows] = a[OPEN]
return pack(form('i8', 14 + 2 * #windows), unpack_all(answer))
