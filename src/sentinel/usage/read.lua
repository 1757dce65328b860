-- Read records of an outbox for the one consumer. KEYS: outbox. ARGV: group, consumer, count, after which entry (`>` =
-- what nobody has read yet). A script, since XREADGROUP does not begin with its key, which a cluster needs to know.
return redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], ARGV[4])
