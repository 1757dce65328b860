-- Units: milliseconds since the Unix epoch on this Redis' clock; requests; tokens. Twin of limits/ledger.py.
-- The common part of every script here: Sentinel puts it before the script's own text when it loads it, and before it
-- the policy as a table named POLICY.
--
-- One user's account is a row of doubles under KEYS[1]; `decode` has their order. As a table:
--   w      id of a window -> {first slice, amount, amount, ...}: what was admitted in this slice and in each after it
--   q      what Zion last said: at, limit (-1 = none), used, ends (0 = never or unknown); nil until it said something
--   held   reserved by requests in flight        pend   settled, not yet acknowledged by Zion
--   blind  acknowledged by a Zion that did not tell its new value; counts until Zion is asked the next time
--   n      number of the quota period            rolled ends of the last periods that are over
--   seq    how often Zion has said something     ask    from this moment on Zion is to be asked for the limits
--   open   requests in flight                    lease  no lease ends before this moment (0 = no lease)
--   last   the moment of this state
-- Triples are {requests, input tokens, output tokens}. KEYS[2] has the leases, id -> MessagePack map; `who` in them is
-- whose they are, [request id, user, e-mail, model] in JSON, which no script looks into.

local SLICES = 60
local CLAIM_MS = 5000
local REMEMBER_EXPIRED_MS = 3600000
local ceil, floor, max, min = math.ceil, math.floor, math.max, math.min

local function clock(given)
  if given > 0 then return given end
  local time = redis.call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

-- The slice that a moment lies in, and the first moment at which a slice has left the window.
local function slice_of(p, moment) return floor(moment * SLICES / p.window) end
local function gone(p, slice) return ceil((slice + SLICES + 1) * p.window / SLICES) end

-- Add to a slice; an amount below zero gives back, never more than is there.
local function charge(w, slice, amount)
  local i = slice - (w[1] or slice) + 2
  if amount > 0 then
    w[1] = w[1] or slice
    for gap = #w + 1, i do w[gap] = 0 end
    w[i] = w[i] + amount
  elseif amount < 0 and i > 1 and w[i] then
    w[i] = max(0, w[i] + amount)
    while #w > 1 and w[#w] == 0 do table.remove(w) end
  end
end

-- The clock went back, as it may when another node takes over. What is noted for later than now counts from now on:
-- no window forgets early, and nobody waits longer than a window or a lease.
local function rewind(a, policy, now)
  for _, p in ipairs(policy.windows) do
    local w, current, ahead = a.w[p.id] or {}, slice_of(p, now), 0
    while #w > 1 and w[1] + #w - 2 > current do ahead = ahead + table.remove(w) end
    if #w == 1 then w[1] = nil end
    charge(w, current, ahead)
  end
  local all = redis.call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local lease = cmsgpack.unpack(all[i + 1])
    if lease.cost then
      lease.ends, lease.at = min(lease.ends, now + policy.lease), min(lease.at, now)
      for k = 1, #(lease.more or {}), 2 do lease.more[k] = min(lease.more[k], now) end
      redis.call('HSET', KEYS[2], all[i], cmsgpack.pack(lease))
    end
  end
  if a.q then a.q.at = min(a.q.at, now) end
  a.ask, a.lease = min(a.ask, now), min(a.lease, now)
end

-- MessagePack would take 10 us both ways, this takes 4, and every script does both.
local function decode(packed)
  local size = #packed / 8
  local v = { struct.unpack('<' .. string.rep('d', size), packed) }
  local a = {
    last = v[1], n = v[2], seq = v[3], ask = v[4], open = v[5], lease = v[6],
    held = { v[7], v[8], v[9] }, pend = { v[10], v[11], v[12] }, blind = { v[13], v[14], v[15] },
    rolled = { v[16], v[17], v[18] }, w = {},
  }
  if v[19] >= 0 then
    a.q = {
      at = v[19], limit = { v[20], v[21], v[22] }, used = { v[23], v[24], v[25] }, ends = { v[26], v[27], v[28] },
    }
  end
  local i = 29
  while i < size do
    local w, count = {}, v[i + 1]
    for k = 1, count do w[k] = v[i + 1 + k] end
    a.w[v[i]], i = w, i + 2 + count
  end
  return a
end

local NOTHING_YET = { at = -1, limit = { -1, -1, -1 }, used = { 0, 0, 0 }, ends = { 0, 0, 0 } }

local function encode(a)
  local h, p, b, r, q = a.held, a.pend, a.blind, a.rolled, a.q or NOTHING_YET
  local l, u, e = q.limit, q.used, q.ends
  local v = {
    a.last, a.n, a.seq, a.ask, a.open, a.lease, h[1], h[2], h[3], p[1], p[2], p[3], b[1], b[2], b[3], r[1], r[2], r[3],
    q.at, l[1], l[2], l[3], u[1], u[2], u[3], e[1], e[2], e[3],
  }
  local i = 28
  for id, w in pairs(a.w) do
    local count = #w
    if count > 0 then
      v[i + 1], v[i + 2] = id, count
      for k = 1, count do v[i + 2 + k] = w[k] end
      i = i + 2 + count
    end
  end
  return struct.pack('<' .. string.rep('d', i), unpack(v, 1, i))
end

