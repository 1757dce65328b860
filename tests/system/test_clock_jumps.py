"""The wall clock of Sentinel, of Redis, or of both jumps: streams go on, limits hold and open again, all is billed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.support.clocks import WallClock
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post, send
from tests.support.waiting import wait_until
from tests.system.test_command_serve import open_stream

HOUR = 3600
YEARS = 10 * 365 * 24 * HOUR
JUMPS = [HOUR, 0, -HOUR, YEARS]
"""One after the other, each from where the last one led."""


@contextmanager
def jumping(who: str, folder: Path, **settings: str) -> Iterator[tuple[Stack, SentinelProcess, WallClock]]:
    """A stack in which the clock of `who` (sentinel, redis, both) can be turned."""
    clock = WallClock(folder / "clock")
    stack = Stack(**settings)
    if who != "sentinel":
        with clock.for_children():
            stack.store.start()
        stack.store.start = lambda *_: stack.store  # type: ignore[method-assign]  # It runs.
    with stack:
        yield stack, stack.sentinel(clock.environment if who != "redis" else {}), clock


@pytest.mark.parametrize("who", ["sentinel", "redis", "both"])
def test_a_quota_is_exact_over_jumps(tmp_path: Path, who: str) -> None:
    """Streams go on over each jump, the next request is served, all is booked once, and no more than allowed."""
    with jumping(who, tmp_path) as (stack, sentinel, clock):
        _, token = stack.user(limits={"ai_requests": 12}, reset_period=None)
        for done, seconds in enumerate(JUMPS):
            with open_stream(sentinel, token, "[[tokens=10 delay=0.05]]") as stream:
                clock.turn(seconds)
                assert stream.read().endswith(b"data: [DONE]\n\n")
            # A machine that is busy may miss the deadline of Redis, which costs nothing.
            wait_until(lambda: post(sentinel, token, chat("[[tokens=10]]")).status == 200, "an answer")
            assert send(sentinel, "GET", "/health/ready").status == 200
            assert stack.booked(2 * done + 2)["ai_output_tokens"] == 20 * (done + 1)
        statuses = [post(sentinel, token, chat("[[tokens=10]]")).status for _ in range(6)]
        assert statuses == [200] * 4 + [429] * 2
        assert stack.booked(12)["ai_output_tokens"] == 120
        assert sentinel.stop() == 0


@pytest.mark.parametrize("who", ["sentinel", "redis", "both"])
def test_a_window_opens_again_after_a_jump(tmp_path: Path, who: str) -> None:
    """Nobody is kept out for an hour because a clock went back by one, nor let in without a limit."""
    with jumping(who, tmp_path, RATE_LIMITS="ai_requests=3/2s") as (stack, sentinel, clock):
        _, token = stack.user()
        statuses: list[int] = []

        def admitted() -> bool:
            statuses.append(post(sentinel, token, chat("[[tokens=1]]")).status)
            return statuses[-1] == 200

        for seconds in JUMPS:
            clock.turn(seconds)
            statuses.clear()
            wait_until(lambda: not admitted(), "the limit")
            wait_until(admitted, "an open window")
            # As above: Redis may be late for once.
            assert set(statuses) - {503} == {200, 429}


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, YEARS])
def test_reservations_of_the_dead_return_after_a_jump(tmp_path: Path, seconds: int) -> None:
    """The lease of a killed process ends although the clock of Redis jumps meanwhile."""
    settings = {"LEASE_SECONDS": "1", "RATE_LIMITS": "concurrency=1"}
    with jumping("redis", tmp_path, **settings) as (stack, sentinel, clock):
        _, token = stack.user()
        with open_stream(sentinel, token, "[[tokens=900 delay=0.05]]"):
            sentinel.kill()
        clock.turn(seconds)
        second = stack.sentinel()
        wait_until(lambda: post(second, token, chat("[[tokens=1]]")).status == 200, "a free slot")


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_token_is_forgotten_after_a_jump(tmp_path: Path, seconds: int) -> None:
    """A token that Zion knows no more is refused within its time, and an hour of a clock that went back at most."""
    with jumping("both", tmp_path, JWT_CACHE_TTL_SECONDS="1") as (stack, sentinel, clock):
        _, token = stack.user()
        assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
        clock.turn(seconds)
        assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
        with redis.Redis(port=stack.store.port) as store:
            left_ms = [store.pttl(key) for key in store.scan_iter("jwt:*")]
        assert all(left <= (HOUR + 3601) * 1000 for left in left_ms)
