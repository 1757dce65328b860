"""What the operator and Zion allow, and the verdict on one request: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple
from zlib import crc32

import msgspec

from sentinel.config import DIMENSIONS, RateLimits

SLICES = 60
"""A window is cut into this many slices; a partly overlapped oldest one counts whole (docs/adr/0003)."""

EXACT = 2**53
"""Redis' scripts compute in doubles, exact up to here; a limit beyond it is as good as none."""

Amount = Annotated[int, msgspec.Meta(ge=0, le=EXACT)]
"""What may be summed up: where it is read from a file or from Redis, it is checked."""

ByDimension = tuple[int, int, int]
"""A number for each of DIMENSIONS: requests, input tokens, output tokens."""


class Cost(NamedTuple):
    """What was, or may be, spent; input and output are tokens. In the order of DIMENSIONS, as ByDimension."""

    requests: Amount
    input: Amount
    output: Amount

    def plus(self, other: Cost) -> Cost:
        """The sum."""
        return Cost(self[0] + other[0], self[1] + other[1], self[2] + other[2])

    def beyond(self, other: Cost) -> Cost:
        """What it has more than the other; never below zero."""
        return Cost(max(0, self[0] - other[0]), max(0, self[1] - other[1]), max(0, self[2] - other[2]))


FREE = Cost(0, 0, 0)


NOT_LIMITED = -1

PLACE_TAKEN = -2
"""What `extend` answers for a request whose lease has ended, if nothing of it was delivered and others were admitted in
its place."""

ACCOUNT_MS = 7 * 86_400_000
"""An account is forgotten this long after its user's last request, or when its longest window has passed, if that is
later. Usage that waits for Zion is in the outbox."""

REMEMBER_SETTLED_MS = 15 * 60_000
"""A settled request id is remembered this long, so that a repeated settle is known as such."""


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window. dimension: index into DIMENSIONS."""

    name: str
    dimension: int
    limit: int
    window_ms: int

    @property
    def metric(self) -> str:
        """The name of the dimension, such as `ai_requests`."""
        return DIMENSIONS[self.dimension]

    @property
    def id(self) -> int:
        """The number by which an account knows the window: of its dimension and length, not of its limit."""
        return crc32(self.name.encode())

    def slice_of(self, moment_ms: int) -> int:
        """The slice that a moment lies in."""
        return moment_ms * SLICES // self.window_ms

    def gone_ms(self, slice_: int) -> int:
        """The first moment at which all that a slice holds is older than the window."""
        return -(-(slice_ + SLICES + 1) * self.window_ms // SLICES)


@dataclass(frozen=True, slots=True)
class Policy:
    """All that a reservation is decided by, except the user's own account. Durations in milliseconds.

    dimensions: those that have windows, a bit for each. by_dimension: for each of them the places in Verdict.windows
    and limits of its windows.
    """

    windows: tuple[Window, ...]
    concurrency: int | None
    lease_ms: int
    fresh_ms: int
    stale_ms: int
    dimensions: int = field(init=False, repr=False, compare=False)
    by_dimension: list[list[tuple[int, int]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort the windows, once."""
        by_dimension: dict[int, list[tuple[int, int]]] = {}
        for k, window in enumerate(self.windows):
            by_dimension.setdefault(1 << window.dimension, []).append((2 * k, window.limit))
        object.__setattr__(self, "dimensions", sum(by_dimension))
        object.__setattr__(self, "by_dimension", [own for _, own in sorted(by_dimension.items())])

    @property
    def account_ttl_ms(self) -> int:
        """How long an account is kept after its last change; a window must not be forgotten early."""
        return max([ACCOUNT_MS, *(2 * w.window_ms for w in self.windows)])

    @classmethod
    def of(
        cls, rates: RateLimits, *, lease_seconds: float, fresh_seconds: float, stale_seconds: float, share: int = 1
    ) -> Policy:
        """The policy for these settings.

        share: divide every limit by this many replicas, rounding down (used while they cannot see each other).
        """
        windows = tuple(
            Window(
                name=f"{rate.dimension}/{rate.window_seconds}",
                dimension=DIMENSIONS.index(rate.dimension),
                limit=rate.limit // share,
                window_ms=rate.window_seconds * 1000,
            )
            for rate in rates.windows
        )
        return cls(
            windows=windows,
            concurrency=None if rates.concurrency is None else rates.concurrency // share,
            lease_ms=round(lease_seconds * 1000),
            fresh_ms=round(fresh_seconds * 1000),
            stale_ms=round(stale_seconds * 1000),
        )

    def lua(self) -> str:
        """The policy as a Lua table: part of the library in Redis, so that no call has to carry it."""
        return _lua(self._fields())

    def _fields(self) -> dict[str, Any]:
        return {
            "windows": [
                {"id": w.id, "dim": w.dimension + 1, "limit": w.limit, "window": w.window_ms} for w in self.windows
            ],
            "concurrency": NOT_LIMITED if self.concurrency is None else self.concurrency,
            "lease": self.lease_ms,
            "fresh": self.fresh_ms,
            "stale": self.stale_ms,
            "ttl": self.account_ttl_ms,
            "remember": REMEMBER_SETTLED_MS,
        }


