-- Move an entry that nobody can read out of the outbox, for an operator. KEYS: outbox, what is set aside.
-- ARGV: consumer group, entry. Answer: 1. An entry that somebody has deleted leaves its name.
local found = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
redis.call('XADD', KEYS[2], '*', 'entry', ARGV[2], 'fields', cmsgpack.pack(found and found[2] or {}))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
return 1
