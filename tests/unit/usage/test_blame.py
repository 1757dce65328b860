"""Whether an item is refused, or everything."""

from __future__ import annotations

from sentinel.usage.blame import OUTAGE_SECONDS, Blame


def test_one_user_who_is_refused_is_at_fault() -> None:
    """However often, and whoever passes or does not."""
    blame = Blame()
    for now in range(5):
        blame.refused("ana", now)
    assert not blame.is_outage(5)


def test_several_users_who_are_refused_are_not() -> None:
    """As long as nobody passes, but for an hour at most."""
    blame = Blame()
    blame.refused("ana", 10)
    blame.refused("bo", 20)
    blame.refused("cy", 30)
    assert blame.is_outage(30)
    assert blame.is_outage(10 + OUTAGE_SECONDS - 1)
    assert not blame.is_outage(10 + OUTAGE_SECONDS)


def test_somebody_who_passes_ends_it() -> None:
    """Then it is their own fault, until it looks like an outage again."""
    blame = Blame()
    blame.refused("ana", 10)
    blame.refused("bo", 20)
    blame.passed()
    assert not blame.is_outage(21)
    blame.refused("ana", 22)
    assert not blame.is_outage(22)
    blame.refused("bo", 23)
    assert blame.is_outage(22 + OUTAGE_SECONDS - 1)
