"""Services start in order and close in reverse, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from sentinel.lifecycle import LifeCycle, Service
from tests.support.waiting import PATIENCE_SECONDS


class Story:
    """Writes down what is done, in its order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.reached = asyncio.Event()

    def step(self, word: str, error: BaseException | None = None) -> Callable[[], Awaitable[None]]:
        async def tell() -> None:
            self.told.append(word)
            if error is not None:
                raise error

        return tell

    def loop(self, word: str) -> Callable[[], Coroutine[Any, Any, None]]:
        async def run() -> None:
            self.told.append(f"{word} runs")
            self.reached.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.told.append(f"{word} ends")

        return run

    def service(self, name: str, *, start: BaseException | None = None, close: Exception | None = None) -> Service:
        return Service(name, self.step(f"{name} starts", start), self.step(f"{name} closes", close))


async def test_services_start_in_order_and_close_in_reverse() -> None:
    """What started last may use all the others, so it closes first."""
    story = Story()
    life_cycle = LifeCycle([story.service("store"), Service("needs no step"), story.service("delivery")])
    await life_cycle.start()
    assert story.told == ["store starts", "delivery starts"]
    await life_cycle.close()
    assert story.told[2:] == ["delivery closes", "store closes"]
    await life_cycle.close()
    assert story.told[4:] == []


@pytest.mark.parametrize("error", [OSError("no"), asyncio.CancelledError()], ids=["an_error", "a_cancellation"])
async def test_a_start_that_fails_closes_what_had_started(error: BaseException) -> None:
    """Neither the service that failed nor those after it are closed: they have not started."""
    story = Story()
    services = [story.service("store"), story.service("cache"), story.service("zion", start=error)]
    life_cycle = LifeCycle([*services, story.service("never")])
    with pytest.raises(type(error)):
        await life_cycle.start()
    assert story.told == ["store starts", "cache starts", "zion starts", "cache closes", "store closes"]


async def test_a_close_that_fails_keeps_nothing_else_open() -> None:
    """The others close all the same, and nothing is raised at the end of a process."""
    story = Story()
    life_cycle = LifeCycle([story.service("store"), story.service("cache", close=OSError("no"))])
    await life_cycle.start()
    await life_cycle.close()
    assert story.told[2:] == ["cache closes", "store closes"]


async def test_a_loop_runs_from_its_service_s_start_until_it_has_closed() -> None:
    """Closing may need the loop: a deliverer says that it lives while it delivers the last usage."""
    story = Story()
    service = Service("delivery", story.step("starts"), story.step("closes"), {"heartbeat": story.loop("heartbeat")})
    life_cycle = LifeCycle([service])
    await life_cycle.start()
    await asyncio.wait_for(story.reached.wait(), PATIENCE_SECONDS)
    await life_cycle.close()
    assert story.told == ["starts", "heartbeat runs", "closes", "heartbeat ends"]


async def test_a_loop_that_fails_is_told_by_its_name() -> None:
    """To whoever counts failures, and to /health."""
    failed: list[str] = []
    told = asyncio.Event()

    def note(name: str) -> None:
        failed.append(name)
        told.set()

    async def fail() -> None:
        raise ValueError("not now")

    life_cycle = LifeCycle([Service("ledger", loops={"reaper": fail})], note)
    await life_cycle.start()
    await asyncio.wait_for(told.wait(), PATIENCE_SECONDS)
    assert (failed, life_cycle.failing) == (["reaper"], ["reaper"])
    await life_cycle.close()
    assert life_cycle.failing == []
