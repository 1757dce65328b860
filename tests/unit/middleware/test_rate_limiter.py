"""From verdicts to headers and refusals."""

from __future__ import annotations

import pytest

from sentinel.error import InsufficientQuota, RateLimitExceeded, headers_of
from sentinel.limits.policy import Blocker, Policy, Reservation, Verdict, View, Window
from sentinel.middleware import rate_limiter
from sentinel.proxy.headers import pairs_of

NOW_MS = 1_800_000_000_000


def lines_of(*windows: tuple[int, int, int, int]) -> dict[bytes, bytes]:
    """The headers where such windows remain: dimension, limit, what remains, ms until all has left it."""
    policy = Policy(tuple(Window("w", dimension, limit, 60_000) for dimension, limit, _, _ in windows), None, 1, 1, 1)
    told = tuple(number for _, _, remaining, reset in windows for number in (remaining, NOW_MS + reset))
    return dict(pairs_of(rate_limiter.lines_of(Verdict(True, NOW_MS, policy=policy, windows=told))))


def refusal(**fields: object) -> RateLimitExceeded | InsufficientQuota:
    whole: dict[str, object] = {
        "limit_type": "window", "metric": "ai_requests", "limit": 5, "used": 5, "remaining": 0,
        "reset_ms": NOW_MS + 2500, "wait_ms": 2500, **fields,
    }  # fmt: skip
    error = rate_limiter.refusal_of(Verdict(False, NOW_MS, blocker=Blocker(**whole)))  # type: ignore[arg-type]
    assert isinstance(error, RateLimitExceeded | InsufficientQuota)
    return error


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, b"0ms"), (999, b"999ms"), (1000, b"1s"), (1001, b"2s"), (59_001, b"1m0s"), (360_000, b"6m0s"),
        (3_600_000, b"1h0m0s"), (90_061_000, b"25h1m1s"),
    ],
)  # fmt: skip
def test_durations_are_written_as_openai_does(ms: int, text: bytes) -> None:
    """Milliseconds below a second, then whole seconds, rounded up."""
    assert rate_limiter.duration(ms) == text


def test_without_windows_there_are_no_headers() -> None:
    """Nothing is limited, so nothing is told."""
    assert rate_limiter.lines_of(Verdict(True, NOW_MS)) == b""
    assert lines_of() == {}


def test_the_headers_tell_the_tightest_window() -> None:
    """The plain three are of the tightest of all, OpenAI's names of the tightest of each dimension."""
    windows = (0, 100, 90, 500), (1, 1000, 0, 12_001), (0, 1000, 100, 3_600_000), (2, 10, 9, 0)
    assert lines_of(*windows) == {
        b"x-ratelimit-limit": b"1000",
        b"x-ratelimit-remaining": b"0",
        b"x-ratelimit-reset": b"1800000013",
        b"x-ratelimit-limit-requests": b"1000",
        b"x-ratelimit-remaining-requests": b"100",
        b"x-ratelimit-reset-requests": b"1h0m0s",
        b"x-ratelimit-limit-input-tokens": b"1000",
        b"x-ratelimit-remaining-input-tokens": b"0",
        b"x-ratelimit-reset-input-tokens": b"13s",
        b"x-ratelimit-limit-output-tokens": b"10",
        b"x-ratelimit-remaining-output-tokens": b"9",
        b"x-ratelimit-reset-output-tokens": b"0ms",
    }


def test_a_limit_of_zero_is_the_tightest() -> None:
    """It divides nothing by zero."""
    assert lines_of((0, 100, 1, 0), (1, 0, 0, 0), (1, 5, 1, 0))[b"x-ratelimit-limit"] == b"0"


def test_a_full_window_is_rate_limit_exceeded() -> None:
    """With the numbers, and a Retry-After rounded up to whole seconds."""
    error = refusal()
    assert (error.status, error.code, error.error_type) == (429, "rate_limit_exceeded", "requests")
    assert error.details == {
        "limit_type": "window", "metric": "ai_requests", "limit": 5, "used": 5, "remaining": 0,
        "reset_at": "2027-01-15T08:00:03+00:00",
    }  # fmt: skip
    assert (b"retry-after", b"3") in headers_of(error)
    assert b"x-should-retry" not in dict(headers_of(error))


@pytest.mark.parametrize("limit_type", ["window", "concurrency", "quota"])
@pytest.mark.parametrize("wait_ms", [None, 1000])
def test_a_refusal_says_which_kind_of_limit_it_was(limit_type: str, wait_ms: int | None) -> None:
    """In the body and in a header: beside a used-up quota a window may be as good as new."""
    error = refusal(limit_type=limit_type, wait_ms=wait_ms)
    assert error.details is not None
    assert error.details["limit_type"] == limit_type
    assert dict(headers_of(error))[b"x-sentinel-limited-by"] == limit_type.encode()


