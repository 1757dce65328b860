-- Units: see ledger.lua. The users of one partition whose leases may be due, by this Redis' clock, the oldest first.
-- KEYS: lease index. ARGV: call, as MessagePack; call.most: so many at once.
local call = cmsgpack.unpack(ARGV[1])
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', clock(call.now), 'LIMIT', 0, call.most)
