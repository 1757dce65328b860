-- Units: milliseconds since the Unix epoch on this Redis' clock; requests; tokens. Twin of limits/ledger.py.
-- The common part of the library that Sentinel loads into Redis: before it comes the policy as a table named POLICY,
-- after it each other file of this folder as a function of KEYS and ARGV, which calls `start` first.
--
-- One user's account is a row of doubles under the first key, and in Lua an array with these places (a triple takes
-- three: of requests, input tokens, output tokens; its place is that before the first):
local LAST = 1    -- the moment of this state
local N = 2       -- number of the quota period
local SEQ = 3     -- how often Zion has said something
local ASK = 4     -- from this moment on Zion is to be asked for the limits
local OPEN = 5    -- requests in flight
local LEASE = 6   -- no lease ends before this moment (0 = no lease)
local HELD = 6    -- triple: reserved by requests in flight
local PEND = 9    -- triple: settled, not yet acknowledged by Zion
local BLIND = 12  -- triple: acknowledged by a Zion that did not tell its new value; counts until Zion is asked again
local ROLLED = 15 -- triple: ends of the last periods that are over
local AT = 19     -- when Zion last told the limits (-1 = never), and then what it said, as three triples:
local LIMIT = 19  -- -1 = none
local USED = 22
local ENDS = 25   -- 0 = never or unknown
local SIZE = 28
-- After it, for each window that holds something: its id, bytes of its slices, first slice, sum of all, the slices: four
-- bytes each while the sum is below NARROW, else doubles, for Redis writes all of it to its log twice for each request. In
-- Lua they are tables, in the order of the policy, in one more place of the account. What an account has of windows that
-- this policy does not know is kept as it is.
local WINDOWS = 29
local OTHERS = 30
local FIRST, SUM, SLICE, EACH = 1, 2, 3, 4
local NARROW = 2147483648
local FORM = { [4] = 'I4', [8] = 'd' }
local NO_SLICE = { [4] = '\0\0\0\0', [8] = '\0\0\0\0\0\0\0\0' }

-- A lease is a row of doubles, too: when it ends, when it began, what it reserved, output delivered so far (-1 = not
-- begun), what was billed when an earlier lease of the same request ended, how many doubles follow: {moment, tokens}
-- of each extension. Then, once its stream has begun, whose it is, which no script looks into. A note 'x:<id>' has when it
-- ends, and a bill.
local L_ENDS, L_AT, COST, SENT, BILLED, L_MORE, L_REST = 1, 2, 2, 6, 6, 10, 11

local SLICES = 60
local CLAIM_MS = 5000
local REMEMBER_EXPIRED_MS = 3600000
local HEAD, WINDOW, LEASE_HEAD, NOTE = '<dddddddddddddddddddddddddddd', '<dddd', '<dddddddddd', '<dddd'
local NOT_BILLED = { 0, 0, 0 }
local policy, windows, places = POLICY, POLICY.windows, {}

