"""What waits for Zion goes in an order in which nothing stops the rest."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from sentinel.limits.policy import Cost
from sentinel.usage.batch import Item
from sentinel.usage.scheduler import (
    GIVE_UP_AFTER,
    ISOLATION_SECONDS,
    MOST_FAILING,
    MOST_ISOLATED,
    HeldBatch,
    Scheduler,
    backoff_seconds,
)


def item(user: str = "ana", model: str = "m", entries: int = 1) -> Item:
    return Item(0, user, f"{user}@x.y", model, 0, [f"{n}-0" for n in range(entries)], Cost(entries, 1, 1), 5)


def queue(*items: Item) -> Scheduler:
    keys = count()
    made = Scheduler(lambda: f"key{next(keys)}")
    made.add(items, 0.0)
    return made


def users(held: HeldBatch | None) -> list[str]:
    return [item.user for item in held.batch.items] if held else []


def fail(queue: Scheduler, held: HeldBatch, now: float = 0.0, *, unconfirmed: bool = False) -> None:
    queue.failed(held, now, unconfirmed=unconfirmed, at_least=0.0, jitter=0.5)


def test_all_that_waits_goes_together() -> None:
    """Loose items make one batch, up to what Zion takes."""
    made = queue(item("ana"), item("bo"), item("cy"))
    assert users(made.next(0.0, 2)) == ["ana", "bo"]
    assert [item.user for item in made.loose] == ["cy"]


def test_a_batch_that_is_unconfirmed_stops_all_others() -> None:
    """Until it is known what Zion took, nothing else is sent: it may be about the same user."""
    made = queue(item("ana"))
    held = made.next(0.0)
    assert held is not None
    fail(made, held, unconfirmed=True)
    made.add([item("ana")], 0.0)
    assert made.next(0.0) is None
    assert made.next(held.due) is held


def test_nothing_new_is_read_while_a_failure_is_looked_into() -> None:
    """Until it is found out, or has been tried often enough."""
    made = queue(item("ana"), item("bo"))
    held = made.next(0.0)
    assert held is not None
    may = []
    for _ in range(GIVE_UP_AFTER + 1):
        may.append(made.wants_more(0.0))
        fail(made, held)
    assert may == [True, *[False] * (GIVE_UP_AFTER - 1), True]


def test_old_and_new_take_turns() -> None:
    """A batch that fails for reasons nobody finds does not keep new ones from going, nor they it."""
    made = queue(item("ana"), item("bo"))
    failing = made.next(0.0)
    assert failing is not None
    for _ in range(GIVE_UP_AFTER):
        fail(made, failing)
    order = []
    for now in range(100, 106):
        fail(made, failing, now)
        made.failures = 0
        made.add([item("cy")], now)
        for _ in range(2):
            held = made.next(now + 50)
            assert held is not None
            order.append(users(held)[0])
            if held is not failing:
                made.taken(held)
    assert order.count("ana") == order.count("cy") == 6


def test_while_zion_fails_little_is_read() -> None:
    """A few batches are enough to find out when it is back."""
    made = queue()
    for number in range(MOST_FAILING):
        made.add([item(f"u{number}")], 0.0)
        held = made.next(0.0)
        assert held is not None
        for _ in range(GIVE_UP_AFTER):
            fail(made, held)
    assert not made.wants_more(0.0)
    made.taken(made.held[0])
    assert made.wants_more(0.0)


def test_pauses_grow_and_end_with_success() -> None:
    """Zion is left alone for longer and longer; one success ends that."""
    made = queue(item())
    held = made.next(0.0)
    assert held is not None
    pauses = []
    for _ in range(7):
        fail(made, held, 0.0)
        pauses.append(made.pause_until)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    made.taken(held)
    assert made.failures == 0


def test_who_fails_while_others_pass_is_suspect() -> None:
    """Two failures with a success of another between them; and its parts need but one more."""
    made = queue(item("ana"), item("bo"))
    held = made.next(0.0)
    assert held is not None
    fail(made, held, unconfirmed=True)
    once = held.suspect
    made.taken(made.hold([item("cy")]))
    fail(made, held, unconfirmed=True)
    assert (once, held.suspect) == (False, True)
    made.replace(held, [held.batch.items[:1], held.batch.items[1:]])
    first, second = made.held
    made.taken(first)
    fail(made, second, unconfirmed=True)
    assert second.suspect
    assert second.batch.key != held.batch.key


def test_who_spoils_batches_goes_alone() -> None:
    """Their items are taken out of what has not been sent, sum up while one is on its way, and stop nobody."""
    made = queue(item("ana"), item("bad"), item("bo"))
    held = made.next(0.0)
    assert held is not None
    assert [(h, [[i.user for i in part] for part in parts]) for h, parts in made.isolate("bad", 0.0)] == [
        (held, [["bad"], ["ana", "bo"]])
    ]
    made.replace(held, [[held.batch.items[1]], [held.batch.items[0], held.batch.items[2]]])
    assert users(made.next(0.0)) == ["ana", "bo"]
    made.taken(made.held[1])
    alone = made.next(0.0)
    assert users(alone) == ["bad"]
    assert alone is not None
    fail(made, alone, unconfirmed=True)
    assert (made.failures, made.pause_until) == (0, 0.0)
    for _ in range(3):
        made.add([item("bad"), item("cy")], 0.0)
    assert [i.user for i in made.loose] == ["bad", "cy", "cy", "cy"]
    assert made.loose[0].spent == (3, 3, 3)
    assert users(made.next(0.0)) == ["cy"] * 3
    assert made.next(0.0) is made.held[-1]


def test_being_apart_ends() -> None:
    """After a while everybody gets another chance."""
    made = queue()
    made.isolate("bad", 0.0)
    made.add([item("bad"), item("ana")], 700.0)
    assert users(made.next(700.0)) == ["bad", "ana"]


def test_the_one_that_failed_last_comes_last() -> None:
    """Of several that fail none is tried twice before the others."""
    made = queue()
    held = [made.hold([item(user)]) for user in ("ana", "bo", "cy")]
    order = []
    for now in range(100, 190, 15):
        one = made.next(now)
        assert one is not None
        order.append(held.index(one))
        fail(made, one, now)
    assert order == [0, 1, 2, 0, 1, 2]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_pauses_grow_up_to_a_bound(attempts: int, jitter: float) -> None:
    """Half a second to fifteen, never the same for two callers."""
    assert 0.25 <= backoff_seconds(attempts, jitter) <= 15
    assert backoff_seconds(attempts + 1, jitter) >= backoff_seconds(attempts, jitter)


def test_what_is_cleared_is_to_be_read_again() -> None:
    """Nothing is held then, and nothing loose."""
    made = queue(item("ana"))
    assert made.next(0.0) is not None
    made.add([item("bo")], 0.0)
    left = made.empty
    made.clear()
    assert (left, made.empty, made.next(0.0)) == (False, True, None)


def test_who_is_isolated_is_taken_out_of_what_is_held() -> None:
    """Each of their items is alone, others stay together; a batch without them, or that was sent, stays as it is."""
    made = queue()
    mixed = made.hold([item("ana", "m1"), item("bo"), item("ana", "m2")])
    only = made.hold([item("ana", "m3"), item("ana", "m4")])
    made.hold([item("bo"), item("cy")])
    made.hold([item("ana")])
    sent = made.hold([item("ana"), item("bo")])
    fail(made, sent, unconfirmed=True)
    spoilt = made.isolate("ana", 0.0)
    assert [(held, [[one.model for one in part] for part in parts]) for held, parts in spoilt] == [
        (mixed, [["m1"], ["m2"], ["m"]]),
        (only, [["m3"], ["m4"]]),
    ]


def test_only_so_many_are_isolated_at_once() -> None:
    """Were there more, it would not be about users; one whose time is over makes room."""
    made = queue()
    for number in range(MOST_ISOLATED):
        made.isolate(f"u{number}", 0.0)
    held = made.hold([item("ana"), item("bo")])
    assert made.isolate("ana", 0.0) == []
    assert [found for found, _ in made.isolate("ana", ISOLATION_SECONDS)] == [held]
