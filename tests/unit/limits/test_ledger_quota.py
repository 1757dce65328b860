"""The quota stays exact whatever Zion says in whatever order: a model of Zion beside the account."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sentinel.limits import ledger
from sentinel.limits.account import Account, Bill
from sentinel.limits.policy import ByDimension, Cost, Policy, Quota, Reservation
from tests.support.arrivals import START_MS, USER

PERIOD_MS = 400_000
FRESH_MS = 30_000
LOOKUP_TIMEOUT_MS = 2_500
REPORT_TIMEOUT_MS = 15_000
"""An answer that takes Zion longer is never read (zion/client.py)."""
POLICY = Policy((), None, lease_ms=10**9, fresh_ms=FRESH_MS, stale_ms=10**9)


@dataclass
class Zion:
    """One metric at Zion, in this period. others: what somebody else has used. resets: by an administrator."""

    limit: int
    ends: int
    skew_ms: int
    tells: bool
    ours: int = 0
    others: int = 0
    resets: int = 0

    def roll(self, now: int) -> None:
        """Begin the next period when Zion's own clock says so."""
        while now + self.skew_ms >= self.ends:
            self.ours = self.others = 0
            self.ends += PERIOD_MS

    @property
    def used(self) -> int:
        return self.ours + self.others


@dataclass
class Said:
    """Something that Zion said, on its way to us. zion: as it was at that moment."""

    zion: Zion
    at: int
    seq: int = 0
    bill: Bill | None = None


@dataclass
class Open:
    """A request in flight."""

    ask: Reservation
    cost: int


class QuotaMachine(RuleBasedStateMachine):
    """Input tokens under a quota whose period is short."""

    @initialize(limit=st.integers(20, 200), skew=st.integers(-3000, 3000), tells=st.booleans())
    def begin(self, limit: int, skew: int, tells: bool) -> None:
        self.now = START_MS
        self.zion = Zion(limit, START_MS + PERIOD_MS, skew, tells)
        self.account = Account()
        self.ids = count()
        self.open: list[Open] = []
        self.booked: list[Said] = []
        self.told: list[Said] = []
        self.asked: list[int] = []
        self.others_known: dict[tuple[int, int], int] = {}
        self.hear(self.say(0))

    # -------------------------------------------------------------------------------------------- what Zion says

    def say(self, seq: int) -> Said:
        self.zion.roll(self.now)
        return Said(replace(self.zion), self.now, seq)

    def hear(self, said: Said) -> None:
        quota = Quota((-1, said.zion.limit, -1), (0, said.zion.used, 0), (0, said.zion.ends, 0))
        ledger.refresh(self.account, POLICY, quota, said.seq, self.now)
        self.note(said)

    def note(self, said: Said) -> None:
        period = (said.zion.ends, said.zion.resets)
        self.others_known[period] = max(said.zion.others, self.others_known.get(period, 0))

    # ------------------------------------------------------------------------------------------------ what happens

    @rule(ms=st.sampled_from([1, 500, 4000, 20_000, 60_000]))
    def wait(self, ms: int) -> None:
        self.now += ms
        self.zion.roll(self.now)

    @rule(offset=st.sampled_from([-3500, -1500, -1, 0, 1, 1500, 3500]))
    def wait_for_the_end_of_the_period(self, offset: int) -> None:
        self.wait(max(0, (START_MS - self.now) % PERIOD_MS + offset))

    @rule(share=st.sampled_from([0.05, 0.3, 1.0]), phases=st.sampled_from([1, 2, 3, 3, 4]))
    def use(self, share: float, phases: int) -> None:
        """A request that gets so far: admitted, settled, booked, acknowledged."""
        cost = max(1, round(self.zion.limit * share))
        ask = Reservation(f"req_{next(self.ids)}", USER, "ana@corp.test", "m", cost, 0, 0)
        verdict = ledger.reserve(self.account, POLICY, ask, self.now)
        if verdict.refresh:
            self.asked.append(verdict.seq)
        if verdict.admitted:
            self.open.append(Open(ask, cost))
            for step in [self.settle_last, self.zion_books_last, self.acknowledgement_arrives][: phases - 1]:
                step()

    def settle_last(self) -> None:
        self.settle(len(self.open) - 1, 1.0)

    def zion_books_last(self) -> None:
        self.zion_books(len(self.account.outbox) - 1)

    @rule()
    def zion_is_asked(self) -> None:
        """By another process, or by an operator."""
        self.asked.append(self.account.seq)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 50), share=st.sampled_from([0.0, 0.5, 1.0]))
    def settle(self, which: int, share: float) -> None:
        entry = self.open.pop(which % len(self.open))
        ledger.settle(self.account, POLICY, entry.ask, Cost(1, round(entry.cost * share), 0), self.now)

    @precondition(lambda self: self.account.outbox)
    @rule(which=st.integers(0, 50))
    def zion_books(self, which: int) -> None:
        bill = self.account.outbox.pop(which % len(self.account.outbox))
        self.zion.roll(self.now)
        self.zion.ours += bill.spent[1]
        self.booked.append(replace(self.say(0), bill=bill))

    @precondition(lambda self: self.booked)
    @rule()
    def acknowledgement_arrives(self) -> None:
        """In the order of booking: nothing of a user is sent before what became of the last batch is known."""
        said = self.booked.pop(0)
        assert said.bill is not None
        tells = self.zion.tells and self.now - said.at <= REPORT_TIMEOUT_MS
        new: ByDimension = (-1, said.zion.used if tells else -1, -1)
        limit: ByDimension = (-2, said.zion.limit if tells else -2, -2)
        ledger.acknowledge(self.account, POLICY, said.bill.spent, said.bill.period, new, limit, self.now)
        ends = self.account.quota.ends[1] if self.account.quota else 0
        close = 0 < ends < self.now + ledger.EARLY_MS
        if tells and said.bill.period == self.account.n and not close:
            self.note(said)

    @precondition(lambda self: self.asked)
    @rule()
    def zion_answers(self) -> None:
        self.told.append(self.say(self.asked.pop(0)))

    @precondition(lambda self: self.told)
    @rule(which=st.integers(0, 50))
    def answer_arrives(self, which: int) -> None:
        said = self.told.pop(which % len(self.told))
        if self.now - said.at <= LOOKUP_TIMEOUT_MS:
            self.hear(said)

    @rule(amount=st.integers(1, 50))
    def others_use(self, amount: int) -> None:
        self.zion.roll(self.now)
        self.zion.others += amount

    @rule(limit=st.integers(5, 300))
    def plan_changes(self, limit: int) -> None:
        self.zion.limit = limit

    @rule()
    def admin_resets(self) -> None:
        self.zion.ours = self.zion.others = 0
        self.zion.resets += 1

    # --------------------------------------------------------------------------------------------- what must hold

    @invariant()
    def nobody_may_spend_more_than_is_left(self) -> None:
        """For the period in force: what Zion has booked, what is on its way or in flight, others' as far as told."""
        if not hasattr(self, "account"):
            return
        quota, left = self.account.quota, self.account.left(1)
        assert quota is not None
        assert left is not None
        # Our clock has begun a period that Zion has not: what is booked there still counts for the old one.
        late = self.account.rolled[1] >= self.zion.ends
        ours = 0 if late else self.zion.ours
        others = 0 if late else self.others_known.get((self.zion.ends, self.zion.resets), 0)
        coming = sum(bill.spent[1] for bill in self.account.outbox)
        assert left <= quota.limit[1] - ours - others - coming - sum(entry.cost for entry in self.open)

    def teardown(self) -> None:
        """When all has arrived and Zion has been asked once more, both sides agree exactly."""
        if not hasattr(self, "account"):
            return
        for entry in self.open:
            ledger.settle(self.account, POLICY, entry.ask, Cost(1, entry.cost, 0), self.now)
        while self.account.outbox:
            self.zion_books(0)
        while self.booked:
            self.acknowledgement_arrives()
        while self.told:
            self.answer_arrives(0)
        # Not close to the end of a period, where the two clocks may differ.
        self.wait(PERIOD_MS - (self.now - START_MS) % PERIOD_MS + 10_000)
        for _ in range(2):
            self.wait(FRESH_MS)
            verdict = ledger.reserve(
                self.account, POLICY, Reservation(f"last_{next(self.ids)}", USER, "e", "m", 0, 0), self.now
            )
            assert verdict.refresh
            self.hear(self.say(verdict.seq))
        assert self.account.left(1) == self.zion.limit - self.zion.used


