"""Zion, a governance system: `governance/port.py` spoken over HTTP. Wire facts: docs/zion.md.

`models.py` and `report.py` decide: wire shapes to plain values, tolerant of what Zion leaves out, but never so tolerant
that a limit that cannot be read is no limit. `client.py` is the only file that talks to Zion.

Deliberately absent: retries of reports (`usage/`), and caches (`cache/subscription.py`).
"""
