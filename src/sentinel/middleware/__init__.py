"""What every request of a caller passes first: `auth.py` (token to user) and `rate_limiter.py` (reserve to verdict)."""
