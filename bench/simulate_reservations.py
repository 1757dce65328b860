"""What a stream without a bound should reserve first: a fixed default against what its user and model usually need.

    python -m bench.simulate_reservations

Streams of one user come at random moments to a window of output tokens that their true use fills to a given share. They
are admitted, extended and settled by the real rule (limits/ledger.py), on a clock of the simulation. Told are: how much
is reserved for each token that is used; how many streams are refused or cut short although the window had room for
what everybody really used; and how often a stream must be extended. The seed is fixed, so the figures repeat.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sentinel.config import parse_rate_limits
from sentinel.limits import ledger
from sentinel.limits.account import Account
from sentinel.limits.output_estimator import OutputEstimator
from sentinel.limits.policy import Cost, Policy, Quota, Reservation

DEFAULT_TOKENS = 4096
EXTENSION_TOKENS = 1024
TOKENS_PER_SECOND = 60
STREAMS = 2000
START_MS = 1_800_000_000_000


class Estimate(Protocol):
    """What OutputEstimator does, and what a fixed number does."""

    def tokens(self, user: str, model: str) -> int: ...
    def note(self, user: str, model: str, output_tokens: int) -> None: ...


@dataclass(frozen=True)
class Fixed:
    """Reserves the same for everybody."""

    default_tokens: int = DEFAULT_TOKENS

    def tokens(self, user: str, model: str) -> int:  # noqa: ARG002
        return self.default_tokens

    def note(self, user: str, model: str, output_tokens: int) -> None:
        pass


@dataclass(frozen=True)
class Load:
    """models: (name, median length, spread) of log-normal answers, drawn evenly. share: of the window they fill."""

    name: str
    models: tuple[tuple[str, int, float], ...]
    share: float

    def lengths(self, rng: random.Random) -> list[tuple[str, int]]:
        drawn = [rng.choice(self.models) for _ in range(STREAMS)]
        return [(name, max(1, round(median * rng.lognormvariate(0, spread)))) for name, median, spread in drawn]


LOADS = (
    Load("short answers", (("small", 150, 0.6),), 0.6),
    Load("long answers", (("large", 2500, 0.6),), 0.6),
    Load("short and long", (("small", 120, 0.5), ("large", 3000, 0.5)), 0.6),
    Load("short, window nearly full", (("small", 150, 0.6),), 0.9),
)


@dataclass
class Result:
    """Sums over all streams; reserved and used are token-seconds while a stream is open."""

    used: float = 0.0
    reserved: float = 0.0
    refused: int = 0
    cut: int = 0
    extensions: int = 0

    @property
    def waste(self) -> float:
        """Tokens reserved for each token used."""
        return self.reserved / self.used

    @property
    def starved(self) -> float:
        """The share of streams that were refused or cut short."""
        return (self.refused + self.cut) / STREAMS


@dataclass(order=True)
class Stream:
    """One open stream: what it holds, what it has delivered, and when it has to act next."""

    next_ms: int
    number: int
    model: str = ""
    length: int = 0
    held: int = 0
    sent: int = 0
    began_ms: int = 0


def simulate(load: Load, estimate: Estimate, seed: int = 1) -> Result:
    """All streams of a load, one after another in time."""
    rng = random.Random(seed)
    lengths = load.lengths(rng)
    mean = sum(length for _, length in lengths) / STREAMS
    limit = 20_000 if mean < 1000 else 200_000
    policy = Policy.of(
        parse_rate_limits(f"ai_output_tokens={limit}/60s"), lease_seconds=1e6, fresh_seconds=1e9, stale_seconds=1e9
    )
    account, result, queue = Account(), Result(), list[Stream]()
    ledger.refresh(account, policy, Quota(), 0, START_MS)
    moment = float(START_MS)
    for number, (model, length) in enumerate(lengths):
        moment += rng.expovariate(1) * 60_000 * mean / (limit * load.share)
        heapq.heappush(queue, Stream(round(moment), number, model, length))
    while queue:
        stream = heapq.heappop(queue)
        if _step(stream, account, policy, estimate, result):
            heapq.heappush(queue, stream)
    return result


def _step(stream: Stream, account: Account, policy: Policy, estimate: Estimate, result: Result) -> bool:
    """Admit, extend or settle a stream; whether it goes on."""
    now, wanted = stream.next_ms, stream.held or estimate.tokens("ana", stream.model)
    ask = Reservation(f"req_{stream.number}", "ana", "ana@corp.test", stream.model, 0, wanted)
    if not stream.held:
        verdict = ledger.reserve(account, policy, ask, now)
        if not verdict.admitted:
            result.refused += 1
            return False
        stream.held, stream.began_ms = verdict.granted_output, now
    elif stream.sent < stream.length:
        more = (ledger.extend(account, policy, ask, EXTENSION_TOKENS, stream.sent, now) or 0) - stream.held
        result.extensions += 1
        if not more:
            result.cut += 1
            stream.length = stream.sent
        stream.held += more
    if stream.sent == stream.length:
        ledger.settle(account, policy, ask, Cost(1, 0, stream.length), now)
        estimate.note("ana", stream.model, stream.length)
        return False
    to = min(stream.length, stream.held)
    seconds = (to - stream.sent) / TOKENS_PER_SECOND
    result.reserved += stream.held * seconds
    result.used += stream.length * seconds
    stream.sent, stream.next_ms = to, now + round(seconds * 1000)
    return True


def main() -> None:
    estimates: dict[str, Callable[[], Estimate]] = {
        f"always {DEFAULT_TOKENS}": Fixed,
        "always 256": lambda: Fixed(256),
        "learned": lambda: OutputEstimator(DEFAULT_TOKENS),
    }
    print(f"{'load':26} {'reserves':12} {'reserved/used':>13} {'refused':>8} {'cut':>6} {'extensions/stream':>18}")
    for load in LOADS:
        for name, make in estimates.items():
            result = simulate(load, make())
            print(
                f"{load.name:26} {name:12} {result.waste:13.1f} {result.refused / STREAMS:8.1%} "
                f"{result.cut / STREAMS:6.1%} {result.extensions / STREAMS:18.2f}"
            )


if __name__ == "__main__":
    main()
