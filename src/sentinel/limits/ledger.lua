-- Units: milliseconds since the Unix epoch on this Redis' clock; requests; tokens. Twin of limits/ledger.py.
-- The common part of every script here: Sentinel puts it before the script's own text when it loads it.
--
-- One user's account is one MessagePack map under KEYS[1]:
--   w      window name -> {slice, amount, slice, amount, ...}, oldest first: what was admitted in each slice
--   q      what Zion last said: at, ends (0 = never or unknown), limit (-1 = none), used; nil until it said something
--   held   reserved by requests in flight        pend   settled, not yet acknowledged by Zion
--   n      number of the quota period            rolled end of the last period that is over
--   seq    acknowledgements so far               claim  nobody else asks Zion for the limits before this moment
--   open   requests in flight                    lease  no lease ends before this moment (0 = no lease)
-- Each triple is {requests, input tokens, output tokens}. KEYS[2] has the leases, id -> MessagePack map.

local SLICES = 60
local CLAIM_MS = 5000
local REMEMBER_EXPIRED_MS = 3600000

local function clock(given)
  if given > 0 then return given end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function load(now)
  local packed = redis.call('GET', KEYS[1])
  local a = packed and cmsgpack.unpack(packed)
    or { w = {}, held = { 0, 0, 0 }, pend = { 0, 0, 0 }, n = 0, rolled = 0, seq = 0, claim = 0, open = 0, lease = 0 }
  -- A quota period that is over takes its spending with it; the next snapshot from Zion says when the new one ends.
  local q = a.q
  if q and q.ends > 0 and now >= q.ends then
    a.rolled, a.n = q.ends, a.n + 1
    a.pend = { 0, 0, 0 }
    q.used, q.ends = { 0, 0, 0 }, 0
  end
  return a
end

local function save(a, ttl)
  redis.call('SET', KEYS[1], cmsgpack.pack(a), 'PX', ttl)
end

-- Drop what has left the window. A slice counts whole until the last instant it holds is older than the window.
local function live(a, policy, now)
  local pairs_, first = a.w[policy.name] or {}, 1
  local oldest = math.floor(now / policy.slice) - SLICES
  while pairs_[first] and pairs_[first] < oldest do first = first + 2 end
  local kept, total = {}, 0
  for i = first, #pairs_, 2 do
    kept[#kept + 1], kept[#kept + 2] = pairs_[i], pairs_[i + 1]
    total = total + pairs_[i + 1]
  end
  a.w[policy.name] = kept
  return kept, total
end

-- Add to the slice of the moment `at`; an amount below zero gives back, never more than was taken there.
local function charge(window, slice, amount)
  if amount == 0 then return end
  local i = #window - 1
  while i >= 1 and window[i] > slice do i = i - 2 end
  if i >= 1 and window[i] == slice then
    window[i + 1] = math.max(0, window[i + 1] + amount)
    if window[i + 1] == 0 then table.remove(window, i) table.remove(window, i) end
  elseif amount > 0 then
    table.insert(window, i + 2, slice)
    table.insert(window, i + 3, amount)
  end
end

-- Replace what a lease reserved by what was spent: give back where it was taken, charge the excess now.
local function correct(a, policies, lease, spent, now)
  for _, policy in ipairs(policies) do
    local excess = spent[policy.dim] - lease.cost[policy.dim]
    if excess ~= 0 then
      local window = live(a, policy, now)
      charge(window, math.floor((excess < 0 and lease.at or now) / policy.slice), excess)
    end
  end
end

local function add(triple, other, sign)
  for d = 1, 3 do triple[d] = math.max(0, triple[d] + sign * other[d]) end
end

-- Write the usage record, less what was billed when an earlier lease of the same request ended.
local function bill(a, id, lease, total, billed, at)
  local spent = { 0, 0, 0 }
  for d = 1, 3 do spent[d] = math.max(0, total[d] - billed[d]) end
  if spent[1] + spent[2] + spent[3] == 0 then return end
  add(a.pend, spent, 1)
  redis.call('XADD', KEYS[4], '*', 'id', id, 'user', lease.user, 'email', lease.email, 'model', lease.model,
    'n', spent[1], 'in', spent[2], 'out', spent[3], 'period', a.n, 'at', at)
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

-- Return the reservations of processes that died. What a stream had delivered by its last checkpoint is billed;
-- the note 'x:<id>' says so, should the request turn out to live.
local function expire(a, policies, user, now)
  if a.lease == 0 or now < a.lease then return 0 end
  local earliest, count, all = 0, 0, redis.call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local id, lease = all[i], cmsgpack.unpack(all[i + 1])
    if lease.ends > now then
      if earliest == 0 or lease.ends < earliest then earliest = lease.ends end
    elseif string.sub(id, 1, 2) == 'x:' then
      redis.call('HDEL', KEYS[2], id)
    else
      local spent = lease.sent < 0 and { 1, 0, 0 } or { 1, lease.cost[2], lease.sent }
      correct(a, policies, lease, spent, now)
      add(a.held, lease.cost, -1)
      a.open, count = math.max(0, a.open - 1), count + 1
      redis.call('HDEL', KEYS[2], id)
      if lease.sent >= 0 then
        bill(a, id, lease, spent, lease.billed, 0)
        local ends = now + REMEMBER_EXPIRED_MS
        redis.call('HSET', KEYS[2], 'x:' .. id, cmsgpack.pack({ ends = ends, spent = spent }))
        if earliest == 0 or ends < earliest then earliest = ends end
      end
    end
  end
  index(a, user, earliest)
  return count
end

local function left(a, d)
  local q = a.q
  if not q or q.limit[d] < 0 then return nil end
  return q.limit[d] - q.used[d] - a.pend[d] - a.held[d]
end
