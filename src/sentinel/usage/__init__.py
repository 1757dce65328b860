"""Usage: what was spent, written down durably and told to Zion once.

`tracker.py` settles an exchange (in Redis, or in the spool while Redis is away), `spool.py` is that file. `outbox.py`
delivers; read it first. Around it: `deliverers.py` says which partitions are this process's, `journal.py` is what Redis
remembers of deliveries. These decide: `batch.py` what an item and an answer of Zion are, `queue.py` what goes next,
`doubt.py` what became of a batch without an answer. `pace.py` leaves requests room. docs/adr/0006 has the reasons.

Words: a *record* is the usage of one request in the outbox; an *item* sums up those of one user and model; a *batch*
keeps its items and its key over all retries; a *dead letter* is an item that Zion refused three times.
"""
