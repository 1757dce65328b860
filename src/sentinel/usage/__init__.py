"""Usage: what was spent, written down durably and reported once.

`tracker.py` settles an exchange, in Redis, or in the spool (`spool.py`, `spool_files.py`) while Redis is away. A few
background tasks do the rest:

- `outbox.py` is the loop that delivers; read it first. Its steps: `recovery.py` (what did my predecessor leave),
  `delivery.py` (send a batch, do what the answer asks for), `confirmation.py` (no answer: what was booked?),
  `fault_isolation.py` (refused: which item is it?), `receipts.py` (an answer: write it down, act upon it).
- These decide: `batch.py`, `scheduler.py` (which batch next), `unconfirmed.py` (what booked amounts tell), `outage.py`
  (one item or everything), `recent_settlements.py` (what a lost connection puts at risk).
- These keep things in Redis: `record_store.py`, `batch_store.py`, `dead_letters.py`, `quarantine.py`;
  `partition_ownership.py` shares the work out among processes, `pacer.py` leaves requests room.
- `reconciliation.py` holds accounts against records.

Words: a *record* is the usage of one request; an *item* sums up those of one user, model and period, and is *booked*
when the governance has taken it; a *batch* keeps its items and its key over all retries, and is *unconfirmed* while
nobody knows whether it was booked; a *dead letter* is an item that was refused for good.

Rules: a record leaves its outbox only after a yes, or as a dead letter. A batch is written down before it is sent, and
an answer before it is acted upon, so any process may die at any step. Only the governance port is known here.

Deliberately absent: HTTP, a leader among the processes, and a database beside Redis (docs/adr/0006).
"""