@pytest.mark.parametrize("windows", [(), ((0, 100, 90, 500),)])
@pytest.mark.parametrize("quota", [(5, 6, 7), (0, -1, 70), (-1, -1, 0), (9, -1, -1), (-1, 2**53, -1)])
def test_what_is_left_of_the_subscription_is_told(
    windows: tuple[tuple[int, int, int, int], ...], quota: tuple[int, int, int]
) -> None:
    """For each dimension that has a quota, with and without windows beside it."""
    policy = Policy(tuple(Window("w", d, limit, 60_000) for d, limit, _, _ in windows), None, 1, 1, 1)
    told = tuple(number for _, _, remaining, reset in windows for number in (remaining, NOW_MS + reset))
    verdict = Verdict(True, NOW_MS, policy=policy, windows=told, quota_remaining=quota)
    headers = dict(pairs_of(rate_limiter.lines_of(verdict)))
    names = (b"requests", b"input-tokens", b"output-tokens")
    expected = {
        b"x-sentinel-quota-remaining-" + name: b"%d" % left
        for name, left in zip(names, quota, strict=True)
        if left >= 0
    }
    assert {name: value for name, value in headers.items() if name.startswith(b"x-sentinel")} == expected
    assert (b"x-ratelimit-limit" in headers) is bool(windows)


@pytest.mark.parametrize(
    ("metric", "kind"), [("ai_requests", "requests"), ("concurrency", "requests"), ("ai_output_tokens", "tokens")]
)
def test_the_type_says_whether_requests_or_tokens_are_short(metric: str, kind: str) -> None:
    """As OpenAI does."""
    assert refusal(metric=metric).error_type == kind


def test_what_never_fits_is_not_to_be_retried() -> None:
    """A request larger than its window stays too large."""
    error = refusal(metric="ai_input_tokens", wait_ms=None)
    assert error.code == "rate_limit_exceeded"
    assert (b"x-should-retry", b"false") in headers_of(error)


@pytest.mark.parametrize("wait_ms", [None, 86_400_000])
def test_a_quota_that_is_used_up_is_insufficient_quota(wait_ms: int | None) -> None:
    """Clients are told not to retry, and when the period ends; never by a Retry-After, on which some would sleep."""
    error = refusal(limit_type="quota", wait_ms=wait_ms, reset_ms=0 if wait_ms is None else NOW_MS + wait_ms)
    assert (error.status, error.code, error.error_type) == (429, "insufficient_quota", "insufficient_quota")
    headers = dict(headers_of(error))
    assert headers[b"x-should-retry"] == b"false"
    assert b"retry-after" not in headers
    assert error.details is not None
    assert (error.details["reset_at"] is None) is (wait_ms is None)


def test_a_moment_beyond_all_calendars_is_not_told() -> None:
    """A period that Zion lets end in the year 100,000 is no crash."""
    error = refusal(limit_type="quota", reset_ms=10**18, wait_ms=10**18)
    assert error.details is not None
    assert error.details["reset_at"] is None


class _Ledger:
    """Shows one account, and takes whoever asks."""

    def __init__(self, **seen: object) -> None:
        policy = Policy((Window("w", 0, 5, 60_000),), 2, 1, 1, 1)
        fields: dict[str, object] = {
            "known": True, "now_ms": NOW_MS, "refresh": False, "seq": 0, "limit": (-1, 9, -1), "used": (7, 8, 7),
            "ends_ms": (0, 0, 0), "windows": (1, NOW_MS), "in_flight": 1, "policy": policy, **seen,
        }  # fmt: skip
        self.seen = View(**fields)  # type: ignore[arg-type]
        self.asked = 0

    async def view(self, user: str) -> View:
        return self.seen

    async def reserve(self, ask: Reservation) -> Verdict:
        self.asked += 1
        return Verdict(True, NOW_MS)


@pytest.mark.parametrize(
    ("seen", "asked"),
    [
        ({}, 0),
        ({"limit": (-1, -1, -1), "used": (10**9, 10**9, 10**9)}, 0),
        ({"used": (7, 9, 7)}, 1),
        ({"windows": (0, NOW_MS)}, 1),
        ({"in_flight": 2}, 1),
    ],
    ids=["something left", "no limit", "quota", "window", "concurrency"],
)
async def test_only_who_seems_to_have_nothing_left_is_judged(seen: dict[str, object], asked: int) -> None:
    """A look costs nothing; the verdict is a reservation, which may admit after all."""
    ledger = _Ledger(**seen)
    verdict = await rate_limiter.peek(Reservation("r", "ana", "", "", 1, 1), ledger, None, 1.0)  # type: ignore[arg-type]
    assert ledger.asked == asked
    assert (verdict is not None and verdict.admitted) == bool(asked)
