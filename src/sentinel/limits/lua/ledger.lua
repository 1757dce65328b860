-- Units: milliseconds since the Unix epoch on this Redis' clock; requests; tokens. Twin of limits/ledger.py.
-- The common part of the library that Sentinel loads into Redis: before it comes the policy as a table named POLICY,
-- after it each other file of this folder as a function of KEYS and ARGV, which `whole` runs. It is long because a
-- library of Redis has no modules.
--
-- One user's account is a row under the first key. In it are doubles, and in Lua they are an array with these places (a
-- triple takes three: of requests, input tokens, output tokens; its place is that before the first):
local TEXTS = 1   -- not in the row: see `cut`
local LAST = 2    -- the moment of this state
local N = 3       -- number of the quota period
local SEQ = 4     -- how often Zion has said something
local ASK = 5     -- from this moment on Zion is to be asked for the limits
local OPEN = 6    -- requests in flight
local LEASE = 7   -- no lease ends before this moment (0 = no lease)
local HELD = 7    -- triple: reserved by requests in flight, less what was billed when an earlier lease of theirs ended
local PEND = 10   -- triple: settled, not yet acknowledged by Zion
local BLIND = 13  -- triple: acknowledged by a Zion that did not tell its new value; counts until Zion is asked again
local ROLLED = 16 -- triple: ends of the last periods that are over
local AT = 20     -- when Zion last told the limits (-1 = never), and then what it said, as three triples:
local LIMIT = 20  -- -1 = none
local USED = 23
local ENDS = 26   -- 0 = never or unknown
local BUCKET = 30 -- the set of settled ids that was last told how long to live, by its number; and when that was
local TOLD = 31
local COUNT = 32  -- how many windows follow; window k has five doubles, after the place `base(k)`:
local ID, BYTES, FIRST, SUM, TOP = 1, 2, 3, 4, 5
local function base(k) return COUNT - 5 + 5 * k end
-- which window, bytes of its older slices, number of its oldest slice, sum of all, amount of its newest slice. A sum of 0
-- has no slices. After the doubles come the older slices of each window, four bytes each while the sum is below NARROW,
-- else doubles. Most calls leave them as they are, and write the doubles alone (`save`), for what Redis writes goes to
-- its log, too.
-- The windows of this policy come first, in its order; what an account has of others is kept as it is. So is a triple
-- that only some accounts have, under the ID of no window, in place of FIRST, SUM and TOP: of the dead letters, that is
-- what Zion has refused for good. It counts until a letter is sent again, or deleted, or its quota period is over. A
-- version of Sentinel that knows nothing of letters keeps it, too, so that old and new ones can work on one account.
local LETTERS = -1
local NARROW = 2147483648

-- A lease is a row of doubles, too: when it ends, when it began, what it reserved, output delivered so far (-1 = not
-- begun), what was billed when an earlier lease of the same request ended, how many doubles follow: {moment, tokens}
-- of each extension. Then, once its stream has begun, whose it is, which no script looks into. A note 'x:<id>' has when it
-- ends, and a bill.
local L_ENDS, L_AT, COST, DELIVERED, BILLED, L_MORE, L_REST = 1, 2, 2, 6, 6, 10, 11

local SLICES = 60
local CLAIM_MS = 5000
local TELL_MS = 60000
local REMEMBER_EXPIRED_MS = 3600000
local GRACE_SECONDS = 3
local RENEW_MS = 60000
local LEASE_HEAD, NOTE = '<dddddddddd', '<dddd'
local NOT_BILLED = { 0, 0, 0 }
local USABLE_MS = POLICY.fresh + POLICY.stale
local policy, windows, forms = POLICY, POLICY.windows, { I4 = {}, d = {}, i8 = {} }

-- While a library is being loaded it has none of Lua's own functions. `start` takes them at the first call.
local call, pack, unpack_from, unpack_all, rep, floor, max, min, huge, attempt, NO_ACCOUNT

-- What `reserve` answers, in part: it is filled anew in each call, for Lua pays for every table.
local row = {}

-- The form of so many numbers.
local function form(of, count)
  local known = forms[of][count]
  if not known then
    known = '<' .. rep(of, count)
    forms[of][count] = known
  end
  return known
end

