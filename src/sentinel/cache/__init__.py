"""What Sentinel keeps in Redis (or Valkey), and the connection to it.

`redis.py` is the connection: the hot scripts over one multiplexed hiredis connection, redis-py for all else and for
Cluster. `keys.py` names every key. `ledger.py` calls the scripts of `limits/`. `subscription.py` holds who a token
belongs to and what Zion granted, with their times to live.
"""
