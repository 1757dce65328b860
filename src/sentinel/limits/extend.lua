-- Units: see ledger.lua. Keep a lease alive, note what its stream has delivered, and reserve more output for it.
-- KEYS: account, leases, lease index, outbox, settled ids. ARGV: id, user, who, and as doubles: now (0 = this Redis'
-- clock), input and output of the reservation, more output, output delivered.
-- Answer: output tokens added to the reservation, 0 when nothing is left. A lease that had ended is taken up again,
-- unless its request is settled: a renewal that comes after the end must not open it anew.
local id, user, who = ARGV[1], ARGV[2], ARGV[3]
if redis.call('SISMEMBER', KEYS[5], id) == 1 then return 0 end
local now, input, output, more, sent = unpack_from('<ddddd', ARGV[4])
now = clock(now)
local a = load(KEYS, now)
expire(a, KEYS, user, now)

local packed = redis.call('HGET', KEYS[2], id)
local l, taken
if packed then
  l, taken = read_lease(packed)
else
  -- Its windows have given back all but what was billed.
  local b = billed_before(KEYS, id)
  l = { 0, now, 1, input, output, -1, b[1], b[2], b[3], 0 }
  a[OPEN] = a[OPEN] + 1
  add(a, HELD, 1, l, COST)
  correct(a, { 0, now, 1, b[2], b[3], -1, 0, 0, 0, 0 }, nil, { 1, input, output }, now)
end

local room, windowed = left(a, 3), false
if room then more = min(more, room) end
for _, p in ipairs(windows) do
  if p.dim == 3 then
    live(a, p, now)
    more, windowed = min(more, p.limit - a[p.base + SUM]), true
  end
end
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
l[SENT], l[L_ENDS] = max(l[SENT], sent), now + policy.lease
save_lease(KEYS, id, l, taken, who)
index(a, KEYS, user, a[LEASE] == 0 and l[L_ENDS] or min(a[LEASE], l[L_ENDS]))
save(a, KEYS)
return max(0, more)
