"""How long deliveries wait for what, in seconds: one place for them, so that tests hand in shorter ones."""

from __future__ import annotations

from dataclasses import dataclass

from sentinel.usage.outage import OUTAGE_SECONDS
from sentinel.usage.partition_ownership import LEASE_SECONDS
from sentinel.usage.recent_ids import REMEMBER_SECONDS


@dataclass(frozen=True, slots=True)
class Timings:
    """poll: between two looks at partitions and at new records. recall: between two looks for what we may have missed.

    unconfirmed: how long the governance may take to finish what it was doing for a call whose answer will not come.
    patience: how long an unconfirmed batch waits for a governance that is there and does not tell what it has booked.
    backoff_scale: makes the pauses after failures longer or shorter. The others: see where their defaults come from.
    """

    poll_seconds: float = 1.0
    recall_seconds: float = 60.0
    unconfirmed_seconds: float = 2.0
    patience_seconds: float = 30.0
    backoff_scale: float = 1.0
    lease_seconds: float = LEASE_SECONDS
    outage_seconds: float = OUTAGE_SECONDS
    remember_seconds: float = REMEMBER_SECONDS
