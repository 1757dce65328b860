"""Usage: what was spent, written down durably and told to Zion once.

`tracker.py` settles an exchange (in Redis, or in the spool while Redis is away), `spool.py` is that file, `batch.py`
decides how records become batches and what an answer of Zion means, `outbox.py` delivers: stream -> batches -> Zion.

Words: a *record* is the usage of one request in the outbox; an *item* is one (e-mail, model) of a batch with the
records it sums up; a *batch* keeps its items and its key over all retries; a *dead letter* is an item that Zion refused
three times.
"""
