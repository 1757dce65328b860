"""How long requests took, and which of them the machine itself held up. Plain values in, plain values out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MOST_USE = 0.9
"""A fuller core is not reckoned with: its queue would take for ever to drain, and everything would be the machine's."""


class Span(NamedTuple):
    """From one moment to a later one, in seconds of the monotonic clock."""

    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Of so many requests, in milliseconds."""

    requests: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    most_ms: float


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of sorted values, 0 where there are none."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


def latency(lives: Iterable[Span]) -> Latency:
    """The figures of requests that lived from being due until their answer was there."""
    ordered = sorted(life.end - life.begin for life in lives)
    return Latency(len(ordered), *(quantile(ordered, q) * 1000 for q in (0.5, 0.9, 0.99, 0.999, 1.0)))


def shadows(stalls: Iterable[Span], use: float) -> list[Span]:
    """The time in which stalls tell: they themselves and, after each, until the queue that it left is worked off.

    use: how much of the busier core the load takes, from 0 to 1. What came during a stall is worked off while more
    comes: that takes the stall's length times use / (1 - use). In order, and apart from one another.
    """
    use = min(use, MOST_USE)
    found: list[Span] = []
    for begin, end in united(stalls):
        queue = max(0.0, found[-1].end - begin) if found else 0.0
        found.append(Span(begin, end + queue + (end - begin) * use / (1 - use)))
    return united(found)


def united(spans: Iterable[Span]) -> list[Span]:
    """The same time, in order, without spans that overlap: both cores often stall together."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1].end:
            found[-1] = Span(found[-1].begin, max(found[-1].end, end))
        else:
            found.append(Span(begin, end))
    return found


def calm(lives: Iterable[Span], dark: Sequence[Span]) -> list[Span]:
    """The lives that touch none of these spans, which are in order and apart from one another."""
    ends = [span.end for span in dark]

    def touched(life: Span) -> bool:
        next_one = bisect_right(ends, life.begin)
        return next_one < len(dark) and dark[next_one].begin < life.end

    return [life for life in lives if not touched(life)]
