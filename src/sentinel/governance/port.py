"""What Sentinel needs of a governance system, in plain types.

An implementation answers three questions: who is this (`identify`), what may they spend (`limits`), and have you booked
this (`report`). Health checks and `sentinel doctor` ask two more. Nothing here knows how any of it travels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgspec

from sentinel.governance.model_globs import is_allowed
from sentinel.governance.tiers import TierConfig
from sentinel.limits.policy import ByDimension, Cost, Quota


class AuthenticatedUser(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The caller. id: the identity everywhere, for limits, logs and keys; email: what usage is booked under.

    allowed_models: globs of the models that their plan has (model_globs.py), None = all. expires_at_ms: the token is
    theirs until then, since the epoch, None = for ever.
    """

    id: str
    email: str
    allowed_models: tuple[str, ...] | None = None
    expires_at_ms: int | None = None

    def may_use(self, model: str) -> bool:
        """Whether their plan has this model."""
        return self.allowed_models is None or is_allowed(self.allowed_models, model)


class UsageItem(Protocol):
    """What one user spent on one model. spent: requests, input tokens, output tokens. at_ms: since the epoch.

    cost_micro_usd: what is known of its cost, 0 = nothing.
    """

    @property
    def user(self) -> str:
        """The user's identity."""

    @property
    def email(self) -> str:
        """Their e-mail address."""

    @property
    def model(self) -> str:
        """The model; empty where it is not known."""

    @property
    def spent(self) -> Cost:
        """How much."""

    @property
    def at_ms(self) -> int:
        """When the first of it was spent."""

    @property
    def cost_micro_usd(self) -> int:
        """What it costs, in millionths of a US dollar."""


class Outcome(Enum):
    """What became of a report, and so what to do next.

    TAKEN: all of it is booked, except items whose answer says otherwise. REFUSED: something in it is at fault, nothing
    is booked. SPLIT: nothing is booked, for it had more than `most_items`. LATER: nothing is booked, the same report
    may be sent again. UNKNOWN: some or all of it may have been booked, the first items first.
    """

    TAKEN = "taken"
    REFUSED = "refused"
    SPLIT = "split"
    LATER = "later"
    UNKNOWN = "unknown"


class ItemAnswer(Protocol):
    """What was said to one item of a report that was taken."""

    @property
    def accepted(self) -> bool:
        """Whether it is booked."""

    @property
    def reason(self) -> str:
        """Why it is not."""

    @property
    def used(self) -> ByDimension:
        """What is booked for its user afterwards, -1 = not told."""

    @property
    def limits(self) -> ByDimension:
        """The user's limits, -1 = none, -2 = not told."""


class PlainAnswer(msgspec.Struct, frozen=True, gc=False):
    """An ItemAnswer that is known in full."""

    accepted: bool
    reason: str = ""
    used: ByDimension = (-1, -1, -1)
    limits: ByDimension = (-2, -2, -2)


@dataclass(frozen=True, slots=True)
class Report:
    """The answer to a report.

    answers: where it was TAKEN, one for each item in their order; None = nothing was said, so the item is booked.
    reason: for the log and for operators. claimed: the outcome is UNKNOWN although somebody said yes, since what they
    said was no receipt for these items.
    """

    outcome: Outcome
    answers: Sequence[ItemAnswer | None] = ()
    reason: str = ""
    retry_after_seconds: float | None = None
    claimed: bool = False


class Fault(Protocol):
    """What is wrong with the connection to the governance, and what an operator should do about it."""

    @property
    def said(self) -> str:
        """What is wrong."""

    @property
    def remedy(self) -> str:
        """What to do."""


class Governance(Protocol):
    """A governance system."""

    @property
    def most_items(self) -> int:
        """How many items one report may have now."""

    @property
    def healthy(self) -> bool:
        """Whether it answered the last ping, and no question failed lately."""

    async def identify(self, token: str) -> AuthenticatedUser:
        """Who this token belongs to. Raises InvalidApiKey, AccessDenied; ZionUnavailable where nobody knows."""

    async def limits(self, user: str) -> Quota:
        """What the user may spend. Raises AccessDenied where there is no subscription, ZionUnavailable."""

    async def tiers(self) -> TierConfig:
        """The models of each tier. Raises ZionUnavailable."""

    async def report(self, items: Sequence[UsageItem], key: str) -> Report:
        """Book this usage, once for each key as far as the governance remembers keys. Never raises."""

    async def ping(self) -> bool:
        """See whether it answers at all."""

    async def examine(self) -> Fault | None:
        """What is wrong between it and us: address, network, our key; None if it is there and knows us."""

    async def close(self) -> None:
        """Close all connections."""