-- The account now, and whether it must be saved although nothing happens to it.
local function load(policy, now)
  local packed = redis.call('GET', KEYS[1])
  local a = packed and decode(packed) or {
    w = {}, held = { 0, 0, 0 }, pend = { 0, 0, 0 }, blind = { 0, 0, 0 }, n = 0, rolled = { 0, 0, 0 }, seq = 0,
    ask = 0, open = 0, lease = 0, last = 0,
  }
  local back = a.last > now
  if back then rewind(a, policy, now) end
  a.last = now
  local q, over = a.q, false
  for d = 1, q and 3 or 0 do
    if q.ends[d] > 0 and now >= q.ends[d] then
      a.rolled[d], q.ends[d], q.used[d], over = q.ends[d], 0, 0, true
    end
  end
  -- Zion says when the new period ends. What it has not told to be booked in the old one may count in the new one, so
  -- `pend` and `blind` stay.
  if over then a.n, a.ask = a.n + 1, 0 end
  return a, back or over
end

local function save(a, ttl)
  redis.call('SET', KEYS[1], encode(a), 'PX', ttl)
end

-- Drop what has left the window, and add up the rest. A slice counts whole until the last instant it holds is older
-- than the window.
local function live(a, p, now)
  local w = a.w[p.id] or {}
  local old, size, total = slice_of(p, now) - SLICES - (w[1] or 0), #w, 0
  if size > 1 and old > 0 then
    for i = 2, size do w[i] = w[i + old] end
    w[1] = w[1] + old
  end
  for i = 2, #w do total = total + w[i] end
  if total == 0 then w = {} end
  a.w[p.id] = w
  return w, total
end

-- Replace what a lease reserved by what was spent: give back where it was taken, charge the excess now.
local function correct(a, windows, lease, spent, now)
  for _, p in ipairs(windows) do
    local excess = spent[p.dim] - lease.cost[p.dim]
    if excess ~= 0 then
      local w, more = live(a, p, now), p.dim == 3 and lease.more or {}
      for i = #more - 1, 1, -2 do
        local back = min(0, max(excess, -more[i + 1]))
        charge(w, slice_of(p, more[i]), back)
        excess = excess - back
      end
      charge(w, slice_of(p, excess < 0 and lease.at or now), excess)
    end
  end
end

local function add(triple, other, sign)
  for d = 1, 3 do triple[d] = max(0, triple[d] + sign * other[d]) end
end

-- Write the usage record, less what was billed when an earlier lease of the same request ended.
local function bill(a, who, total, billed, at)
  local spent = { 0, 0, 0 }
  for d = 1, 3 do spent[d] = max(0, total[d] - billed[d]) end
  if spent[1] + spent[2] + spent[3] == 0 then return end
  add(a.pend, spent, 1)
  redis.call('XADD', KEYS[4], '*', 'who', who, 'sum', struct.pack('<ddddd', spent[1], spent[2], spent[3], a.n, at))
end

-- The earliest end of a lease moved: tell the partition's index, which the reaper reads.
local function index(a, user, earliest)
  if a.lease == earliest then return end
  a.lease = earliest
  if earliest == 0 then redis.call('ZREM', KEYS[3], user) else redis.call('ZADD', KEYS[3], earliest, user) end
end

-- What a request was billed when its lease ended; the note is taken away with the answer.
local function billed_before(id)
  local packed = redis.call('HGET', KEYS[2], 'x:' .. id)
  if not packed then return { 0, 0, 0 } end
  redis.call('HDEL', KEYS[2], 'x:' .. id)
  return cmsgpack.unpack(packed).spent
end

-- End one lease. What a stream had delivered by its last checkpoint is billed; the note 'x:<id>' says so, should the
-- request turn out to live. Returns when that note ends.
local function expire_one(a, windows, id, lease, now)
  local spent = lease.sent < 0 and { 1, 0, 0 } or { 1, lease.cost[2], lease.sent }
  correct(a, windows, lease, spent, now)
  add(a.held, lease.cost, -1)
  a.open = max(0, a.open - 1)
  redis.call('HDEL', KEYS[2], id)
  if lease.sent < 0 then return nil end
  bill(a, lease.who, spent, lease.billed, 0)
  local ends = now + REMEMBER_EXPIRED_MS
  redis.call('HSET', KEYS[2], 'x:' .. id, cmsgpack.pack({ ends = ends, spent = spent }))
  return ends
end

-- Return the reservations of processes that died, and say how many. All leases are looked at, so that happens at most
-- every twentieth of a lease: many that end one by one must not cost a look each.
local function expire(a, policy, user, now)
  if a.lease == 0 or now < a.lease then return 0 end
  local earliest, count, all = nil, 0, redis.call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local id, lease = all[i], cmsgpack.unpack(all[i + 1])
    local note = not lease.cost
    local ends = lease.ends
    if ends <= now and note then
      redis.call('HDEL', KEYS[2], id)
      ends = nil
    elseif ends <= now then
      ends, count = expire_one(a, policy.windows, id, lease, now), count + 1
    end
    if ends then earliest = min(earliest or ends, ends) end
  end
  index(a, user, earliest and max(earliest, now + floor(policy.lease / 20)) or 0)
  return count
end

local function left(a, d)
  local q = a.q
  if not q or q.limit[d] < 0 then return nil end
  return q.limit[d] - q.used[d] - a.blind[d] - a.pend[d] - a.held[d]
end
