-- Units: see ledger.lua. Replace a reservation by the true cost and append the usage record, once per request id.
-- KEYS: account, leases, lease index, outbox, settled ids; of a job also jobs, and when they are due. ARGV: id, who, and as
-- doubles: now (0 = this Redis' clock), when it was spent (0 = now), requests, input, output, number of the set of settled
-- ids, 1 = unsure: it was tried so long ago that the set may have forgotten, micro-USD; of a job also its id.
-- Answer: 1 settled now, 0 was settled before, 2 nobody knows, and nothing is done.
local id, who = ARGV[1], ARGV[2]
local now, at, requests, input, output, bucket, unsure, micro_usd = unpack_from('<dddddddd', ARGV[3])
-- Settling takes a lease away, and the note of one that has ended: while either is there it was not carried out.
if unsure == 1 and call('SISMEMBER', KEYS[5], id) == 0 then
  if call('HEXISTS', KEYS[2], id) + call('HEXISTS', KEYS[2], 'x:' .. id) == 0 then return 2 end
end
-- A job is settled as long after its start as it takes: there it is the record of the job that tells.
if KEYS[6] then
  local job, due = call('HGET', KEYS[6], ARGV[4]), call('ZSCORE', KEYS[7], ARGV[4])
  if not job then return 0 end
  call('HDEL', KEYS[6], ARGV[4])
  undoing('HSET', KEYS[6], ARGV[4], job)
  if due then
    call('ZREM', KEYS[7], ARGV[4])
    undoing('ZADD', KEYS[7], due, ARGV[4])
  end
end
if call('SADD', KEYS[5], id) == 0 then return 0 end
undoing('SREM', KEYS[5], id)
now = clock(now)
local a = load(KEYS, now)
local packed = call('HGET', KEYS[2], id)
local l, more
if packed then
  l, more = read_lease(packed)
  drop(KEYS, id, packed)
  hold(a, -1, l)
else
  -- The lease ended before, or this Redis has forgotten it.
  local b = billed_before(KEYS, id)
  l = { 0, now, 1, b[2], b[3], -1, b[1], b[2], b[3], 0 }
end
local spent = { 1, input, output }
-- An admitted request stays in the window of requests even if it cost nothing in the end.
correct(a, l, more, spent, now)
spent[1] = requests
bill(a, KEYS, who, spent, l, BILLED, at, micro_usd)
-- One command less for a user of whom the set has heard within the minute.
if a[BUCKET] ~= bucket or now - a[TOLD] > TELL_MS then
  call('PEXPIRE', KEYS[5], policy.remember + TELL_MS)
  a[BUCKET], a[TOLD] = bucket, now
end
save(a, KEYS)
return 1
