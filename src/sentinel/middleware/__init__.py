"""What every request of a caller passes first: `auth.py` (token to user) and `rate_limiter.py` (reserve to verdict).

A reservation is a lease: `lease_keeper.py` extends those of this process while their requests run, `lease_expirer.py`
ends those of processes that died.
"""
