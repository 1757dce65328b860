"""What Zion has taken of a batch is found out from what it has booked, without ever being wrong about it."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from sentinel.limits.policy import FREE, ByDimension, Cost
from sentinel.steps import at_once
from sentinel.usage.batch import Item
from sentinel.usage.unconfirmed import MOST_QUESTIONS, UnconfirmedItems

USERS = [f"u{number}" for number in range(12)]
STRANGE = 1_000_003
"""What a stranger spends at once: no sum of items is so large."""

spents = st.builds(Cost, st.integers(0, 2), st.integers(0, 50), st.integers(0, 50)).filter(any)


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[Item], int, dict[str, Cost]]:
    """A batch, how much of its head Zion took, and what each user has used now."""
    before = {user: draw(st.one_of(st.none(), st.tuples(*[st.integers(0, 900)] * 3))) for user in USERS}
    users = draw(st.lists(st.sampled_from(USERS), min_size=1, max_size=30))
    items = [Item(0, user, f"{user}@x.y", f"m{place}", 0, [], draw(spents)) for place, user in enumerate(users)]
    taken = draw(st.integers(0, len(items)))
    used = {user: Cost(*(told or (0, 0, 0))) for user, told in before.items()}
    for place, item in enumerate(items):
        item.before = before[item.user]
        if place < taken:
            used[item.user] = used[item.user].plus(item.spent)
    for stranger in draw(st.sets(st.sampled_from(USERS), max_size=3)):
        used[stranger] = used[stranger].plus(draw(st.sampled_from([Cost(0, STRANGE, 0), Cost(1, STRANGE, STRANGE)])))
    return items, taken, used


ALL = (True, True, True)


def found(
    items: list[Item], used: Mapping[str, ByDimension], told: dict[str, tuple[bool, bool, bool]] | None = None
) -> tuple[list[bool | None], int]:
    found_out, questions = at_once(UnconfirmedItems.of(items)), 0
    while (user := found_out.next_user()) is not None:
        questions += 1
        found_out.tell(user, used[user], (told or {}).get(user, ALL))
    return found_out.taken(), questions


@given(stories(), st.dictionaries(st.sampled_from(USERS), st.tuples(st.booleans(), st.just(True), st.booleans())))
def test_it_is_never_wrong(
    story: tuple[list[Item], int, dict[str, ByDimension]], told: dict[str, tuple[bool, bool, bool]]
) -> None:
    """Whatever is not known of users and metrics, and whatever strangers spend: what it says for sure is so."""
    items, taken, used = story
    seen = {user: tuple(n if t else 0 for n, t in zip(used[user], told.get(user, ALL), strict=True)) for user in used}
    each, questions = found(items, seen, told)  # type: ignore[arg-type]
    assert all(told is None or told == (place < taken) for place, told in enumerate(each))
    assert questions <= MOST_QUESTIONS


@given(st.lists(spents, min_size=1, max_size=1000), st.data())
def test_it_finds_out(each: list[Cost], data: st.DataObject) -> None:
    """Where each user's numbers are known and nobody else spends, two dozen questions settle a thousand items."""
    items = [Item(0, f"u{place}", "", "", 0, [], spent, before=(5, 5, 5)) for place, spent in enumerate(each)]
    taken = data.draw(st.integers(0, len(items)))
    used = {item.user: Cost(5, 5, 5).plus(item.spent if place < taken else FREE) for place, item in enumerate(items)}
    answers, questions = found(items, used)
    assert answers == [True] * taken + [False] * (len(items) - taken)
    assert questions <= MOST_QUESTIONS


def test_all_or_nothing_takes_two_questions() -> None:
    """What mostly happened is found out at once."""
    items = [Item(0, f"u{place}", "", "", 0, [], Cost(1, 1, 1), before=(0, 0, 0)) for place in range(1000)]
    assert found(items, dict.fromkeys((item.user for item in items), (1, 1, 1)))[1] == 1
    assert found(items, dict.fromkeys((item.user for item in items), (0, 0, 0)))[1] == 2


