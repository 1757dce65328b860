-- Units: see ledger.lua. The users of one partition whose leases may be due, by this Redis' clock, the oldest first.
-- KEYS: lease index. ARGV: now (0 = this Redis' clock), so many at once.
return call('ZRANGEBYSCORE', KEYS[1], '-inf', clock(tonumber(ARGV[1])), 'LIMIT', 0, ARGV[2])
