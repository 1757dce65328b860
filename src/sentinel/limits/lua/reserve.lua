-- Units: see ledger.lua. Admit one request over all dimensions at once, or refuse it and change nothing.
-- KEYS: account, leases, lease index, outbox. ARGV: id, user, and as doubles: now (0 = this Redis' clock), input, output,
-- least and fair output (policy.py, Reservation).
-- Answer, as a row of 64-bit integers (a table would take 5 us more, and each of them 0.1): code, now, granted, finite,
-- refresh, stale, seq, what is left of the quota of each dimension or -1, remaining concurrency or -1, then remaining and
-- reset for each window, then of one that is refused wait, kind, which, limit, used, left, reset
--   code 0 admitted, 1 refused, 2 no usable limits known; wait: ms until it would fit, -1 = never
--   kind of the blocker: 1 window, 2 concurrency, 3 quota; which: window number or dimension
local now, input, output, least, fair = unpack_from('<ddddd', ARGV[3])
now = clock(now)
local user, windowed = ARGV[2], #windows
local a, dirty = load(KEYS, now)

if not is_known(a, now) then
  if dirty then save(a, KEYS) end
  return pack('<i8i8i8i8i8i8i8', 2, now, 0, 0, 1, 0, a[SEQ])
end
local stale, refresh = now >= a[AT] + policy.fresh and 1 or 0, 0
if now >= a[ASK] then
  a[ASK], refresh, dirty = now + CLAIM_MS, 1, true
end
local lease = a[LEASE]
expire(a, KEYS, user, now)
dirty = dirty or a[LEASE] ~= lease

-- Whether it fits, and how much of the output: that may be less, the rest is all or nothing.
local requests_left, input_left, output_left = left(a, now)
local room, cost = output_left, { 1, input, 0 }
local fits = requests_left >= 1 and (input_left >= input or input == 0)
if policy.concurrency >= 0 and a[OPEN] >= policy.concurrency then fits = false end
for k = 1, windowed do
  local p = windows[k]
  local dim = p.dim
  p.current = slice_of(p, now)
  live(a, p, p.current)
  local free = p.limit - a[p.base + SUM]
  if dim == 3 then
    if free < room then room = free end
  elseif free < cost[dim] and cost[dim] > 0 then
    fits = false
  end
end
local granted, finite = output, room < huge and 1 or 0
if room < huge then
  local most = fair > 0 and min(room, max(fair, floor(room / 4))) or room
  if most < granted then granted = most > 0 and most or 0 end
end
cost[3] = granted > least and granted or least
if room < cost[3] and cost[3] > 0 then fits = false end

-- Charge it where it does, and say how the windows are then.
if fits then cost[3] = granted end
local count = 0
for k = 1, windowed do
  local p = windows[k]
  local b, amount = p.base, cost[p.dim]
  if fits and amount > 0 then charge(a, p, p.current, amount) end
  local sum = a[b + SUM]
  row[count + 1] = sum < p.limit and p.limit - sum or 0
  count = count + 2
  row[count] = sum > 0 and gone(p, a[b + FIRST] + a[b + BYTES] / (sum < NARROW and 4 or 8)) or now
end

local wait, kind, which, limit, used, remaining, reset = 0, 0, 0, 0, 0, 0, 0
if fits then
  a[HELD + 1], a[HELD + 2], a[HELD + 3] = a[HELD + 1] + 1, a[HELD + 2] + input, a[HELD + 3] + granted
  requests_left, input_left, output_left = requests_left - 1, input_left - input, output_left - granted
  a[OPEN] = a[OPEN] + 1
  local ends = now + policy.lease
  call('HSET', KEYS[2], ARGV[1], pack(LEASE_HEAD, ends, now, 1, input, granted, -1, 0, 0, 0, 0))
  undoing('HDEL', KEYS[2], ARGV[1])
  index(a, KEYS, user, a[LEASE] == 0 and ends or min(a[LEASE], ends))
else
  -- The blocker that is told: a quota before a window before concurrency, and of its kind the one that lasts longest.
  local function blocked(k, w, number, l, u, at)
    local longer = wait >= 0 and (w < 0 or w > wait)
    if kind == 0 or longer or (k == 3 and kind ~= 3) then
      kind, which, limit, used, remaining, reset = k, number, l, u, max(0, l - u), at
    end
    if longer then wait = w end
  end
  if policy.concurrency >= 0 and a[OPEN] >= policy.concurrency then
    blocked(2, 1000, 0, policy.concurrency, a[OPEN], now + 1000)
  end
  for k, p in ipairs(windows) do
    local first, sum, amount = a[p.base + FIRST], a[p.base + SUM], cost[p.dim]
    local missing = sum + amount - p.limit
    if missing > 0 and amount > 0 then
      local at, freed = -1, 0
      for i, slice in ipairs(amount <= p.limit and sum > 0 and slices(a, p) or {}) do
        freed = freed + slice
        if freed >= missing then at = gone(p, first + i - 1) break end
      end
      blocked(1, at < 0 and -1 or at - now, k, p.limit, sum, at < 0 and now + p.window or at)
    end
  end
  for d, l in ipairs({ left(a, now) }) do
    local ends = a[ENDS + d]
    if l < cost[d] and cost[d] > 0 then
      -- Tokens that are only reserved come back, as a rule, long before the period ends.
      local returns = d > 1 and l + a[HELD + d] >= cost[d]
      blocked(3, returns and 1000 or ends > 0 and ends - now or -1, d, a[LIMIT + d], a[LIMIT + d] - l, ends)
    end
  end
end
if fits or dirty then save(a, KEYS) end

if not fits then
  row[count + 1], row[count + 2], row[count + 3], row[count + 4] = wait, kind, which, limit
  row[count + 5], row[count + 6], row[count + 7] = used, remaining, reset
  count = count + 7
end
return pack(
  form('i8', 11 + count), fits and 0 or 1, now, granted, finite, refresh, stale, a[SEQ],
  requests_left < huge and (requests_left > 0 and requests_left or 0) or -1,
  input_left < huge and (input_left > 0 and input_left or 0) or -1,
  output_left < huge and (output_left > 0 and output_left or 0) or -1,
  policy.concurrency >= 0 and max(0, policy.concurrency - a[OPEN]) or -1, unpack_all(row, 1, count)
)
