"""Limits: whether a request may pass, and what it has cost.

Words: a *policy* is what the operator set (windows, concurrency); the *quota* is what Zion granted; an *account* is one
user's state; a *cost* or *spent* is a triple of requests, input tokens, output tokens; a *lease* holds a
reservation while its request lives; a *verdict* is the answer to a reservation; *settling* replaces the reservation by
what was spent and writes the usage record.

Rules: one atomic script decides over everything at once; a refusal changes nothing; an interval of a window's length
never sees more than its limit (docs/adr/0003); every number is an integer, every moment is the clock of Redis.

`ledger.py` is the rule in Python, `lua/` the same rule for Redis; tests/integration/limits keeps the two equal.
`output_estimator.py` learns how much output a stream should reserve first.
Deliberately absent: a clock, a network, any waiting.
"""
