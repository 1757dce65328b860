"""Work done in steps, so that whoever does much does not keep others waiting: the event loop goes on in between.

Such work is a generator that yields after each step. It knows no loop: `in_steps` does it in one, `at_once` anywhere.
A step is 0.3 ms at most (DESIGN section 15), on which a request would have to wait.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
R = TypeVar("R")

Steps = Generator[None, None, R]
"""Yields between its steps; returns the result."""

PORTION = 64
"""So many things are done in a step where each takes a microsecond or two."""


@types.coroutine
def in_steps(work: Steps[R]) -> Steps[R]:
    """Await the result of this work. A yield is to an event loop what `sleep(0)` is: a turn for everybody else."""
    return (yield from work)


def at_once(work: Steps[R]) -> R:
    """The result of this work, done without a pause."""
    try:
        while True:
            next(work)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def in_portions(things: Sequence[T], most: int = PORTION) -> Iterator[Sequence[T]]:
    """These things in their order, so many at a time."""
    for first in range(0, len(things), most):
        yield things[first : first + most]


def let_go(things: list[Any]) -> Steps[None]:
    """Empty this list: to free a thousand things takes as long as to make them."""
    while things:
        del things[-PORTION:]
        yield


def json_list(things: Sequence[T], form: Callable[[T], Any]) -> Steps[bytes]:
    """These things, each in this form, as a JSON array."""
    parts = []
    for portion in in_portions(things):
        parts.append(msgspec.json.encode([form(thing) for thing in portion])[1:-1])
        yield
    return b"[%b]" % b",".join(parts)
