-- Units: see ledger.lua. Zion has taken usage of users of one partition: drop the records, move the sums from pending to used.
-- KEYS: lease index, outbox, dead letters, then account and leases for each item. ARGV: consumer group, now (0 = this
-- Redis' clock), then for each item as doubles: quota period of its records, their sum, Zion's new values (-1 = not told),
-- Zion's limits (-2 = not told), and its records' entries; then, if Zion has refused the one item for good, what the dead
-- letter that takes its place has: who, when, reason, micro-USD as a double. Answer: records dropped, without those that somebody dropped before.
local EARLY_MS = 60000 -- So early, by our clock, Zion may begin a period.
local T_SUM, T_NEW, T_LIMIT = 1, 4, 7
local now, items, dropped = clock(tonumber(ARGV[2])), (#KEYS - 3) / 2, 0
local letter = 2 * items + 3

-- Refused usage is no more pending and yet spent, unless its period is over.
local function bury(a, told)
  local period, at = told[1], tonumber(ARGV[letter + 1])
  local sum = pack('<ddddd', told[T_SUM + 1], told[T_SUM + 2], told[T_SUM + 3], period, at)
  local reason, micro_usd = ARGV[letter + 2], ARGV[letter + 3]
  local entry = call('XADD', KEYS[3], '*', 'who', ARGV[letter], 'sum', sum, 'reason', reason, 'micro_usd', micro_usd)
  undoing('XDEL', KEYS[3], entry)
  local letters = letters_of(a)
  for d = 1, 3 do
    if is_current(a, d, period, at) then a[letters + d] = a[letters + d] + told[T_SUM + d] end
  end
end

-- A value tells nothing if it belongs to another period than `used`: where the usage was of an earlier one, and close
-- to the end, for Zion may have begun the next one. Then, and where a limit has changed, Zion is asked again soon.
local function book(a, told)
  local period = told[1]
  local known, again = a[AT] >= 0, period ~= a[N]
  for d = 1, 3 do
    local new, limit = period == a[N] and known and told[T_NEW + d] or -1, told[T_LIMIT + d]
    if new >= 0 and a[ENDS + d] > 0 and now > a[ENDS + d] - EARLY_MS then new, again = -1, true end
    if new >= 0 then
      -- What Zion took before, and did not tell, is in it.
      a[USED + d], a[BLIND + d] = max(a[USED + d], new), 0
    else
      a[BLIND + d] = a[BLIND + d] + told[T_SUM + d]
    end
    if known and limit >= 0 and limit ~= a[LIMIT + d] then a[LIMIT + d], again = limit, true end
  end
  if known and again then a[ASK] = min(a[ASK], a[AT] + CLAIM_MS) end
end

-- What is in the outbox is pending, whoever has read it: so it is XDEL that says whether anything is to be booked.
local function acknowledge(keys, told, entries)
  local a, _, packed = load(keys, now)
  local start_of_item = undone
  a[SEQ] = a[SEQ] + 1
  add(a, PEND, -1, told, T_SUM)
  if ARGV[letter] then bury(a, told) else book(a, told) end
  save_before(a, keys, packed)
  local count = call('XDEL', keys[4], unpack_all(entries))
  if count == 0 then undo_from(start_of_item) else undone = start_of_item end
  -- Last, so that a record which is not acknowledged is gone in any case.
  call('XACK', keys[4], ARGV[1], unpack_all(entries))
  dropped = dropped + count
end

for i = 1, items do
  local keys = { KEYS[2 * i + 2], KEYS[2 * i + 3], KEYS[1], KEYS[2] }
  acknowledge(keys, doubles(ARGV[2 * i + 1], 1, 10), cmsgpack.unpack(ARGV[2 * i + 2]))
end
return dropped
