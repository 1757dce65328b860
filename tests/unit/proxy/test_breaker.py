"""When a target is left alone, for how long, and who may try it again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sentinel.proxy.breaker import (
    FAILURES,
    FIRST_SECONDS,
    MOST_RETRY_AFTER_SECONDS,
    MOST_SECONDS,
    PROBE_SECONDS,
    Breaker,
)


def opened(now: float = 100.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert not breaker.open_until
        assert breaker.enter(now) == 0
        breaker.failed(now)
    return breaker


def test_five_failures_in_a_row_open_it() -> None:
    """The fifth says so; nobody goes there for ten seconds."""
    breaker = Breaker()
    assert [breaker.failed(100.0) for _ in range(5)] == [False, False, False, False, True]
    assert (breaker.open_until, breaker.wait_seconds(100.0)) == (110.0, FIRST_SECONDS)


def test_a_success_between_them_does_not() -> None:
    """Only failures in a row count."""
    breaker = Breaker()
    for _ in range(10):
        assert [breaker.failed(100.0) for _ in range(4)] == [False] * 4
        breaker.succeeded()
    assert not breaker.open_until
    assert breaker.wait_seconds(100.0) == 0


def test_one_at_a_time_tries_it_again() -> None:
    """Its success closes it for all."""
    breaker = opened()
    assert breaker.wait_seconds(110.0) == 0
    probe = breaker.enter(110.0)
    assert breaker.wait_seconds(110.0) == PROBE_SECONDS
    breaker.succeeded(probe)
    assert (breaker.open_until, breaker.enter(110.0), breaker.wait_seconds(110.0)) == (0, 0, 0)


def test_only_the_last_probe_counts() -> None:
    """One that has told nothing for so long that another tries may end as it will."""
    breaker = opened()
    first = breaker.enter(110.0)
    second = breaker.enter(110.0 + PROBE_SECONDS)
    assert not breaker.failed(141.0, probe=first)
    breaker.left(first)
    breaker.succeeded(first)
    assert breaker.wait_seconds(141.0) == PROBE_SECONDS - 1
    breaker.succeeded(second)
    assert not breaker.open_until


def test_what_was_on_its_way_is_no_probe() -> None:
    """Its client's leaving lets nobody else try, its failure opens nothing for longer."""
    breaker = opened()
    assert breaker.enter(110.0)
    breaker.left()
    assert not breaker.failed(110.0)
    assert breaker.wait_seconds(110.0) == PROBE_SECONDS


def test_its_failure_doubles_the_time() -> None:
    """Up to a minute; after a success it begins anew."""
    breaker, now, waits = opened(), 100.0, []
    for _ in range(5):
        waits.append(breaker.wait_seconds(now))
        now += waits[-1]
        assert breaker.failed(now, probe=breaker.enter(now))
    assert waits == [10, 20, 40, MOST_SECONDS, MOST_SECONDS]
    now += MOST_SECONDS
    breaker.succeeded(breaker.enter(now))
    assert [breaker.failed(now) for _ in range(5)][-1]
    assert breaker.wait_seconds(now) == FIRST_SECONDS


def test_what_was_on_its_way_does_not_double_it() -> None:
    """A hundred requests that fail together are one outage, not seven."""
    breaker = Breaker()
    assert [breaker.failed(100.0) for _ in range(100)].count(True) == 1
    assert breaker.wait_seconds(100.0) == FIRST_SECONDS


def test_what_was_on_its_way_does_not_close_it() -> None:
    """It was sent before the provider said that it wants to be left alone."""
    breaker = Breaker()
    assert breaker.failed(100.0, 30.0)
    breaker.succeeded()
    assert breaker.wait_seconds(100.0) == 30


def test_a_provider_is_left_alone_as_long_as_it_says() -> None:
    """At once, and for ten minutes at most; after that one tries."""
    breaker = Breaker()
    assert breaker.failed(100.0, 20.0)
    assert breaker.wait_seconds(100.0) == 20
    assert breaker.failed(120.0, 86_400.0, breaker.enter(120.0))
    assert breaker.wait_seconds(120.0) == MOST_RETRY_AFTER_SECONDS


def test_an_earlier_moment_does_not_shorten_it() -> None:
    """Whoever says so last, the longest counts."""
    breaker = Breaker()
    breaker.failed(100.0, 60.0)
    assert not breaker.failed(101.0, 5.0)
    assert breaker.wait_seconds(101.0) == 59
    breaker.heard(130.0)
    assert breaker.wait_seconds(101.0) == 59


def test_no_time_to_wait_is_a_failure_like_any_other() -> None:
    """`Retry-After: 0` opens nothing by itself."""
    breaker = Breaker()
    assert [breaker.failed(100.0, 0.0) for _ in range(5)] == [False] * 4 + [True]


def test_a_probe_that_tells_nothing_lets_others_try() -> None:
    """Its client has left, or it takes too long."""
    breaker = opened()
    breaker.left(breaker.enter(110.0))
    assert breaker.wait_seconds(110.0) == 0
    assert breaker.enter(110.0)
    assert breaker.wait_seconds(110.0 + PROBE_SECONDS - 0.5) == 0.5
    assert breaker.wait_seconds(110.0 + PROBE_SECONDS) == 0


def test_what_another_process_has_found_counts() -> None:
    """Until then nobody goes there, then one."""
    breaker = Breaker()
    breaker.heard(105.0)
    assert (breaker.wait_seconds(104.0), breaker.wait_seconds(105.0)) == (1, 0)
    assert breaker.enter(105.0)
    assert breaker.wait_seconds(105.0) == PROBE_SECONDS


STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "succeeded", "failed", "left", "heard", "retry"]), st.floats(0.0, 90.0)),
    max_size=60,
)


@given(STEPS)
def test_it_always_opens_again_and_never_for_too_long(steps: list[tuple[str, float]]) -> None:
    """Whatever happens in whatever order."""
    breaker, now, probe = Breaker(), 1.0, 0
    for step, seconds in steps:
        now += seconds
        match step:
            case "enter":
                if breaker.wait_seconds(now) == 0:
                    probe = breaker.enter(now)
                    assert bool(probe) == bool(breaker.open_until)
            case "failed":
                breaker.failed(now, probe=probe)
            case "retry":
                breaker.failed(now, seconds * 20)
            case "heard":
                breaker.heard(now + seconds)
            case "left":
                breaker.left(probe)
            case _:
                breaker.succeeded(probe)
        assert 0 <= breaker.wait_seconds(now) < MOST_RETRY_AFTER_SECONDS + 1e-6
    now += MOST_RETRY_AFTER_SECONDS + 1
    assert breaker.wait_seconds(now) == 0
    breaker.succeeded(breaker.enter(now))
    assert not breaker.open_until