-- While a library is being loaded it has none of Lua's own functions. This takes them at the first call.
local pack, unpack_from, rep, ceil, floor, max, min, NOTHING, NO_ACCOUNT, ANSWER
local function start()
  if pack then return end
  pack, unpack_from, rep = struct.pack, struct.unpack, string.rep
  ceil, floor, max, min = math.ceil, math.floor, math.max, math.min
  NOTHING = pack('<d', 0)
  NO_ACCOUNT = rep(NOTHING, AT - 1) .. rep(pack('<d', -1), 4) .. rep(NOTHING, 6)
  ANSWER = '<' .. rep('i8', 15 + 2 * #windows)
  for k, p in ipairs(windows) do places[p.id] = k end
end

local function clock(given)
  if given > 0 then return given end
  local time = redis.call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

-- The slice that a moment lies in, and the first moment at which a slice has left the window.
local function slice_of(p, moment) return floor(moment * SLICES / p.window) end
local function gone(p, slice) return ceil((slice + SLICES + 1) * p.window / SLICES) end

local function doubles(packed, from, count)
  return { unpack_from('<' .. rep('d', count), packed, from) }
end

-- The amounts of a window's slices, from a byte on.
local function amounts(w, from, count)
  return { unpack_from('<' .. rep(FORM[w[EACH]], count), w[SLICE], from) }
end

-- Have slices as wide as this sum of them needs.
local function fit(w, sum)
  local each = sum < NARROW and 4 or 8
  if w[EACH] == each then return end
  local count = #w[SLICE] / w[EACH]
  local all = amounts(w, 1, count)
  w[EACH], w[SLICE] = each, count > 0 and pack('<' .. rep(FORM[each], count), unpack(all, 1, count)) or ''
end

-- Add to a slice; an amount below zero gives back, never more than is there.
local function charge(w, slice, amount)
  if amount > 0 then fit(w, w[SUM] + amount) end
  local slices, each = w[SLICE], w[EACH]
  if slices == '' then w[FIRST] = slice end
  local form, at, size = '<' .. FORM[each], (slice - w[FIRST]) * each, #slices
  if amount > 0 then
    if at >= size then
      slices = slices .. rep('\0', at - size) .. pack(form, amount)
    else
      slices = slices:sub(1, at) .. pack(form, unpack_from(form, slices, at + 1) + amount) .. slices:sub(at + each + 1)
    end
    w[SLICE], w[SUM] = slices, w[SUM] + amount
  elseif amount < 0 and at >= 0 and at < size then
    local held = unpack_from(form, slices, at + 1)
    local left = max(0, held + amount)
    slices = slices:sub(1, at) .. pack(form, left) .. slices:sub(at + each + 1)
    while slices:sub(-each) == NO_SLICE[each] do slices = slices:sub(1, -each - 1) end
    w[SLICE], w[SUM] = slices, w[SUM] + left - held
  end
end

-- Take slices away, from the byte `from` to the byte `to`; returns what they held.
local function cut(w, from, to)
  local slices, sum = w[SLICE], 0
  local out = amounts(w, from, (to - from + 1) / w[EACH])
  for i = 1, #out - 1 do sum = sum + out[i] end
  w[SLICE], w[SUM] = slices:sub(1, from - 1) .. slices:sub(to + 1), w[SUM] - sum
  return sum
end

-- A lease's doubles, those of its extensions, whose it is.
local function read_lease(packed)
  local l = { unpack_from(LEASE_HEAD, packed) }
  local count = l[L_MORE]
  return l, count > 0 and doubles(packed, l[L_REST], count), packed:sub(l[L_REST] + 8 * count)
end

-- The opposite of read_lease.
local function save_lease(keys, id, l, more, who)
  local packed = pack(LEASE_HEAD, unpack(l, 1, L_MORE))
  for i = 1, l[L_MORE], 2 do packed = packed .. pack('<dd', more[i], more[i + 1]) end
  redis.call('HSET', keys[2], id, packed .. who)
end

-- The clock went back, as it may when another node takes over. What is noted for later than now counts from now on:
-- no window forgets early, and nobody waits longer than a window or a lease.
local function rewind(a, keys, now)
  for k, p in ipairs(windows) do
    local w, current = a[WINDOWS][k], slice_of(p, now)
    local keep = max(0, (current - w[FIRST] + 1) * w[EACH])
    if keep < #w[SLICE] then charge(w, current, cut(w, keep + 1, #w[SLICE])) end
  end
  local all = redis.call('HGETALL', keys[2])
  for i = 1, #all, 2 do
    if all[i]:sub(1, 2) ~= 'x:' then
      local l, more, who = read_lease(all[i + 1])
      l[L_ENDS], l[L_AT] = min(l[L_ENDS], now + policy.lease), min(l[L_AT], now)
      for j = 1, l[L_MORE], 2 do more[j] = min(more[j], now) end
      save_lease(keys, all[i], l, more, who)
    end
  end
  if a[AT] >= 0 then a[AT] = min(a[AT], now) end
  a[ASK], a[LEASE] = min(a[ASK], now), min(a[LEASE], now)
end

local function decode(packed)
  local a, others, list = { unpack_from(HEAD, packed) }, '', {}
  local at = a[SIZE + 1]
  for k = 1, #windows do list[k] = { 0, 0, '', 4 } end
  while at < #packed do
    local start, id, bytes, first, sum = at
    id, bytes, first, sum, at = unpack_from(WINDOW, packed, at)
    local k = places[id]
    if k then
      local w = list[k]
      w[FIRST], w[SUM], w[SLICE] = first, sum, packed:sub(at, at + bytes - 1)
      w[EACH] = sum < NARROW and 4 or 8
    else
      others = others .. packed:sub(start, at + bytes - 1)
    end
    at = at + bytes
  end
  a[WINDOWS], a[OTHERS] = list, others
  return a
end

local function save(a, keys)
  local packed = pack(HEAD, unpack(a, 1, SIZE))
  for k, p in ipairs(windows) do
    local w = a[WINDOWS][k]
    fit(w, w[SUM])
    local slices = w[SLICE]
    if slices ~= '' then packed = packed .. pack(WINDOW, p.id, #slices, w[FIRST], w[SUM]) .. slices end
  end
  redis.call('SET', keys[1], packed .. a[OTHERS], 'PX', policy.ttl)
end

-- The account now, and whether it must be saved although nothing happens to it.
local function load(keys, now)
  local a = decode(redis.call('GET', keys[1]) or NO_ACCOUNT)
  local back, over = a[LAST] > now, false
  if back then rewind(a, keys, now) end
  a[LAST] = now
  if a[AT] >= 0 then
    for d = 1, 3 do
      local ends = a[ENDS + d]
      if ends > 0 and now >= ends then
        a[ROLLED + d], a[ENDS + d], a[USED + d], over = ends, 0, 0, true
      end
    end
  end
  -- Zion says when the new period ends. What it has not told to be booked in the old one may count in the new one, so
  -- what is pending and blind stays.
  if over then a[N], a[ASK] = a[N] + 1, 0 end
  return a, back or over
end

-- Drop what has left the window; returns the window and its sum. A slice counts whole until the last instant it holds
-- is older than the window.
local function live(a, k, now)
  local w = a[WINDOWS][k]
  local old, bytes = slice_of(windows[k], now) - SLICES - w[FIRST], #w[SLICE]
  if bytes > 0 and old > 0 then
    cut(w, 1, min(bytes, old * w[EACH]))
    w[FIRST] = w[FIRST] + old
  end
  if w[SUM] == 0 then w[SLICE] = '' end
  return w, w[SUM]
end

-- Replace what a lease reserved by what was spent: give back where it was taken, charge the excess now.
-- more: {moment, tokens} of the lease's extensions, one after the other.
local function correct(a, l, more, spent, now)
  for k, p in ipairs(windows) do
    local excess = spent[p.dim] - l[COST + p.dim]
    if excess ~= 0 then
      local w = live(a, k, now)
      for i = p.dim == 3 and l[L_MORE] - 1 or 0, 1, -2 do
        local back = min(0, max(excess, -more[i + 1]))
        charge(w, slice_of(p, more[i]), back)
        excess = excess - back
      end
      charge(w, slice_of(p, excess < 0 and l[L_AT] or now), excess)
    end
  end
end

-- Add to a triple of an account what stands in three places of another array; never below zero.
local function add(a, triple, sign, from, place)
  for d = 1, 3 do a[triple + d] = max(0, a[triple + d] + sign * from[place + d]) end
end

-- Write the usage record, less what was billed before.
local function bill(a, keys, who, total, billed, place, at)
  local r, i = max(0, total[1] - billed[place + 1]), max(0, total[2] - billed[place + 2])
  local o = max(0, total[3] - billed[place + 3])
  if r + i + o == 0 then return end
  a[PEND + 1], a[PEND + 2], a[PEND + 3] = a[PEND + 1] + r, a[PEND + 2] + i, a[PEND + 3] + o
  redis.call('XADD', keys[4], '*', 'who', who, 'sum', pack('<ddddd', r, i, o, a[N], at))
end

-- The earliest end of a lease moved: tell the partition's index, which the reaper reads.
local function index(a, keys, user, earliest)
  if a[LEASE] == earliest then return end
  a[LEASE] = earliest
  if earliest == 0 then redis.call('ZREM', keys[3], user) else redis.call('ZADD', keys[3], earliest, user) end
end

-- What a request was billed when its lease ended; the note is taken away with the answer.
local function billed_before(keys, id)
  local packed = redis.call('HGET', keys[2], 'x:' .. id)
  if not packed then return NOT_BILLED end
  redis.call('HDEL', keys[2], 'x:' .. id)
  local _, r, i, o = unpack_from(NOTE, packed)
  return { r, i, o }
end

-- End one lease. What a stream had delivered by its last checkpoint is billed; the note 'x:<id>' says so, should the
-- request turn out to live. Returns when that note ends.
local function expire_one(a, keys, id, packed, now)
  local l, more, who = read_lease(packed)
  local spent = l[SENT] < 0 and { 1, 0, 0 } or { 1, l[COST + 2], l[SENT] }
  correct(a, l, more, spent, now)
  add(a, HELD, -1, l, COST)
  a[OPEN] = max(0, a[OPEN] - 1)
  redis.call('HDEL', keys[2], id)
  if l[SENT] < 0 then return nil end
  bill(a, keys, who, spent, l, BILLED, 0)
  local ends = now + REMEMBER_EXPIRED_MS
  redis.call('HSET', keys[2], 'x:' .. id, pack(NOTE, ends, spent[1], spent[2], spent[3]))
  return ends
end

-- Return the reservations of processes that died, and say how many. All leases are looked at, so that happens at most
-- every twentieth of a lease: many that end one by one must not cost a look each.
local function expire(a, keys, user, now)
  if a[LEASE] == 0 or now < a[LEASE] then return 0 end
  local earliest, count, all = nil, 0, redis.call('HGETALL', keys[2])
  for i = 1, #all, 2 do
    local id, packed = all[i], all[i + 1]
    local ends = unpack_from('<d', packed)
    if ends <= now and id:sub(1, 2) == 'x:' then
      redis.call('HDEL', keys[2], id)
      ends = nil
    elseif ends <= now then
      ends, count = expire_one(a, keys, id, packed, now), count + 1
    end
    if ends then earliest = min(earliest or ends, ends) end
  end
  index(a, keys, user, earliest and max(earliest, now + floor(policy.lease / 20)) or 0)
  return count
end

-- What is left of the quota of a dimension; nil where it has no limit.
local function left(a, d)
  if a[AT] < 0 or a[LIMIT + d] < 0 then return nil end
  return a[LIMIT + d] - a[USED + d] - a[BLIND + d] - a[PEND + d] - a[HELD + d]
end
