"""Stories of arrivals for the tests of the sliding windows, and what they say about any interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from hypothesis import strategies as st

from sentinel.config import RateLimit, RateLimits
from sentinel.limits.policy import Cost, Policy, Quota, Reservation, Verdict

START_MS = 1_800_000_000_000
USER = "ana"
NO_QUOTA = Quota()


def policy_of(*limits: tuple[str, int, int], concurrency: int | None = None, lease_seconds: float = 1e6) -> Policy:
    """A policy of windows (dimension, limit, seconds), with leases and limits that do not end by themselves."""
    windows = tuple(RateLimit(dimension, limit, seconds) for dimension, limit, seconds in limits)  # type: ignore[arg-type]
    return Policy.of(
        RateLimits(windows, concurrency), lease_seconds=lease_seconds, fresh_seconds=1e9, stale_seconds=1e9
    )


def ask_of(number: int, inputs: int = 0, output: int = 0, *, least: int = 1, fair: int = 0) -> Reservation:
    """The request of that number."""
    return Reservation(f"req_{number}", USER, "ana@corp.test", "gpt-4o-mini", inputs, output, least, fair)


@dataclass(frozen=True)
class Arrive:
    """A request with so much input, that wants so much output."""

    inputs: int
    output: int


@dataclass(frozen=True)
class Settle:
    """The end of the n-th open request; it has used this share of what it had reserved."""

    which: int
    inputs: float
    output: float


@dataclass(frozen=True)
class Extend:
    """The n-th open request wants more output."""

    which: int
    more: int


Step = Arrive | Settle | Extend


def stories(window_seconds: int) -> st.SearchStrategy[list[tuple[int, Step]]]:
    """Steps with the milliseconds before each; the waits like to end at the edges of slices and of the window."""
    window = window_seconds * 1000
    edges = [0, 0, 1, window // 60, window // 60 + 1, window // 3, window - 1, window, window + 1, window * 61 // 60]
    waits = st.sampled_from(edges) | st.integers(0, window * 2)
    share = st.sampled_from([0.0, 0.5, 1.0])
    steps = st.one_of(
        st.builds(Arrive, st.integers(0, 60), st.integers(0, 90)),
        st.builds(Arrive, st.integers(0, 60), st.integers(0, 90)),
        st.builds(Settle, st.integers(0, 20), share, share),
        st.builds(Extend, st.integers(0, 20), st.integers(1, 60)),
    )
    return st.lists(st.tuples(waits, steps), min_size=5, max_size=60)


@dataclass
class Taken:
    """What one request took, and when: (moment, requests, input, output) with the newest last."""

    ask: Reservation
    verdict: Verdict
    parts: list[list[int]]

    @property
    def output(self) -> int:
        """All the output that is reserved for it."""
        return sum(part[3] for part in self.parts)

    def shrink(self, inputs: int, output: int) -> None:
        """In the end it was only so much; what was taken last is given back first."""
        self.parts[0][2] = inputs
        excess = self.output - output
        for part in reversed(self.parts):
            back = min(excess, part[3])
            part[3] -= back
            excess -= back


class Windows(Protocol):
    """The ledger under test, at moments that the test gives."""

    def reserve(self, ask: Reservation, now_ms: int) -> Verdict: ...
    def settle(self, ask: Reservation, spent: Cost, started_ms: int, now_ms: int) -> object: ...
    def extend(self, ask: Reservation, held: int, more: int, started_ms: int, now_ms: int) -> int: ...


@dataclass
class History:
    """Plays a story. behind_ms: by how much the ledger's clock is behind the real one."""

    ledger: Windows
    now_ms: int = START_MS
    taken: list[Taken] = field(default_factory=list)
    open: list[Taken] = field(default_factory=list)
    behind_ms: int = 0
    count: int = 0

    def play(self, story: list[tuple[int, Step]]) -> None:
        """Take every step."""
        for wait, step in story:
            self.now_ms += wait
            if isinstance(step, Arrive):
                self.arrive(step)
            elif self.open:
                entry = self.open[step.which % len(self.open)]
                if isinstance(step, Settle):
                    self.settle(entry, step)
                else:
                    self.extend(entry, step)

    @property
    def clock_ms(self) -> int:
        """What the ledger takes for the time."""
        return self.now_ms - self.behind_ms

    def arrive(self, step: Arrive) -> Verdict:
        """One more request."""
        self.count += 1
        ask = ask_of(self.count, step.inputs, step.output, least=min(1, step.output))
        verdict = self.ledger.reserve(ask, self.clock_ms)
        if verdict.admitted:
            entry = Taken(ask, verdict, [[self.now_ms, 1, step.inputs, verdict.granted_output]])
            self.taken.append(entry)
            self.open.append(entry)
        return verdict

    def settle(self, entry: Taken, step: Settle) -> None:
        """One fewer."""
        inputs, output = int(entry.parts[0][2] * step.inputs), int(entry.output * step.output)
        self.ledger.settle(entry.ask, Cost(1, inputs, output), entry.verdict.now_ms, self.clock_ms)
        entry.shrink(inputs, output)
        self.open.remove(entry)

    def extend(self, entry: Taken, step: Extend) -> None:
        """More output for one."""
        more = self.ledger.extend(entry.ask, entry.output, step.more, entry.verdict.now_ms, self.clock_ms)
        if more:
            entry.parts.append([self.now_ms, 0, 0, more])

    def most(self, dimension: int, window_ms: int) -> int:
        """The most that was taken in any interval of the window's length, its two ends included."""
        parts = sorted((part[0], part[1 + dimension]) for entry in self.taken for part in entry.parts)
        most = total = first = 0
        for moment, amount in parts:
            total += amount
            while parts[first][0] < moment - window_ms:
                total -= parts[first][1]
                first += 1
            most = max(most, total)
        return most
