"""Whatever is reported when, whoever gets which plan: what the built-in governance tells is what a simple sum is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.support.governance import DAY_MS, Governance, governance

HOUR_MS = DAY_MS // 24
START = datetime(2026, 12, 29, 12, tzinfo=UTC)
"""Shortly before a week, a month and a year end on different days."""
METRICS = ("aiRequests", "aiInputTokens", "aiOutputTokens")
MODELS = ("gpt-4o", "claude", None)
PLANS, USERS = 2, 3
_examples = itertools.count()

kinds = st.sampled_from(["daily", "weekly", "monthly", "never"])
items = st.fixed_dictionaries(
    {
        "user": st.integers(0, USERS),
        "amounts": st.tuples(*[st.integers(0, 10**6)] * 3),
        "model": st.sampled_from(MODELS),
        # When it was, from now on; None: it does not say. Far ahead is refused.
        "hours": st.none() | st.integers(-24 * 70, 24 * 3),
        "zone_hours": st.integers(-12, 14),
        "is_wrong": st.sampled_from([False] * 9 + [True]),
    }
)


def is_in_period(kind: str, day: date, today: date) -> bool:
    """Whether a day is in the period that today is in."""
    match kind:
        case "daily":
            return day == today
        case "weekly":
            return day.isocalendar()[:2] == today.isocalendar()[:2]
        case "monthly":
            return (day.year, day.month) == (today.year, today.month)
        case _:
            return True


@dataclass
class Member:
    """What is known of a user: the plan, and everything that was booked."""

    email: str
    plan: int
    booked: list[tuple[date, tuple[int, int, int]]] = field(default_factory=list)

    def used(self, kind: str, today: date) -> tuple[int, ...]:
        """All that was booked on days of the period."""
        amounts = [amounts for day, amounts in self.booked if is_in_period(kind, day, today)]
        return tuple(sum(column) for column in zip((0, 0, 0), *amounts, strict=True))


class Books(RuleBasedStateMachine):
    """One database and service for all runs; each has users, plans and keys of its own."""

    def __init__(self, house: Governance) -> None:
        super().__init__()
        self.house = house
        self.run = next(_examples)
        self.kinds: list[str] = []
        self.members: list[Member] = []
        self.answered: dict[str, tuple[object, bytes]] = {}

    @initialize(given=st.lists(kinds, min_size=PLANS, max_size=PLANS))
    def begin(self, given: list[str]) -> None:
        """Everybody has a plan, and nothing is booked."""
        self.house.turn_to(START)
        self.kinds = list(given)
        for number, kind in enumerate(given):
            self.house.set_plan(self.plan(number), period=kind)
        for number in range(USERS):
            email = f"user{number}@run{self.run}.test"
            self.house.add_user(email, self.plan(0))
            self.members.append(Member(email, 0))

    def plan(self, number: int) -> str:
        return f"plan {number} of {self.run}"

    @property
    def today(self) -> date:
        return datetime.fromtimestamp(self.house.now() / 1000, UTC).date()

    @rule(hours=st.sampled_from([-12, -1, 1, 5, 12, 24, 24 * 6, 24 * 31]))
    def turn_clock(self, hours: int) -> None:
        """Mostly on; back, too, as a clock is that was wrong."""
        self.house.ahead_ms += hours * HOUR_MS

    @rule(number=st.integers(0, PLANS - 1), kind=kinds)
    def change_plan(self, number: int, kind: str) -> None:
        """Of all who have it."""
        self.house.set_plan(self.plan(number), period=kind, requests=5)
        self.kinds[number] = kind

    @rule(user=st.integers(0, USERS - 1), number=st.integers(0, PLANS - 1))
    def give_plan(self, user: int, number: int) -> None:
        """To one user."""
        self.house.change_user(self.members[user].email, plan_name=self.plan(number))
        self.members[user].plan = number

    @rule(drawn=st.lists(items, min_size=1, max_size=8), key=st.none() | st.integers(0, 3))
    def report(self, drawn: list[dict[str, Any]], key: int | None) -> None:
        """Usage of any of them, and of somebody unknown; a key may have come before."""
        wire = [self.on_wire(item) for item in drawn]
        name = None if key is None else f"{self.run}/{key}"
        answer = self.house.book(*wire, key=name)
        if name in self.answered:
            said, body = self.answered[name]
            if said == wire:
                assert answer.body == body
            else:
                assert answer.status == 422
            return
        if name is not None:
            self.answered[name] = wire, answer.body
        for item, sent, result in zip(drawn, wire, answer.json["data"]["results"], strict=True):
            self.take(item, sent, result)

    @rule(key=st.integers(0, 3))
    def repeat(self, key: int) -> None:
        """What was said before is not booked again, however late it comes."""
        name = f"{self.run}/{key}"
        if name in self.answered:
            said, body = self.answered[name]
            assert isinstance(said, list)
            assert self.house.book(*said, key=name).body == body

    def on_wire(self, item: dict[str, Any]) -> dict[str, Any]:
        member = self.members[item["user"]] if item["user"] < USERS else None
        wire: dict[str, Any] = dict(zip(METRICS, item["amounts"], strict=True))
        wire["email"] = "nobody@corp.test" if member is None else member.email.upper()
        if item["model"] is not None:
            wire["model"] = item["model"]
        if item["hours"] is not None:
            zone = timezone(timedelta(hours=item["zone_hours"]))
            moment = self.house.now() // 1000 + item["hours"] * 3600
            wire["timestamp"] = datetime.fromtimestamp(moment, zone).isoformat()
        if item["is_wrong"]:
            wire["aiOutputTokens"] = -1
        return wire

    def take(self, item: dict[str, Any], sent: dict[str, Any], result: dict[str, Any]) -> None:
        """Book it here, too, and compare."""
        day = datetime.fromisoformat(sent["timestamp"]).astimezone(UTC).date() if "timestamp" in sent else self.today
        is_good = item["user"] < USERS and not item["is_wrong"] and day <= self.today + timedelta(days=1)
        assert result["success"] is is_good, result
        if is_good:
            member = self.members[item["user"]]
            member.booked.append((day, item["amounts"]))
            told = tuple(result[name]["newValue"] for name in METRICS)
            assert told == member.used(self.kinds[member.plan], self.today)

    @invariant()
    def what_is_told_is_the_sum(self) -> None:
        """Of everybody, at any time."""
        for member in self.members:
            assert self.house.used(member.email) == member.used(self.kinds[member.plan], self.today)


@pytest.fixture
def house(database_url: str) -> Iterator[Governance]:
    with governance(database_url) as running:
        yield running


def test_books(house: Governance) -> None:
    """Midnights, Mondays, ends of months; items late and early; repetitions; other plans, and other periods of one."""

    class BooksOfHouse(Books):
        def __init__(self) -> None:
            super().__init__(house)

    run_state_machine_as_test(BooksOfHouse, settings=settings(max_examples=25, stateful_step_count=20))
