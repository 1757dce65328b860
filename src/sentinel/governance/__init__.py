"""Governance, as Sentinel needs it: `port.py`. Who speaks it to a real system has a room of its own (`zion/`).

Words: a *user* is who a token belongs to; a *quota* is what they may spend in a period; *usage* is what they did spend;
a *report* tells usage, under a key that stays the same when it is repeated.

Deliberately absent: HTTP, statuses, retries and caches. Retrying is the outbox' (`usage/`), caching the subscription
cache's (`cache/subscription.py`).
"""