def _lua(value: Any) -> str:
    """Numbers, lists and tables as Lua writes them."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}={_lua(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ",".join(_lua(part) for part in value) + "}"
    return str(int(value))


@dataclass(frozen=True, slots=True)
class Quota:
    """What Zion grants, per dimension. limit: -1 = not limited. ends_ms: of the period, 0 = never or not known.

    told: whether Zion says how much is used; of a metric that is not in the subscription it says nothing.
    """

    limit: ByDimension = (NOT_LIMITED, NOT_LIMITED, NOT_LIMITED)
    used: ByDimension = (0, 0, 0)
    ends_ms: ByDimension = (0, 0, 0)
    told: tuple[bool, bool, bool] = (True, True, True)


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """One reservation: a request, its counted input, and as much output as it may want.

    least_output: with less than this granted the request is of no use (one token for each choice).
    fair_output: where output is limited, take no more than this or a quarter of what is left, whichever is more, so
    that one request with an open end does not starve those beside it; 0 = take as much as asked.
    """

    id: str
    user: str
    email: str
    model: str
    input_tokens: int
    output_tokens: int
    least_output: int = 1
    fair_output: int = 0


LimitType = Literal["window", "concurrency", "quota"]


@dataclass(frozen=True, slots=True)
class Blocker:
    """Why a request was refused. metric: a dimension or `concurrency`. reset_ms: 0 = never.

    wait_ms: until this request would fit, None = it never will.
    """

    limit_type: LimitType
    metric: str
    limit: int
    used: int
    remaining: int
    reset_ms: int
    wait_ms: int | None


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """The answer to a reservation. With `quota_known` false nothing was decided: limits must be fetched first.

    granted_output: tokens; output_is_limited: some limit on output exists, so the provider may have to be told.
    refresh: the caller should ask Zion for the limits, nobody else does; stale: they are past their time to live.
    seq: how often Zion has said something, to be handed in with the refresh.
    windows: for each window of the policy what remains of it, and the moment at which all that it holds has left it.
    concurrency_remaining, quota_remaining (after this request's reservation): -1 = not limited.
    """

    admitted: bool
    now_ms: int
    granted_output: int = 0
    output_is_limited: bool = False
    quota_known: bool = True
    refresh: bool = False
    stale: bool = False
    seq: int = 0
    blocker: Blocker | None = None
    policy: Policy | None = None
    windows: tuple[int, ...] = ()
    concurrency_remaining: int = NOT_LIMITED
    quota_remaining: ByDimension = (NOT_LIMITED, NOT_LIMITED, NOT_LIMITED)
    degraded: bool = False


def tightest(windows: tuple[int, ...], own: list[tuple[int, int]]) -> tuple[int, int]:
    """The place in Verdict.windows, and the limit, of the window of which the least part is left. own: one at least."""
    return min(own, key=lambda window: windows[window[0]] / window[1] if window[1] else 0.0)


class View(msgspec.Struct, frozen=True, gc=False):
    """What a user may spend and has spent. With `known` false limits must be fetched first.

    refresh, seq, windows: as of a Verdict. limit: -1 = none. used: with what is reserved or on its way to Zion.
    ends_ms: 0 = never, or not known.
    """

    known: bool
    now_ms: int
    refresh: bool
    seq: int
    limit: ByDimension
    used: ByDimension
    ends_ms: ByDimension
    windows: tuple[int, ...]
    in_flight: int
    policy: Policy
    degraded: bool = False


def view_of(answer: tuple[int, ...], policy: Policy) -> View:
    """Read the answer of view.lua (its first lines say the order)."""
    known, now, refresh, seq, *triples = answer[:13]
    limit, used, ends = ((triples[at], triples[at + 1], triples[at + 2]) for at in (0, 3, 6))
    return View(known == 1, now, refresh == 1, seq, limit, used, ends, answer[13:-1], answer[-1], policy)


_KINDS: dict[int, LimitType] = {1: "window", 2: "concurrency", 3: "quota"}


def verdict_of(answer: tuple[int, ...], policy: Policy) -> Verdict:
    """Read the answer of reserve.lua (its first lines say the order)."""
    code, now, granted, finite, refresh, stale, seq = answer[:7]
    if code == 2:
        return Verdict(admitted=False, now_ms=now, quota_known=False, refresh=True, seq=seq)
    quota, slots, left, blocker = (answer[7], answer[8], answer[9]), answer[10], answer[11:], None
    if code:
        left, blocker = answer[11:-7], _blocker_of(answer[-7:], policy)
    return Verdict(
        code == 0, now, granted, finite == 1, True, refresh == 1, stale == 1, seq, blocker, policy, left, slots, quota
    )


def _blocker_of(answer: tuple[int, ...], policy: Policy) -> Blocker:
    wait, kind, which, limit, used, remaining, reset = answer
    if _KINDS[kind] == "concurrency":
        metric = "concurrency"
    elif _KINDS[kind] == "window":
        metric = policy.windows[which - 1].metric
    else:
        metric = DIMENSIONS[which - 1]
    return Blocker(_KINDS[kind], metric, limit, used, remaining, reset, None if wait < 0 else wait)
