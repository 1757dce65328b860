"""Work in steps has the result that it has at once, and others have their turns meanwhile."""

from __future__ import annotations

import asyncio
import json

import pytest

from sentinel.steps import PORTION, Steps, at_once, in_portions, in_steps, json_list, let_go


def work(steps: int) -> Steps[int]:
    """So many steps."""
    for _ in range(steps):
        yield
    return steps


@pytest.mark.parametrize("steps", [0, 1, 5])
async def test_others_have_a_turn_after_each_step(steps: int) -> None:
    """As many as there are steps; the result is the same as at once."""
    turns = 0
    done = False

    async def count() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    result = await in_steps(work(steps))
    done = True
    assert (result, turns) == (at_once(work(steps)), steps)
    await counting


async def test_what_is_raised_in_a_step_is_raised_to_whoever_waits() -> None:
    """As if there were no steps."""

    def fail() -> Steps[None]:
        yield
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        await in_steps(fail())
    with pytest.raises(ValueError, match="enough"):
        at_once(fail())


@pytest.mark.parametrize("count", [0, 1, PORTION, PORTION + 1, 3 * PORTION])
def test_a_list_in_portions_is_the_whole_list(count: int) -> None:
    """Nothing is left out, nothing comes twice, and there is a pause after each portion."""
    things = list(range(count))
    assert [thing for portion in in_portions(things) for thing in portion] == things
    steps = list(json_list(things, lambda thing: {"n": thing}))
    assert len(steps) == -(-count // PORTION)
    assert json.loads(at_once(json_list(things, lambda thing: {"n": thing}))) == [{"n": thing} for thing in things]


@pytest.mark.parametrize("count", [0, 1, PORTION, 2 * PORTION + 1])
def test_what_is_let_go_is_gone(count: int) -> None:
    """A portion in each step."""
    things: list[object] = [object() for _ in range(count)]
    assert len(list(let_go(things))) == -(-count // PORTION)
    assert not things
