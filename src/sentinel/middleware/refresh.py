"""What an operator, or the governance, says of users who have changed: forget what is known of them, and ask anew.

A token that was revoked, a user who was disabled, a plan that is another: once this is done, they hold in all processes
within a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sentinel.clock import monotonic
from sentinel.error import AccessDenied, AppError, UserNotFound
from sentinel.steps import in_portions

MOST_USERS = 1_000
_AT_ONCE = 16
"""Questions to the governance."""
_LONGEST_SECONDS = 30.0
"""So long users are asked about one after another; a governance that is away is not waited for a thousand times."""


class UserRecords(Protocol):
    """What is known of users (cache/subscription.py)."""

    async def forget_users(self, users: Sequence[str]) -> list[bool]:
        """Forget their tokens in all processes; of each, whether any was known. Raises RedisUnavailable."""

    async def forget_limits(self, user: str) -> bool:
        """Forget their limits; whether they have an account. Raises RedisUnavailable."""

    async def refresh_limits(self, user: str, seq: int) -> None:
        """Ask for their limits. Raises AccessDenied, ZionUnavailable, RedisUnavailable."""


class Accounts(Protocol):
    """Who has an account (cache/redis_ledger.py)."""

    def has_account(self, user: str) -> Awaitable[bool]:
        """Whether this user has one. Raises RedisUnavailable."""


@dataclass
class Refreshed:
    """What became of it. known: how many have an account or a token here; refreshed: limits that were asked anew.

    errors: the codes of what failed, by user.
    """

    known: int = 0
    refreshed: int = 0
    errors: dict[str, str] = field(default_factory=dict)


async def refresh_user(user: str, known: UserRecords) -> None:
    """Forget the user's tokens, and ask for the limits at once.

    Raises UserNotFound where the governance knows none, ZionUnavailable, RedisUnavailable.
    """
    await known.forget_users([user])
    await _ask_anew(user, known)


async def revoke_user(user: str, known: UserRecords) -> bool:
    """Forget the user's tokens and limits, so that the next request must ask; whether anything was known of them.

    Raises RedisUnavailable.
    """
    (had_tokens,) = await known.forget_users([user])
    return await known.forget_limits(user) or had_tokens


async def refresh_users(users: Sequence[str], known: UserRecords, accounts: Accounts) -> Refreshed:
    """The same as refresh_user for many, of whom only those with an account are asked about. Raises RedisUnavailable.

    Tokens of all are forgotten before anybody is asked about, and what fails for one of them stops none of the others.
    """
    told = Refreshed()
    users = list(dict.fromkeys(users))
    had_tokens = await known.forget_users(users)
    has_account: list[bool] = []
    for portion in in_portions(users):
        has_account += await asyncio.gather(*map(accounts.has_account, portion))
    told.known = sum(map(max, had_tokens, has_account))
    waiting = iter([user for user, has in zip(users, has_account, strict=True) if has])
    until = monotonic() + _LONGEST_SECONDS
    await asyncio.gather(*(_ask_about(waiting, known, told, until) for _ in range(_AT_ONCE)))
    return told


async def _ask_about(waiting: Iterator[str], known: UserRecords, told: Refreshed, until: float) -> None:
    for user in waiting:
        if monotonic() > until:
            told.errors[user] = "not_asked"
            continue
        try:
            await _ask_anew(user, known)
        except AppError as error:
            told.errors[user] = error.code
        else:
            told.refreshed += 1


async def _ask_anew(user: str, known: UserRecords) -> None:
    try:
        await known.refresh_limits(user, -1)
    except AccessDenied as error:
        # For a caller that is a refusal; the operator is told what it is about.
        raise UserNotFound(f"No limits are known for the user '{user[:96]}'.") from error
