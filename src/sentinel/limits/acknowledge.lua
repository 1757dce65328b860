-- Units: see ledger.lua. Zion has taken usage of one user: drop the records and move the sum from pending to used.
-- KEYS: account, leases, lease index, outbox, dead letters. ARGV: consumer group, as doubles: now (0 = this Redis'
-- clock), quota period of the records, their sum, Zion's new values (-1 = not told), Zion's limits (-2 = not told);
-- then the records' entries, one after the other, and if Zion has refused the usage for good, what the dead letter that
-- takes its place has: who, when, reason. Answer: records dropped, 0 when somebody did it before.
local EARLY_MS = 60000 -- So early, by our clock, Zion may begin a period.
local told = doubles(ARGV[2], 1, 11)
local period, T_SUM, T_NEW, T_LIMIT = told[2], 2, 5, 8
local entries = cmsgpack.unpack(ARGV[3])
local dropped = redis.call('XACK', KEYS[4], ARGV[1], unpack(entries))
redis.call('XDEL', KEYS[4], unpack(entries))
if dropped == 0 then return 0 end
local now = clock(told[1])
local a = load(KEYS, now)
a[SEQ] = a[SEQ] + 1
add(a, PEND, -1, told, T_SUM)
if ARGV[4] then
  -- A record of no period: our own books are done with it, whenever it is sent again.
  local sum = pack('<ddddd', told[T_SUM + 1], told[T_SUM + 2], told[T_SUM + 3], -1, tonumber(ARGV[5]))
  redis.call('XADD', KEYS[5], '*', 'who', ARGV[4], 'sum', sum, 'reason', ARGV[6])
  save(a, KEYS)
  return dropped
end
-- A value tells nothing if it belongs to another period than `used`: where the usage was of an earlier one, and close to
-- the end, for Zion may have begun the next one. Then, and where a limit has changed, Zion is asked again soon.
local known, again = a[AT] >= 0, period ~= a[N]
for d = 1, 3 do
  local new, limit = period == a[N] and known and told[T_NEW + d] or -1, told[T_LIMIT + d]
  if new >= 0 and a[ENDS + d] > 0 and now > a[ENDS + d] - EARLY_MS then new, again = -1, true end
  if new >= 0 then
    a[USED + d] = max(a[USED + d], new)
  else
    a[BLIND + d] = a[BLIND + d] + told[T_SUM + d]
  end
  if known and limit >= 0 and limit ~= a[LIMIT + d] then a[LIMIT + d], again = limit, true end
end
if known and again then a[ASK] = min(a[ASK], a[AT] + CLAIM_MS) end
save(a, KEYS)
return dropped