def test_one_user_with_two_items() -> None:
    """Two items of one user that differ in their model are told apart by their sums."""
    items = [Item(0, "ana", "", model, 0, [], Cost(1, 10, 5), before=(3, 30, 30)) for model in ("a", "b")]
    for taken, used in enumerate([(3, 30, 30), (4, 40, 35), (5, 50, 40)]):
        assert found(items, {"ana": used})[0] == [taken > 0, taken > 1]


def test_too_little_growth_is_a_no_whoever_else_spends() -> None:
    """A stranger's spending does not hide that ours is not there yet."""
    items = [Item(0, "ana", "", "", 0, [], Cost(1, 100, 100), before=(0, 0, 0))]
    assert found(items, {"ana": (5, 99, 400)})[0] == [False]


def test_a_new_period_tells_nothing() -> None:
    """Numbers that went down say neither yes nor no."""
    items = [Item(0, "ana", "", "", 0, [], Cost(1, 10, 10), before=(7, 70, 70))]
    assert found(items, {"ana": (0, 0, 0)})[0] == [None]


def test_an_item_that_was_refused_in_the_middle_shows() -> None:
    """What Zion refused by itself, before it came to the others, is told again."""
    items = [Item(0, user, "", "", 0, [], Cost(1, 10, 10), before=(0, 0, 0)) for user in ("ana", "bo", "cy")]
    used: dict[str, ByDimension] = {"ana": (1, 10, 10), "bo": (0, 0, 0), "cy": (1, 10, 10)}
    assert found(items, used)[0] == [True, False, True]


def test_neighbours_decide_for_those_whose_numbers_tell_nothing() -> None:
    """Before one that was taken all were reached, behind one that was not reached none was."""
    items = [Item(0, user, "", "", 0, [], Cost(1, 10, 10), before=(0, 0, 0)) for user in "abcdef"]
    used: dict[str, ByDimension] = dict.fromkeys("abcdef", (9, 99, 99)) | {"b": (1, 10, 10), "e": (0, 0, 0)}
    assert found(items, used)[0] == [True, True, None, None, False, False]


def test_metrics_that_are_not_in_the_subscription_say_nothing() -> None:
    """Zion tells of the requests alone: what it does not tell of is no sign that nothing was taken."""
    spent = [Cost(1, 21, 4), Cost(2, 34, 22), Cost(1, 15, 6)]
    items = [Item(0, "ana", "ana@x.y", f"m{place}", 0, [], each, before=(0, 0, 0)) for place, each in enumerate(spent)]
    found_out = at_once(UnconfirmedItems.of(items))
    found_out.tell("ana", (4, 0, 0), (True, False, False))
    assert found_out.taken() == [True, True, True]
    assert [answer and answer.used for answer in found_out.answers()] == [(4, -1, -1)] * 3


def test_in_the_middle_the_user_nearest_to_it_is_asked() -> None:
    """Where many users' last and first items tell nothing, halving finds the border."""
    items = [Item(0, f"u{place}", "", "", 0, [], Cost(1, 1, 1), before=(0, 0, 0)) for place in range(200)]
    used: dict[str, ByDimension] = {
        item.user: (1, 1, 1) if place < 77 else (0, 0, 0) for place, item in enumerate(items)
    }
    each, questions = found(items, used)
    assert each == [True] * 77 + [False] * 123
    assert 2 < questions <= MOST_QUESTIONS


def test_an_item_of_nothing_shows_nowhere() -> None:
    """It is neither taken nor not by the numbers of its user alone."""
    items = [Item(0, "ana", "", "m", 0, [], Cost(0, 0, 0), before=(3, 3, 3))]
    assert found(items, {"ana": (3, 3, 3)})[0] == [None]


def test_a_user_of_whom_nothing_is_said_stays_unknown() -> None:
    """Zion does not know the address, or tells of no metric."""
    items = [Item(0, "ana", "", "m", 0, [], Cost(1, 1, 1), before=(3, 3, 3))]
    for used, told in ((None, ALL), ((4, 4, 4), (False, False, False))):
        found_out = at_once(UnconfirmedItems.of(items))
        found_out.tell("ana", used, told)
        assert found_out.taken() == [None]
