"""From a reservation to a verdict, and from a verdict to headers or a refusal."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Protocol

from sentinel.error import (
    AppError,
    Header,
    InsufficientQuota,
    RateLimitExceeded,
    ServiceUnavailable,
    ZionUnavailable,
)
from sentinel.limits.policy import NOT_LIMITED, Cost, Reservation, Verdict, View, tightest
from sentinel.timestamp import rfc3339_seconds

ZION_SECONDS = 2.8
"""So long we wait for Zion in all, for a token's user and limits: a 503 must come within 3 s (DESIGN section 9)."""

_OVERALL = b"x-ratelimit-limit: %d\r\nx-ratelimit-remaining: %d\r\nx-ratelimit-reset: %d\r\n"
_EACH = [
    b"x-ratelimit-limit-%b: %%d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%b\r\n" % (name, name, name)
    for name in (b"requests", b"input-tokens", b"output-tokens")
]
"""In the order of limits.policy.DIMENSIONS."""
_LINES = [_OVERALL + b"".join(each for d, each in enumerate(_EACH) if which & 1 << d) for which in range(8)]
"""By the dimensions that have a window, a bit for each."""
_QUOTA_EACH = [
    b"x-sentinel-quota-remaining-%b: %%d\r\n" % name for name in (b"requests", b"input-tokens", b"output-tokens")
]
_QUOTA = b"".join(_QUOTA_EACH)
_LIMITED_BY = b"x-sentinel-limited-by"
"""Which kind of limit has refused: beside a used-up quota a window may be as good as new."""
_NO_RETRY: Header = (b"x-should-retry", b"false")
DEGRADED = b"x-sentinel-degraded: redis\r\n"
"""Goes with every answer that was admitted without Redis."""


class Ledger(Protocol):
    """Where reservations are kept: in Redis, or in memory while Redis is away."""

    async def reserve(self, reservation: Reservation) -> Verdict:
        """Admit one request over all dimensions at once, or refuse it and change nothing."""

    async def view(self, user: str) -> View:
        """What the user may spend and has spent; changes nothing."""

    async def has_account(self, user: str) -> bool:
        """Whether Redis knows the user."""

    async def extend(
        self, reservation: Reservation, held_output: int, more: int, delivered: int, started_ms: int
    ) -> int | None:
        """Keep the lease, note what is delivered, reserve more; returns what it holds, or PLACE_TAKEN.

        None: limits are not known.
        """

    async def settle(
        self,
        reservation: Reservation,
        spent: Cost,
        started_ms: int,
        at_ms: int = 0,
        *,
        unsure: bool = False,
        cost_micro_usd: int = 0,
    ) -> bool | None:
        """Replace the reservation by what was spent, durably; False if that was done before, None if nobody knows."""


class Limits(Protocol):
    """Where limits come from when the ledger knows none, or old ones."""

    async def fetch_limits(self, user: str, seq: int) -> None:
        """Hand the ledger what Zion grants the user."""

    def refresh_limits_soon(self, user: str, seq: int) -> None:
        """Ask Zion anew in the background."""


async def reserve(
    reservation: Reservation, ledger: Ledger, limits: Limits, patience_seconds: float = ZION_SECONDS
) -> Verdict:
    """The verdict on this request; limits are fetched where none are known, and governance gets so long for them.

    Raises AccessDenied, ZionUnavailable, RedisUnavailable; a refusal is no error here.
    """
    return await with_limits(await ledger.reserve(reservation), reservation, ledger, limits, patience_seconds)


async def with_limits(
    verdict: Verdict, reservation: Reservation, ledger: Ledger, limits: Limits, patience_seconds: float
) -> Verdict:
    """The verdict itself where it was decided by known limits, else a new one once they are. Raises as `reserve`."""
    if not verdict.quota_known:
        await _fetch(limits, reservation.user, verdict.seq, patience_seconds)
        verdict = await ledger.reserve(reservation)
        if not verdict.quota_known:
            raise _no_limits()
    elif verdict.refresh:
        limits.refresh_limits_soon(reservation.user, verdict.seq)
    return verdict


async def peek(reservation: Reservation, ledger: Ledger, limits: Limits, patience_seconds: float) -> Verdict | None:
    """The verdict on the least of requests, where it may be a refusal; None where the user has something left of all.

    It is a reservation like any other where it admits: something has come back meanwhile. Raises as `reserve`.
    """
    view = await look(reservation.user, ledger, limits, patience_seconds)
    return await reserve(reservation, ledger, limits, patience_seconds) if _is_used_up(view) else None


