-- What a request does to Redis, in small: so health finds out what requests meet. KEYS: what is written and deleted.
call('SET', KEYS[1], '1', 'PX', 60000)
call('DEL', KEYS[1])
return 1
