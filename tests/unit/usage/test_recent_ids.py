"""What happened lately is known for as long as the clock goes on, and no longer."""

from __future__ import annotations

from sentinel.usage.recent_ids import REMEMBER_SECONDS, RecentIds


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def remembering() -> tuple[Clock, RecentIds[int]]:
    clock = Clock()
    return clock, RecentIds(clock=clock)


def test_it_is_forgotten_although_nothing_else_happens() -> None:
    """The bound is a time, not the next event."""
    clock, memory = remembering()
    memory.add([1, 2])
    clock.now += 2 * REMEMBER_SECONDS + 1
    memory.age()
    assert 1 not in memory
    assert len(memory) == 0


def test_it_is_known_for_long_enough() -> None:
    """However often somebody looks, and whatever else happens."""
    clock, memory = remembering()
    for number in range(200):
        memory.add([number])
        clock.now += REMEMBER_SECONDS / 10
        memory.age()
        assert all(recent in memory for recent in range(max(0, number - 8), number + 1))
        assert number < 31 or number - 31 not in memory


def test_many_are_asked_for_at_once() -> None:
    """Whether they were remembered lately or before that."""
    clock, memory = remembering()
    memory.add([1])
    clock.now += REMEMBER_SECONDS + 1
    memory.age()
    memory.add([2])
    assert memory.has_any([0, 1])
    assert memory.has_any([2, 3])
    assert not memory.has_any([0, 3])


def test_time_that_nobody_counts_does_not_pass() -> None:
    """While Redis is away nothing ages: when it is back, what was right before counts."""
    clock, memory = remembering()
    memory.add([1])
    clock.now += 10_000
    assert 1 in memory
