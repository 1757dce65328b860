"""The steps of a delivery are spread over the time until the next one, and a delivery that is behind does not wait."""

from __future__ import annotations

import pytest

from sentinel.usage.pacer import Pacer


class Time:
    """A clock that only `pause` moves."""

    now = 1000.0

    def clock(self) -> float:
        return self.now

    def pacer(self) -> Pacer:
        return Pacer(1.0, self.clock, self.pause)

    async def pause(self, seconds: float) -> None:
        self.now += seconds

    async def delivery(self, of: Pacer, steps: int) -> float:
        """The seconds that a delivery of so many steps takes."""
        began = self.now
        of.begin()
        for _ in range(steps):
            await of.step()
        return self.now - began


@pytest.fixture
def time() -> Time:
    return Time()


async def test_many_steps_fill_most_of_the_time_and_no_more(time: Time) -> None:
    of = time.pacer()
    for steps in (100, 100, 1000, 1000):
        assert await time.delivery(of, steps) <= 0.8 + 1e-9
    assert await time.delivery(of, 1000) == pytest.approx(0.8)
    # A tenth of the steps of the last time: as far apart as those were.
    assert await time.delivery(of, 100) == pytest.approx(0.08)
    assert await time.delivery(of, 100) == pytest.approx(0.8)


async def test_few_steps_are_soon_done(time: Time) -> None:
    of = time.pacer()
    assert await time.delivery(of, 1) <= 0.02
    assert await time.delivery(of, 3) <= 0.06


async def test_whoever_is_behind_or_stops_does_not_wait(time: Time) -> None:
    of = time.pacer()
    await time.delivery(of, 100)
    of.begin()
    time.now += 0.8
    late = time.now
    await of.step()
    of.begin()
    of.hurry()
    await of.step()
    assert time.now == late
