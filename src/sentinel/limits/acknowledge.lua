-- Units: see ledger.lua. Zion has taken usage of one user: drop the records and move the sum from pending to used.
-- KEYS: account, leases, lease index, outbox, dead letters. ARGV: call, as MessagePack; call.new: Zion's new values,
-- -1 = not told; call.limit: Zion's limits, -2 = not told; call.letter: if given, Zion has refused the usage for good,
-- and a dead letter takes the place of its records. Answer: records dropped, 0 when somebody did it before.
local EARLY_MS = 60000 -- So early, by our clock, Zion may begin a period.
local policy, call = POLICY, cmsgpack.unpack(ARGV[1])
local dropped = redis.call('XACK', KEYS[4], call.group, unpack(call.ids))
redis.call('XDEL', KEYS[4], unpack(call.ids))
if dropped == 0 then return 0 end
local now = clock(call.now)
local a = load(policy, now)
a.seq = a.seq + 1
add(a.pend, call.cost, -1)
local letter, c = call.letter, call.cost
if letter then
  -- A record of no period: our own books are done with it, whenever it is sent again.
  redis.call('XADD', KEYS[5], '*', 'who', letter.who, 'sum', struct.pack('<ddddd', c[1], c[2], c[3], -1, letter.at),
    'reason', letter.reason)
  save(a, policy.ttl)
  return dropped
end
-- A value tells nothing if it belongs to another period than `used`: where the usage was of an earlier one, and close to
-- the end, for Zion may have begun the next one. Then, and where a limit has changed, Zion is asked again soon.
local q, again = a.q, call.period ~= a.n
for d = 1, 3 do
  local new = call.period == a.n and q and call.new[d] or -1
  if new >= 0 and q.ends[d] > 0 and now > q.ends[d] - EARLY_MS then new, again = -1, true end
  if new >= 0 then
    q.used[d] = max(q.used[d], new)
  else
    a.blind[d] = a.blind[d] + call.cost[d]
  end
  if q and call.limit[d] >= 0 and call.limit[d] ~= q.limit[d] then
    q.limit[d], again = call.limit[d], true
  end
end
if q and again then a.ask = min(a.ask, q.at + CLAIM_MS) end
save(a, policy.ttl)
return dropped
