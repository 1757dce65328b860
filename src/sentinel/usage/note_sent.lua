-- Note a batch as sent, unless somebody has taken over one of its partitions since I did (take_over.lua).
-- KEYS: batches, deliverers (partition -> process). ARGV: me, the batch's key, the batch, then its partitions.
-- Answer: 1, or 0 where nothing was noted.
for i = 4, #ARGV do
  if redis.call('HGET', KEYS[2], ARGV[i]) ~= ARGV[1] then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 1
