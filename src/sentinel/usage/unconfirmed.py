"""Which items of an unconfirmed batch were booked, found out from what the governance has booked. Decisions only.

A user's numbers tell if nobody else spends from the same subscription meanwhile: `used` has grown by exactly the sum of
the user's first items. Growth that is too small for an item says that it was not taken, whoever else spends. Anything
else tells nothing; then its neighbours decide, for items are booked in their order (docs/zion.md).
Of a large batch only as many users are asked as it takes to find the place where that stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from sentinel.governance.port import PlainAnswer
from sentinel.limits.policy import FREE, ByDimension
from sentinel.steps import Steps, in_portions
from sentinel.usage.batch import Item

MOST_QUESTIONS = 24
"""A batch of so many users is asked for in full: then items that were refused one by one show, too. Halving 1,000
items takes 10 answers that tell something; the rest is for those that do not."""


class UnconfirmedItems:
    """Questions out, answers in: ask for `next_user`, tell `used`, until there is nobody left to ask."""

    def __init__(self, items: Sequence[Item], places: dict[str, list[int]], askable: dict[int, str]) -> None:
        self._items = items
        self._told: list[bool | None] = [None] * len(items)
        self._used: dict[str, ByDimension] = {}
        self._questions = MOST_QUESTIONS
        self._places = places
        self._ask_all = len(places) <= MOST_QUESTIONS
        self._askable = askable

    @classmethod
    def of(cls, items: Sequence[Item]) -> Steps[Self]:
        """Those of a batch. Nobody is asked about of whom it is not known what was booked before."""
        places: dict[str, list[int]] = {}
        unknown: set[str] = set()
        for portion in in_portions(range(len(items))):
            for place in portion:
                item = items[place]
                places.setdefault(item.user, []).append(place)
                if item.before is None:
                    unknown.add(item.user)
            yield
        return cls(items, places, {place: item.user for place, item in enumerate(items) if item.user not in unknown})

    def taken(self) -> list[bool | None]:
        """Of each item whether it was booked; None = nobody knows."""
        last, end = self._span()
        return [
            told if told is not None else True if place < last else False if place >= end else None
            for place, told in enumerate(self._told)
        ]

    def answers(self) -> list[PlainAnswer | None]:
        """What would have been said to each item, as far as its user was asked for."""
        return [
            PlainAnswer(True, used=self._used[item.user]) if told and item.user in self._used else None
            for item, told in zip(self._items, self._told, strict=True)
        ]

    def _span(self) -> tuple[int, int]:
        """Booking came beyond the item before the first place, and not to the second place."""
        last = max((place for place, told in enumerate(self._told) if told), default=-1)
        after = (place for place in range(last + 1, len(self._told)) if self._told[place] is False)
        return last + 1, next(after, len(self._told))

    def next_user(self) -> str | None:
        """Whose `used` would tell most now; None when all is known, or nobody is left to ask."""
        start, end = (0, len(self._told)) if self._ask_all else self._span()
        places = [place for place in self._askable if start <= place < end]
        if not places or self._questions == 0:
            return None
        # All or nothing is what mostly happened, and the last and the first item tell which.
        if end == len(self._told):
            return self._askable[places[-1]]
        if start == 0:
            return self._askable[places[0]]
        middle = (start + end - 1) / 2
        return self._askable[min(places, key=lambda place: abs(place - middle))]

    def tell(self, user: str, used: ByDimension | None, told: Sequence[bool] = (True, True, True)) -> None:
        """Take what the user is said to have used now, of the metrics that are told; None = nothing is said."""
        self._questions -= 1
        places = self._places[user]
        for place in places:
            self._askable.pop(place, None)
        before = self._items[places[0]].before
        known = [d for d in range(3) if told[d]]
        if used is None or before is None or not known:
            return
        requests, inputs, outputs = (used[d] if told[d] else -1 for d in range(3))
        self._used[user] = (requests, inputs, outputs)
        growth = [used[d] - before[d] for d in known]
        if min(growth) < 0:
            # The period has ended, or somebody has corrected the numbers.
            return
        total = FREE
        for number, place in enumerate(places):
            total = total.plus(self._items[place].spent)
            needed = [total[d] for d in known]
            if not any(self._items[place].spent[d] for d in known):
                # It would not show.
                continue
            if growth == needed:
                for earlier in places[: number + 1]:
                    self._told[earlier] = True
            elif any(grown < least for grown, least in zip(growth, needed, strict=True)):
                self._told[place] = False
