"""Zion, the governance system: who a caller is, what they may spend, and what they did spend.

`models.py` decides (wire shapes to plain values, shapes A and C, tolerant of what Zion leaves out); `client.py` is the
only file that talks to Zion. Wire facts: docs/zion.md.
"""
