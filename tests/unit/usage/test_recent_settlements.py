"""What was settled right before a connection was lost is settled again, and nothing else."""

from __future__ import annotations

from sentinel.limits.policy import Cost, Reservation
from sentinel.usage.recent_settlements import MOST_REMEMBERED, REMEMBER_SECONDS, RecentSettlements, Settled


def settled(number: int, at: float, user: str = "ana") -> Settled:
    return Settled(at, round(at * 1000), Reservation(f"req_{number}", user, f"{user}@x.y", "m", 0, 0), Cost(1, 2, 3), 1)


def ids(recent: RecentSettlements[Settled]) -> list[str]:
    return [one.id for one in recent.at_risk()]


def test_nothing_is_at_risk_while_connections_stand() -> None:
    recent = RecentSettlements[Settled]()
    for second in range(10):
        recent.add(settled(second, float(second)))
        recent.watch((True, 1), float(second))
    assert not recent.are_at_risk
    assert len(recent) == 3


def test_the_last_seconds_before_a_loss_are_at_risk_until_settled_again() -> None:
    """By the moment of the loss: a second one later puts no more at risk than what came since."""
    recent = RecentSettlements[Settled]()
    recent.watch((True, 1), 10.0)
    for number, at in enumerate((10.0 - REMEMBER_SECONDS - 0.1, 8.0, 9.9)):
        recent.add(settled(number, at))
    recent.watch((False, 1), 60.0)
    assert ids(recent) == ["req_1", "req_2"]
    recent.watch((True, 2), 61.0)
    recent.settled_again(recent.at_risk()[:1])
    assert ids(recent) == ["req_2"]


def test_a_connection_that_was_made_anew_between_two_looks_shows() -> None:
    recent = RecentSettlements[Settled]()
    recent.watch((True, 1), 10.0)
    recent.add(settled(1, 10.1))
    recent.watch((True, 2), 10.2)
    assert ids(recent) == ["req_1"]


def test_what_redis_was_not_there_for_is_at_risk_at_once() -> None:
    """However long ago it was when a connection stands again."""
    recent = RecentSettlements[Settled]()
    recent.watch((False, 1), 10.0)
    recent.missed(settled(1, 10.1))
    recent.watch((True, 2), 600.0)
    assert ids(recent) == ["req_1"]


def test_what_redis_has_lost_for_good_is_not_settled_again() -> None:
    recent = RecentSettlements[Settled]()
    recent.watch((True, 1), 10.0)
    recent.add(settled(1, 10.1, "ana"))
    recent.add(settled(2, 10.1, "bo"))
    recent.watch((True, 2), 10.2)
    recent.forget(lambda user: user == "ana")
    assert ids(recent) == ["req_2"]
    recent.watch((True, 3), 10.3)
    assert ids(recent) == ["req_2"]


def test_what_is_remembered_has_a_bound() -> None:
    """Losses that follow one another put no more at risk than that; the oldest are forgotten first."""
    recent = RecentSettlements[Settled]()
    recent.watch((True, 1), 10.0)
    for loss in range(2):
        for number in range(MOST_REMEMBERED):
            recent.add(settled(loss * MOST_REMEMBERED + number, 10.0 + loss))
        recent.watch((True, 2 + loss), 10.5 + loss)
    assert ids(recent) == [f"req_{MOST_REMEMBERED + number}" for number in range(MOST_REMEMBERED)]
