"""A governance in memory: a second implementation of `governance/port.py`, which has no wire and no process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sentinel.error import AccessDenied, InvalidApiKey, ZionUnavailable
from sentinel.governance.port import AuthenticatedUser, Fault, Outcome, PlainAnswer, Report, UsageItem
from sentinel.governance.tiers import TierConfig, TierModel
from sentinel.limits.policy import ByDimension, Cost, Quota


@dataclass(frozen=True)
class Item:
    """An item of usage."""

    user: str
    email: str
    model: str
    spent: Cost
    at_ms: int
    cost_micro_usd: int = 0


@dataclass
class MemoryGovernance:
    """Users by token, and what is booked for each.

    outcomes: of the next reports, the first one first; with none left they are taken. applied_when_unknown: how many
    items of an UNKNOWN report are booked. refused: users whose items are not accepted..
    """

    tokens: dict[str, AuthenticatedUser] = field(default_factory=dict)
    granted: dict[str, ByDimension] = field(default_factory=dict)
    booked: Counter[tuple[str, int]] = field(default_factory=Counter)
    outcomes: list[Outcome] = field(default_factory=list)
    applied_when_unknown: int = 0
    refused: set[str] = field(default_factory=set)
    most_items: int = 1000
    away: bool = False
    tier_models: dict[str, list[TierModel]] = field(default_factory=dict)
    asked_for_tiers: int = 0
    reports: list[tuple[str, list[str]]] = field(default_factory=list)

    def add(self, user: str, limit: ByDimension = (-1, -1, -1)) -> str:
        """A user; returns the token."""
        token = f"token-of-{user}"
        self.tokens[token] = AuthenticatedUser(user, f"{user}@corp.test")
        self.granted[user] = limit
        return token

    def used(self, user: str) -> ByDimension:
        """What is booked for a user."""
        return self.booked[user, 0], self.booked[user, 1], self.booked[user, 2]

    @property
    def healthy(self) -> bool:
        return not self.away

    async def identify(self, token: str) -> AuthenticatedUser:
        self._check()
        if token not in self.tokens:
            raise InvalidApiKey("unknown")
        return self.tokens[token]

    async def limits(self, user: str) -> Quota:
        self._check()
        if user not in self.granted:
            raise AccessDenied("no subscription")
        return Quota(self.granted[user], self.used(user))

    async def tiers(self) -> TierConfig:
        self._check()
        self.asked_for_tiers += 1
        return self.tier_models

    async def report(self, items: Sequence[UsageItem], key: str) -> Report:
        self.reports.append((key, [item.user for item in items]))
        if self.away:
            return Report(Outcome.LATER, reason="away")
        if len(items) > self.most_items:
            return Report(Outcome.SPLIT)
        outcome = self.outcomes.pop(0) if self.outcomes else Outcome.TAKEN
        if outcome is Outcome.UNKNOWN:
            self._book(items[: self.applied_when_unknown])
        if outcome is not Outcome.TAKEN:
            return Report(outcome, reason="as told")
        self._book([item for item in items if item.user not in self.refused])
        return Report(outcome, [self._answer(item.user) for item in items])

    async def ping(self) -> bool:
        return not self.away

    async def examine(self) -> Fault | None:
        return None

    async def close(self) -> None:
        pass

    def _check(self) -> None:
        if self.away:
            raise ZionUnavailable("away")

    def _book(self, items: Sequence[UsageItem]) -> None:
        for item in items:
            for place, amount in enumerate(item.spent):
                self.booked[item.user, place] += amount

    def _answer(self, user: str) -> PlainAnswer:
        if user in self.refused:
            return PlainAnswer(False, "not today")
        return PlainAnswer(True, used=self.used(user), limits=self.granted[user])


def plain(report: Report) -> Report:
    """A report whose answers can be compared."""
    answers = [one and PlainAnswer(one.accepted, one.reason, one.used, one.limits) for one in report.answers]
    return replace(report, answers=answers or ())
