-- Make the consumer group of an outbox, unless it is there. KEYS: outbox. ARGV: group.
redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
return 1
