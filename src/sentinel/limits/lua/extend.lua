-- Units: see ledger.lua. Keep a lease alive, note what its stream has delivered, and reserve more output for it.
-- KEYS: account, leases, lease index, outbox, settled ids. ARGV: id, user, who, and as doubles: now (0 = this Redis'
-- clock), input and output of the reservation, more output, output delivered.
-- Answer: the output that it holds from now on: as much as before when nothing is left; -1 if that cannot be said, for no
-- usable limits are known, and nothing was added; -2 if its lease had ended, others have its place by now, and nothing was
-- delivered (output delivered < 0): then nothing is done. A lease that had ended is taken up again, with as much of its
-- output as others have left, and at least what was delivered; unless its request is settled: a renewal that comes after
-- the end must not open it anew.
local id, user, who = ARGV[1], ARGV[2], ARGV[3]
local now, input, output, more, delivered = unpack_from('<ddddd', ARGV[4])
if call('SISMEMBER', KEYS[5], id) == 1 then return output end
now = clock(now)
local a = load(KEYS, now)
expire(a, KEYS, user, now)

local requests_left, input_left, room = left(a, now)
local known, windowed = room ~= nil, false
room = room or 0
for _, p in ipairs(windows) do
  if p.dim == 3 then
    live(a, p, slice_of(p, now))
    room, windowed = min(room, p.limit - a[p.base + SUM]), true
  elseif p.dim == 2 and known then
    live(a, p, slice_of(p, now))
    input_left = min(input_left, p.limit - a[p.base + SUM])
  end
end

local packed = call('HGET', KEYS[2], id)
local l, taken
if packed then
  l, taken = read_lease(packed)
else
  -- Its windows have given back all but the request and what was billed, and its quota counts that as usage.
  local b = billed_before(KEYS, id)
  if known and delivered < 0 and b[1] == 0 and (requests_left < 1 or (input > 0 and input_left < input)) then
    save(a, KEYS)
    return -2
  end
  local held = known and min(output, b[3] + max(0, room)) or output
  held = max(held, delivered, b[3])
  l = { 0, now, 1, input, held, -1, b[1], b[2], b[3], 0 }
  hold(a, 1, l)
  correct(a, { 0, now, 1, b[2], b[3], -1, 0, 0, 0, 0 }, nil, { 1, input, held }, now)
  room = room - held + b[3]
end

more = known and min(more, room) or 0
if more > 0 then
  for _, p in ipairs(windows) do
    if p.dim == 3 then charge(a, p, slice_of(p, now), more) end
  end
  if windowed then
    local count = l[L_MORE]
    taken = taken or {}
    taken[count + 1], taken[count + 2], l[L_MORE] = now, more, count + 2
  end
  l[COST + 3], a[HELD + 3] = l[COST + 3] + more, a[HELD + 3] + more
end
l[DELIVERED], l[L_ENDS] = max(l[DELIVERED], delivered), now + policy.lease
save_lease(KEYS, id, l, taken, who)
if packed then undoing('HSET', KEYS[2], id, packed) else undoing('HDEL', KEYS[2], id) end
index(a, KEYS, user, a[LEASE] == 0 and l[L_ENDS] or min(a[LEASE], l[L_ENDS]))
save(a, KEYS)
return known and l[COST + 3] or -1
