"""Timeouts on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sentinel.server.timeouts import Timeouts

SECONDS = {"head_seconds": 10.0, "body_seconds": 30.0, "keep_alive_seconds": 75.0, "stall_seconds": 60.0}


class _Timer:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at, self.call, self.is_on = at, call, True

    def cancel(self) -> None:
        self.is_on = False


class _Loop:
    def __init__(self) -> None:
        self.now = 1.0
        self.timers: list[_Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, call: Callable[..., None], *args: Any) -> _Timer:
        self.timers.append(_Timer(self.now + seconds, lambda: call(*args)))
        return self.timers[-1]

    def turn(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.is_on and timer.at <= end]:
            timer = min(due, key=lambda timer: timer.at)
            self.timers.remove(timer)
            self.now = timer.at
            timer.call()
        self.now = end


class _Connection:
    """Connection, transport and flow in one; notes what is done to it."""

    def __init__(self) -> None:
        self.transport = self.flow = self
        self.read_paused = False
        self.unread = 100
        self.done: list[Any] = []

    def get_write_buffer_size(self) -> int:
        return self.unread

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def head_timed_out(self) -> None:
        self.done.append("head")

    def body_timed_out(self, request: Any) -> None:
        self.done.append(request)


@pytest.fixture
def parts() -> tuple[Any, Any, Any]:
    loop, connection = _Loop(), _Connection()
    return Timeouts(connection, loop, SECONDS), loop, connection  # type: ignore[arg-type]


def test_more_of_a_head_does_not_start_the_time_anew(parts: tuple[Any, Any, Any]) -> None:
    """Its first byte does, and its end stops it; time in which we do not read is not the client's."""
    timeouts, loop, connection = parts
    timeouts.start_head()
    timeouts.stop_head()
    loop.turn(20)
    timeouts.start_head()
    loop.turn(6)
    timeouts.start_head()
    connection.read_paused = True
    loop.turn(6)
    assert connection.done == []
    connection.read_paused = False
    loop.turn(10)
    assert connection.done == ["head"]


def test_the_rest_of_a_body_has_its_time(parts: tuple[Any, Any, Any]) -> None:
    """The connection is told whose; a later request's replaces it."""
    timeouts, loop, connection = parts
    timeouts.start_body("one")
    loop.turn(20)
    timeouts.start_body("two")
    loop.turn(40)
    assert connection.done == ["two"]


def test_idle_time_starts_anew_with_each_request(parts: tuple[Any, Any, Any]) -> None:
    """With one timer for all of them."""
    timeouts, loop, connection = parts
    for _ in range(10):
        timeouts.start_idle()
        loop.turn(70)
        timeouts.stop_idle()
    assert len(loop.timers) <= 1
    timeouts.start_idle()
    loop.turn(74)
    assert connection.done == []
    loop.turn(2)
    assert connection.done == ["close"]


def test_a_slow_reader_is_cut_off_without_progress(parts: tuple[Any, Any, Any]) -> None:
    """Not as long as it reads anything."""
    timeouts, loop, connection = parts
    timeouts.start_slow_read()
    connection.unread = 99
    loop.turn(61)
    assert connection.done == []
    loop.turn(60)
    assert connection.done == ["abort"]


def test_nothing_runs_on_a_closed_connection(parts: tuple[Any, Any, Any]) -> None:
    """Whatever was running."""
    timeouts, loop, connection = parts
    timeouts.start_head()
    timeouts.start_body("one")
    timeouts.start_idle()
    timeouts.start_slow_read()
    timeouts.close()
    loop.turn(1000)
    assert connection.done == []
