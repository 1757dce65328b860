"""What Sentinel keeps in Redis (or Valkey), and the connection to it.

`redis.py` is the way to a single server, to the master behind Redis Sentinel or to a cluster; `connection.py` is one
multiplexed connection to one server, with its deadline. `keys.py` names every key. `redis_ledger.py` calls the
functions of `limits/`, `local_ledger.py` stands in for them while Redis is away.
`installation.py` says whose a Redis is, `inspection.py` what is wrong with its set-up, `health.py` what requests meet.
`subscription.py` holds who a token belongs to and what that user was granted, with their times to live.
"""
