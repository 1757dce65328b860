"""How much is measured, and what rounds make together."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

Data = dict[str, Any]

JUDGED = 64
"""Connections at which throughput has a budget."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. streams: (open, chunks a second each); prompts: (bytes, requests a second).

    judged_rounds: at the connections that have a budget. rates: requests a second, each with least_requests.
    formats_in: so many of the stream scenarios run in all formats, the others in chat's alone. most_streams: open at
    once, and looked at for steady_seconds. failover: seconds after which one of two providers is
    killed, is back, and all ends.
    """

    connections: tuple[int, ...] = (1, 16, 64, 256, 1000)
    rounds: int = 3
    judged_rounds: int = 9
    seconds: float = 5.0
    rates: tuple[int, ...] = (500, 1_000, 2_000, 4_000)
    least_requests: int = 24_000
    streams: tuple[tuple[int, float], ...] = ((256, 20), (256, 100), (2000, 4), (2000, 10))
    formats_in: int = 4
    stream_rounds: int = 3
    most_streams: int = 10_000
    steady_seconds: float = 60.0
    prompts: tuple[tuple[int, float], ...] = ((10_000, 50), (100_000, 20), (1_000_000, 8))
    hostile_per_second: float = 2.0
    users: tuple[int, ...] = (10, 1_000, 10_000, 100_000)
    starts: int = 5
    reports: int = 50
    failover: tuple[float, float, float] = (3.0, 6.0, 24.0)


QUICK = Plan(
    connections=(JUDGED,),
    rounds=2,
    judged_rounds=3,
    seconds=3.0,
    rates=(1_000,),
    formats_in=1,
    stream_rounds=1,
    steady_seconds=10.0,
    prompts=(),
    starts=2,
    reports=20,
)


def medians(rounds: list[Data]) -> Data:
    return {name: median(each[name] for each in rounds) for name in rounds[0]}


def compared(nginx: list[Data], sentinel: list[Data], figure: str) -> Data:
    """Medians of rounds that took turns, and Sentinel's figure over that of nginx in each pair of neighbours."""
    ratios = [ours[figure] / theirs[figure] for theirs, ours in zip(nginx, sentinel, strict=True)]
    return {"nginx": medians(nginx), "sentinel": medians(sentinel), "ratio": median(ratios), "ratios": ratios}