TestQuota = QuotaMachine.TestCase
TestQuota.settings = settings(max_examples=100, stateful_step_count=40)


def walk(seed: int) -> None:
    """A story like those of Hypothesis, but quicker, and with more of what leads close to the edge."""
    rng = random.Random(seed)
    machine = QuotaMachine()
    machine.begin(rng.randint(20, 200), rng.randint(-3000, 3000), rng.random() < 0.7)
    steps: list[tuple[float, Callable[[], object]]] = [
        (6, lambda: machine.use(rng.choice([0.05, 0.3, 1.0]), rng.choice([1, 2, 3, 3, 4]))),
        (2, lambda: machine.open and machine.settle(rng.randrange(50), rng.choice([0.0, 0.5, 1.0]))),
        (2, lambda: machine.account.outbox and machine.zion_books(rng.randrange(50))),
        (3, lambda: machine.booked and machine.acknowledgement_arrives()),
        (1, machine.zion_is_asked),
        (2, lambda: machine.asked and machine.zion_answers()),
        (2, lambda: machine.told and machine.answer_arrives(rng.randrange(50))),
        (1, lambda: machine.others_use(rng.randint(1, 50))),
        (0.2, lambda: machine.plan_changes(rng.randint(5, 300))),
        (0.1, machine.admin_resets),
        (2, lambda: machine.wait(rng.choice([1, 500, 4000, 20_000, 60_000]))),
        (1, lambda: machine.wait_for_the_end_of_the_period(rng.choice([-3500, -1500, -1, 0, 1, 1500, 3500]))),
    ]
    weights, calls = zip(*steps, strict=True)
    for call in rng.choices(calls, weights, k=rng.randint(10, 80)):
        call()
        machine.nobody_may_spend_more_than_is_left()
    machine.teardown()


@pytest.mark.parametrize("hundred", range(20))
def test_two_thousand_walks_never_spend_too_much_and_end_exactly(hundred: int) -> None:
    """Whatever Zion, others and the calendar do in whatever order."""
    for seed in range(hundred * 100, hundred * 100 + 100):
        walk(seed)


def test_what_was_said_is_forgotten() -> None:
    """Nothing is granted before Zion was asked again; an answer to what it was asked before is not the last word."""
    account, ask = Account(), Reservation("req_1", USER, "ana@corp.test", "m", 1, 1)
    ledger.forget(account, POLICY, START_MS)
    assert account.quota is None
    ledger.refresh(account, POLICY, Quota((5, -1, -1)), -1, START_MS)
    seq = account.seq
    ledger.forget(account, POLICY, START_MS + 1)
    assert not ledger.reserve(account, POLICY, ask, START_MS + 1).quota_known
    ledger.refresh(account, POLICY, Quota((5, -1, -1)), seq, START_MS + 2)
    assert account.ask < START_MS + FRESH_MS
    assert ledger.reserve(account, POLICY, ask, START_MS + 2).admitted