-- A window of the policy gets the places of what is its own in an account.
local function start()
  if pack then return end
  call, pack, unpack_from, unpack_all, rep = redis.call, struct.pack, struct.unpack, unpack, string.rep
  floor, max, min, huge, attempt = math.floor, math.max, math.min, math.huge, pcall
  local none = {}
  for place = 2, COUNT + 5 * #windows do none[place] = 0 end
  none[AT], none[LIMIT + 1], none[LIMIT + 2], none[LIMIT + 3], none[COUNT] = -1, -1, -1, -1, #windows
  for k, p in ipairs(windows) do
    p.base, p.number = base(k), k
    none[p.base + ID] = p.id
  end
  NO_ACCOUNT = pack(form('d', COUNT - 1 + 5 * #windows), unpack_all(none, 2, COUNT + 5 * #windows))
end

-- Redis undoes nothing of a function that fails midway. So whatever is written is noted with the command that takes it
-- back, and `whole` runs these, the last first. XDEL cannot be taken back: it is the last to be done. The account comes
-- right before that, or is the last itself. The notes of all calls have the same four tables: that is the least to write.
local undone, undo_command, undo_key, undo_one, undo_two = 0, {}, {}, {}, {}
local function undoing(command, key, one, two)
  local n = undone + 1
  undo_command[n] = command
  undo_key[n] = key
  undo_one[n] = one
  undo_two[n] = two
  undone = n
end

-- Take back what was written since so many commands were noted.
local function undo_from(first)
  for n = undone, first + 1, -1 do
    local command, key, one, two = undo_command[n], undo_key[n], undo_one[n], undo_two[n]
    if two then
      redis.pcall(command, key, one, two)
    elseif one then
      redis.pcall(command, key, one)
    else
      redis.pcall(command, key)
    end
  end
  undone = first
end

-- A function that is carried out as a whole, or not at all: it may be called again after any error.
local function whole(work)
  return function(KEYS, ARGV)
    start()
    undone = 0
    local done, answer = attempt(work, KEYS, ARGV)
    if done then return answer end
    undo_from(0)
    -- An error of Redis keeps its own first word, by which callers know what it is about. Some hand it out as a table.
    local said = answer.err or answer
    if said:match('^%u+ ') then return redis.error_reply('-' .. said) end
    error(said, 0)
  end
end

-- A Redis that comes back finds leases ended whose processes live and could not say so. They get so long to do that.
local awake = false
local function is_awake()
  if awake then return true end
  local uptime = tonumber(call('INFO', 'server'):match('uptime_in_seconds:(%-?%d+)'))
  -- Below zero where the clock went back since the start: who would wait for it would wait as long as it went back.
  awake = uptime >= GRACE_SECONDS or uptime < 0
  return awake
end

-- Tests turn the clock, also that of a Redis that has just started.
local function clock(given)
  if given > 0 then
    awake = true
    return given
  end
  local time = call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

-- The slice that a moment lies in, and the first moment at which a slice has left the window.
local function slice_of(p, moment)
  local slice = moment * SLICES / p.window
  return slice - slice % 1
end
local function gone(p, slice)
  local moment = (slice + SLICES + 1) * p.window / SLICES
  local part = moment % 1
  return part == 0 and moment or moment - part + 1
end

local function doubles(packed, from, count)
  return { unpack_from(form('d', count), packed, from) }
end

local function slices_form(sum, count) return form(sum < NARROW and 'I4' or 'd', count) end
local function slice_bytes(sum) return sum < NARROW and 4 or 8 end

-- Cut the older slices of each window, by `p.number`, out of the string that they are stored as.
-- The strings of all accounts have the same table. Only one account is worked on at a time, and making a table anew in
-- each call takes longer than to fill it. So there is one account as it is stored, too; behind its last double an array
-- has where that ended in it.
local texts, as_stored = {}, ''
local function cut(a)
  local count = a[COUNT]
  local at = a[base(count + 1) + 1]
  for k = 1, count do
    local bytes = a[base(k) + BYTES]
    texts[k] = bytes > 0 and as_stored:sub(at, at + bytes - 1) or ''
    at = at + bytes
  end
  a[TEXTS] = texts
  return texts
end

-- The slices of a window that holds something, oldest first.
local function slices(a, p)
  local sum = a[p.base + SUM]
  local count = a[p.base + BYTES] / slice_bytes(sum)
  local all = { unpack_from(slices_form(sum, count), (a[TEXTS] or cut(a))[p.number]) }
  all[count + 1] = a[p.base + TOP]
  return all
end

local function keep_text(a, p, text)
  (a[TEXTS] or cut(a))[p.number], a[p.base + BYTES] = text, #text
end

-- The opposite of `slices`.
local function put(a, p, first, all)
  local b, count, sum = p.base, #all, 0
  while count > 0 and all[count] == 0 do count = count - 1 end
  for i = 1, count do sum = sum + all[i] end
  a[b + FIRST], a[b + SUM], a[b + TOP] = first, sum, all[count] or 0
  keep_text(a, p, count > 1 and pack(slices_form(sum, count - 1), unpack_all(all, 1, count - 1)) or '')
end

-- Add to an older slice, in its place. False, and nothing is done, where all would get another width.
local function patch(a, p, slice, amount, each)
  local b, form_of_one = p.base, each == 4 and '<I4' or '<d'
  local text, at = (a[TEXTS] or cut(a))[p.number], (slice - a[b + FIRST]) * each
  local before = unpack_from(form_of_one, text, at + 1)
  local after = max(0, before + amount)
  local sum = a[b + SUM] + after - before
  if slice_bytes(sum) ~= each then return false end
  a[b + SUM] = sum
  keep_text(a, p, text:sub(1, at) .. pack(form_of_one, after) .. text:sub(at + each + 1))
  return true
end

-- Add to a slice; an amount below zero gives back, never more than is there.
local function charge(a, p, slice, amount)
  local b = p.base
  local first, sum, top = a[b + FIRST], a[b + SUM], a[b + TOP]
  if sum == 0 then
    if amount > 0 then a[b + FIRST], a[b + SUM], a[b + TOP] = slice, amount, amount end
    return
  end
  local after, each = sum + amount, sum < NARROW and 4 or 8
  local newest, same = first + a[b + BYTES] / each, (after < NARROW) == (each == 4)
  -- Another policy's replica may have turned the clock back without this window. It counts from its beginning then.
  if slice < first and amount > 0 then slice = first end
  if slice == newest and top + amount > 0 and same then
    a[b + SUM], a[b + TOP] = after, top + amount
  elseif slice > newest and amount > 0 and same then
    local text = (a[TEXTS] or cut(a))[p.number] .. pack(each == 4 and '<I4' or '<d', top)
    if slice > newest + 1 then text = text .. rep('\0', (slice - newest - 1) * each) end
    keep_text(a, p, text)
    a[b + SUM], a[b + TOP] = after, amount
  elseif slice >= first and slice < newest and patch(a, p, slice, amount, each) then
    return
  elseif slice >= first and (slice <= newest or amount > 0) then
    local all = slices(a, p)
    for i = #all + 1, slice - first do all[i] = 0 end
    all[slice - first + 1] = max(0, (all[slice - first + 1] or 0) + amount)
    put(a, p, first, all)
  end
end

-- Drop what has left the window, now that it is the time of this slice. A slice counts whole until the last instant it
-- holds is older than the window.
local function live(a, p, slice)
  local b = p.base
  local sum, old = a[b + SUM], slice - SLICES - a[b + FIRST]
  if sum == 0 or old <= 0 then return end
  local each, text = slice_bytes(sum), (a[TEXTS] or cut(a))[p.number]
  if old > #text / each then return put(a, p, 0, {}) end
  local out, left = { unpack_from(slices_form(sum, old), text) }, sum
  for i = 1, old do left = left - out[i] end
  if slice_bytes(left) ~= each then
    return put(a, p, a[b + FIRST] + old, { unpack_all(slices(a, p), old + 1) })
  end
  keep_text(a, p, text:sub(old * each + 1))
  a[b + FIRST], a[b + SUM] = a[b + FIRST] + old, left
end

-- A lease's doubles, those of its extensions, whose it is.
local function read_lease(packed)
  local l = { unpack_from(LEASE_HEAD, packed) }
  local count = l[L_MORE]
  local rest = l[L_REST] + 8 * count
  return l, count > 0 and doubles(packed, l[L_REST], count), rest <= #packed and packed:sub(rest) or ''
end

-- The opposite of read_lease.
local function save_lease(keys, id, l, more, who)
  local packed = pack(LEASE_HEAD, unpack_all(l, 1, L_MORE))
  for i = 1, l[L_MORE], 2 do packed = packed .. pack('<dd', more[i], more[i + 1]) end
  call('HSET', keys[2], id, packed .. who)
end

-- Take a lease or a note away. packed: as it is there.
local function drop(keys, id, packed)
  call('HDEL', keys[2], id)
  undoing('HSET', keys[2], id, packed)
end

-- Count what a lease holds, or no more.
local function hold(a, sign, l)
  local open = a[OPEN] + sign
  a[OPEN] = open > 0 and open or 0
  for d = 1, 3 do
    local amount = l[COST + d] - l[BILLED + d]
    if amount > 0 then
      local sum = a[HELD + d] + sign * amount
      a[HELD + d] = sum > 0 and sum or 0
    end
  end
end

-- The clock went back, as it may when another node takes over. What is noted for later than now counts from now on:
-- no window forgets early, and nobody waits longer than a window or a lease.
local function rewind(a, keys, now)
  for _, p in ipairs(windows) do
    local first, current = a[p.base + FIRST], slice_of(p, now)
    if a[p.base + SUM] > 0 then
      local kept, moved = {}, 0
      for i, amount in ipairs(slices(a, p)) do
        if first + i - 1 <= current then kept[i] = amount else moved = moved + amount end
      end
      put(a, p, first, kept)
      if moved > 0 then charge(a, p, current, moved) end
    end
  end
  local all = call('HGETALL', keys[2])
  for i = 1, #all, 2 do
    if all[i]:sub(1, 2) ~= 'x:' then
      local l, more, who = read_lease(all[i + 1])
      l[L_ENDS], l[L_AT] = min(l[L_ENDS], now + policy.lease), min(l[L_AT], now)
      for j = 1, l[L_MORE], 2 do more[j] = min(more[j], now) end
      save_lease(keys, all[i], l, more, who)
    end
  end
  if a[AT] >= 0 then a[AT] = min(a[AT], now) end
  a[ASK], a[LEASE], a[TOLD] = min(a[ASK], now), min(a[LEASE], now), min(a[TOLD], now)
end

-- Have the windows of this policy first, in its order.
local function arrange(a)
  local count, heads, known = a[COUNT], {}, {}
  if not a[TEXTS] then cut(a) end
  for k = 1, count do heads[a[base(k) + ID]] = { texts[k], unpack_all(a, base(k) + 1, base(k) + 5) } end
  local order = {}
  for k = 1, #windows do
    local id = windows[k].id
    order[k], known[id] = heads[id] or { '', id, 0, 0, 0, 0 }, true
  end
  for k = 1, count do
    local id = a[base(k) + ID]
    if not known[id] then order[#order + 1] = heads[id] end
  end
  a[COUNT] = #order
  for k = 1, #order do
    texts[k] = order[k][1]
    for i = 1, 5 do a[base(k) + i] = order[k][i + 1] end
  end
  return a
end

-- Where the account has its dead letters: a triple, nil where it has none.
local function find_letters(a)
  for k = #windows + 1, a[COUNT] do
    if a[base(k) + ID] == LETTERS then return base(k) + BYTES end
  end
  return nil
end

-- The same, made where there is none.
local function letters_of(a)
  if not a.letters then
    if not a[TEXTS] then cut(a) end
    local k = a[COUNT] + 1
    a[COUNT], texts[k], a.letters = k, '', base(k) + BYTES
    for i, number in ipairs({ LETTERS, 0, 0, 0, 0 }) do a[base(k) + i] = number end
  end
  return a.letters
end

-- Whether usage of this quota period and moment is of the period in force. The letters of version 4 have none, -1.
local function is_current(a, d, period, at) return period == a[N] or (period >= 0 and at >= a[ROLLED + d]) end

-- A dead letter as a triple and what else is in its `sum`, and both as they are stored; nil where it is not there.
local function read_letter(key, entry)
  local found = call('XRANGE', key, entry, entry)[1]
  if not found then return nil end
  local fields, stored = found[2], {}
  for i = 1, #fields, 2 do stored[fields[i]] = fields[i + 1] end
  local letter = stored.sum and doubles(stored.sum, 1, 5)
  if letter then letter.sum, letter.micro_usd = stored.sum, stored.micro_usd end
  return letter
end

-- A dead letter counts no more.
local function forget_letter(a, letter)
  for d = 1, 3 do
    if a.letters and is_current(a, d, letter[4], letter[5]) then
      a[a.letters + d] = max(0, a[a.letters + d] - letter[d])
    end
  end
end

local function decode(packed)
  local count, known = unpack_from('<d', packed, 8 * (COUNT - 2) + 1), #windows
  local a = { false, unpack_from(form('d', COUNT - 1 + 5 * count), packed) }
  as_stored = packed
  if count < known then arrange(a) end
  for k = 1, known do
    local p = windows[k]
    if a[p.base + ID] ~= p.id then
      arrange(a)
      break
    end
  end
  if a[COUNT] > known then a.letters = find_letters(a) end
  return a
end

-- Whether the account is there, and its time to live was set within the minute: the first who writes in one sets it.
local lasts = false

local function save(a, keys)
  local count = a[COUNT]
  local packed = pack(form('d', COUNT - 1 + 5 * count), unpack_all(a, 2, COUNT + 5 * count))
  if a[TEXTS] then
    -- Three at once, for Lua reads each string that it makes from end to end; `table.concat` takes twice as long.
    for k = 1, count, 3 do
      packed = packed .. texts[k] .. (k < count and texts[k + 1] or '') .. (k + 1 < count and texts[k + 2] or '')
    end
  end
  -- What stands behind the doubles stays where it is not cut.
  if lasts and (not a[TEXTS] or #packed >= #as_stored) then
    call('SETRANGE', keys[1], 0, packed)
  else
    call('SET', keys[1], a[TEXTS] and packed or packed .. as_stored:sub(#packed + 1), 'PX', policy.ttl)
  end
end

-- Begin the quota periods that are due; says whether any was.
local function roll(a, now)
  local over = false
  if a[AT] >= 0 then
    for d = 1, 3 do
      local ends = a[ENDS + d]
      if ends > 0 and now >= ends then
        a[ROLLED + d], a[ENDS + d], a[USED + d], over = ends, 0, 0, true
        if a.letters then a[a.letters + d] = 0 end
      end
    end
  end
  -- Zion says when the new period ends. What it has not told to be booked in the old one may count in the new one, so
  -- what is pending and blind stays.
  if over then a[N], a[ASK] = a[N] + 1, 0 end
  return over
end

-- The account as it is stored. Of one that is gone the leases may still be there, and hold what they hold.
local function stored(keys)
  local packed = call('GET', keys[1])
  if packed then return decode(packed), packed end
  local a, all = decode(NO_ACCOUNT), call('HGETALL', keys[2])
  for i = 1, #all, 2 do
    local ends = unpack_from('<d', all[i + 1])
    a[LEASE] = a[LEASE] == 0 and ends or min(a[LEASE], ends)
    if all[i]:sub(1, 2) ~= 'x:' then hold(a, 1, { unpack_from(LEASE_HEAD, all[i + 1]) }) end
  end
  return a, false
end

-- Store an account behind which something else is written. packed: as it was, false = it was not there.
local function save_before(a, keys, packed)
  save(a, keys)
  if packed then
    undoing('PEXPIRE', keys[1], policy.ttl)
    undoing('SET', keys[1], packed)
  else
    undoing('DEL', keys[1])
  end
end

-- The account now, whether it must be saved although nothing happens to it, and as it is stored.
local function load(keys, now)
  local a, packed = stored(keys)
  local last = a[LAST]
  local back = last > now
  lasts = packed and last >= now - now % RENEW_MS
  if back then rewind(a, keys, now) end
  a[LAST] = now
  return a, roll(a, now) or back, packed
end

-- Replace what a lease reserved by what was spent: give back where it was taken, charge the excess now.
-- more: {moment, tokens} of the lease's extensions, one after the other.
local function correct(a, l, more, spent, now)
  for k = 1, #windows do
    local p = windows[k]
    local excess = spent[p.dim] - l[COST + p.dim]
    if excess ~= 0 then
      local current = slice_of(p, now)
      live(a, p, current)
      for i = p.dim == 3 and l[L_MORE] - 1 or 0, 1, -2 do
        local back = min(0, max(excess, -more[i + 1]))
        charge(a, p, slice_of(p, more[i]), back)
        excess = excess - back
      end
      charge(a, p, excess < 0 and slice_of(p, l[L_AT]) or current, excess)
    end
  end
end

-- Add to a triple of an account what stands in three places of another array; never below zero.
local function add(a, triple, sign, from, place)
  for d = 1, 3 do
    local sum = a[triple + d] + sign * from[place + d]
    a[triple + d] = sum > 0 and sum or 0
  end
end

-- Write the usage record, less what was billed before. What it costs is told with it where it is known: a field of its
-- own, which older versions do not look for. Where nothing is left to be billed it is told to nobody.
local function bill(a, keys, who, total, billed, place, at, micro_usd)
  local r, i, o = total[1] - billed[place + 1], total[2] - billed[place + 2], total[3] - billed[place + 3]
  if r < 0 then r = 0 end
  if i < 0 then i = 0 end
  if o < 0 then o = 0 end
  if r + i + o == 0 then return end
  a[PEND + 1], a[PEND + 2], a[PEND + 3] = a[PEND + 1] + r, a[PEND + 2] + i, a[PEND + 3] + o
  local sum = pack('<ddddd', r, i, o, a[N], at)
  local entry
  if micro_usd > 0 then
    entry = call('XADD', keys[4], '*', 'who', who, 'sum', sum, 'micro_usd', pack('<d', micro_usd))
  else
    entry = call('XADD', keys[4], '*', 'who', who, 'sum', sum)
  end
  undoing('XDEL', keys[4], entry)
end

-- The earliest end of a lease moved: tell the partition's index, which the lease expirer reads.
local function index(a, keys, user, earliest)
  local before = a[LEASE]
  if before == earliest then return end
  a[LEASE] = earliest
  if earliest == 0 then call('ZREM', keys[3], user) else call('ZADD', keys[3], earliest, user) end
  if before == 0 then undoing('ZREM', keys[3], user) else undoing('ZADD', keys[3], before, user) end
end

-- What a request was billed when its lease ended; the note is taken away with the answer.
local function billed_before(keys, id)
  local packed = call('HGET', keys[2], 'x:' .. id)
  if not packed then return NOT_BILLED end
  drop(keys, 'x:' .. id, packed)
  local _, r, i, o = unpack_from(NOTE, packed)
  return { r, i, o }
end

-- End one lease. What a stream had delivered by its last checkpoint is billed; the note 'x:<id>' says so, should the
-- request turn out to live. Returns when that note ends.
local function expire_one(a, keys, id, packed, now)
  local l, more, who = read_lease(packed)
  local spent = l[DELIVERED] < 0 and { 1, 0, 0 } or { 1, l[COST + 2], l[DELIVERED] }
  correct(a, l, more, spent, now)
  drop(keys, id, packed)
  if l[DELIVERED] < 0 then return nil end
  bill(a, keys, who, spent, l, BILLED, 0, 0)
  local ends = now + REMEMBER_EXPIRED_MS
  call('HSET', keys[2], 'x:' .. id, pack(NOTE, ends, spent[1], spent[2], spent[3]))
  undoing('HDEL', keys[2], 'x:' .. id)
  return ends
end

-- Return the reservations of processes that died, and say how many. All leases are looked at, so that happens at most
-- every twentieth of a lease: many that end one by one must not cost a look each. What is reserved is summed up anew
-- from those that live.
local function expire(a, keys, user, now)
  if a[LEASE] == 0 or now < a[LEASE] or not is_awake() then return 0 end
  local earliest, count, all = nil, 0, call('HGETALL', keys[2])
  a[OPEN], a[HELD + 1], a[HELD + 2], a[HELD + 3] = 0, 0, 0, 0
  for i = 1, #all, 2 do
    local id, packed = all[i], all[i + 1]
    local ends, is_note = unpack_from('<d', packed), id:sub(1, 2) == 'x:'
    if ends > now then
      if not is_note then hold(a, 1, { unpack_from(LEASE_HEAD, packed) }) end
    elseif is_note then
      drop(keys, id, packed)
      ends = nil
    else
      ends, count = expire_one(a, keys, id, packed, now), count + 1
    end
    if ends then earliest = min(earliest or ends, ends) end
  end
  index(a, keys, user, earliest and max(earliest, now + floor(policy.lease / 20)) or 0)
  return count
end

-- Whether Zion's word about the limits still counts.
local function is_known(a, now) return a[AT] >= 0 and now < a[AT] + USABLE_MS end

-- What is left of the quota of each dimension: a number, `huge` where it has no limit, nil where that is not known. Who
-- does not ask which of the three it is grants nothing: nil cannot be computed with.
local function left(a, now)
  local at, r, i, o = a[AT], a[LIMIT + 1], a[LIMIT + 2], a[LIMIT + 3]
  if at < 0 or now >= at + USABLE_MS then return nil end
  r = r < 0 and huge or r - a[USED + 1] - a[BLIND + 1] - a[PEND + 1] - a[HELD + 1]
  i = i < 0 and huge or i - a[USED + 2] - a[BLIND + 2] - a[PEND + 2] - a[HELD + 2]
  o = o < 0 and huge or o - a[USED + 3] - a[BLIND + 3] - a[PEND + 3] - a[HELD + 3]
  local letters = a.letters
  if letters then return r - a[letters + 1], i - a[letters + 2], o - a[letters + 3] end
  return r, i, o
end
