-- Say who delivers these partitions from now on: nobody else can note a batch of theirs as sent (note_sent.lua).
-- KEYS: batches, deliverers (partition -> process). ARGV: me, then the partitions. Answer: all batches, as HGETALL.
for i = 2, #ARGV do redis.call('HSET', KEYS[2], ARGV[i], ARGV[1]) end
return redis.call('HGETALL', KEYS[1])