def _is_used_up(view: View) -> bool:
    """Whether nothing is left of one of the limits."""
    quotas = zip(view.limit, view.used, strict=True)
    slots = view.policy.concurrency
    return (
        any(limit != NOT_LIMITED and used >= limit for limit, used in quotas)
        or any(remaining < 1 for remaining in view.windows[::2])
        or (slots is not None and view.in_flight >= slots)
    )


async def look(user: str, ledger: Ledger, limits: Limits, patience_seconds: float = ZION_SECONDS) -> View:
    """What the user may spend and has spent, with limits fetched first where none are known. Raises as `reserve`."""
    view = await ledger.view(user)
    if not view.known:
        await _fetch(limits, user, view.seq, patience_seconds)
        view = await ledger.view(user)
        if not view.known:
            raise _no_limits()
    elif view.refresh:
        limits.refresh_limits_soon(user, view.seq)
    return view


async def _fetch(limits: Limits, user: str, seq: int, patience_seconds: float) -> None:
    try:
        async with asyncio.timeout(patience_seconds):
            await limits.fetch_limits(user, seq)
    except TimeoutError as error:
        raise ZionUnavailable("The governance system does not answer in time.", retry_after_seconds=2) from error


def _no_limits() -> ServiceUnavailable:
    return ServiceUnavailable("The limits of this user are not available.", retry_after_seconds=2)


def refusal_of(verdict: Verdict) -> AppError:
    """The 429 that tells why, and when it would help to come back.

    A used-up quota has no Retry-After: its period ends in days, and clients sleep on that header.
    """
    blocker = verdict.blocker
    assert blocker is not None
    wait = blocker.wait_ms
    limited_by: Header = (_LIMITED_BY, blocker.limit_type.encode())
    details = {
        "limit_type": blocker.limit_type,
        "metric": blocker.metric,
        "limit": blocker.limit,
        "used": blocker.used,
        "remaining": blocker.remaining,
        "reset_at": rfc3339_seconds(blocker.reset_ms),
    }
    if blocker.limit_type == "quota":
        return InsufficientQuota(
            f"You exceeded your current quota: {blocker.metric} of {blocker.limit} is used up.",
            details=details,
            headers=(limited_by, _NO_RETRY),
        )
    if wait is None:
        return RateLimitExceeded(
            f"Request too large: it needs more {blocker.metric} than the whole rate limit of {blocker.limit}.",
            details=details,
            retry_after_seconds=(blocker.reset_ms - verdict.now_ms) / 1000,
            headers=(limited_by, _NO_RETRY),
        )
    return RateLimitExceeded(
        f"Rate limit reached for {blocker.metric}: limit {blocker.limit}, used {blocker.used}. "
        f"Please try again in {duration(wait).decode()}.",
        details=details,
        retry_after_seconds=wait / 1000,
        headers=(limited_by,),
    )


def lines_of(verdict: Verdict) -> bytes:
    """The rate limit headers as they go over the wire, from the verdict alone. Twelve pairs would cost twice as much.

    `x-ratelimit-limit`, `-remaining`, `-reset` (Unix seconds) are of the tightest window; OpenAI's own names are of the
    tightest window of each dimension, with reset as a duration. `x-sentinel-quota-remaining-*` is what is left of the
    subscription beside this request's reservation.
    """
    header_lines = DEGRADED if verdict.degraded else b""
    quota, windows, policy, now = verdict.quota_remaining, verdict.windows, verdict.policy, verdict.now_ms
    if min(quota) >= 0:
        header_lines += _QUOTA % quota
    else:
        header_lines += b"".join(each % left for each, left in zip(_QUOTA_EACH, quota, strict=True) if left >= 0)
    if policy is None or not windows:
        return header_lines
    least, first = 2.0, (0, 0, 0)
    numbers: list[int | bytes] = []
    for own in policy.by_dimension:
        place, limit = own[0] if len(own) == 1 else tightest(windows, own)
        remaining, reset_ms = windows[place], windows[place + 1]
        left = remaining / limit if limit else 0.0
        if left < least:
            least, first = left, (limit, remaining, -(-reset_ms // 1000))
        ms = reset_ms - now
        # As `duration` has it; a call for each would cost as much as all the rest.
        numbers += (limit, remaining, b"%dms" % ms if ms < 1000 else _whole_seconds(-(-ms // 1000)))
    return header_lines + _LINES[policy.dimensions] % (*first, *numbers)


def duration(ms: int) -> bytes:
    """A duration as OpenAI writes it: `850ms`, `12s`, `6m0s`, `2h3m4s`; seconds are rounded up."""
    return b"%dms" % ms if ms < 1000 else _whole_seconds(-(-ms // 1000))


@lru_cache(maxsize=4096)
def _whole_seconds(seconds: int) -> bytes:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, seconds)
    return b"%dm%ds" % (minutes, seconds) if minutes else b"%ds" % seconds
