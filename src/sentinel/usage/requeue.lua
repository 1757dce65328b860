-- Put a dead letter back into the outbox, once. KEYS: dead letters, outbox. ARGV: entry. Answer: the new entry, or nil.
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return nil end
local entry = redis.call('XADD', KEYS[2], '*', unpack(found[2]))
redis.call('XDEL', KEYS[1], ARGV[1])
return entry
