"""Waiting until something has come about: the one way with an event loop, and the one without."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""How long a test waits for what should come at once: a busy machine is no failure."""
AT_ONCE_SECONDS = 10.0
"""For what waits for nothing: even so a busy machine takes its time. What it must not wait for takes longer."""
_LOOK_SECONDS = 0.01


def wait_until(condition: Callable[[], T | None], what: str = "the condition", seconds: float = PATIENCE_SECONDS) -> T:
    """Look until the condition holds; return what it returned. Fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds} s"
        time.sleep(_LOOK_SECONDS)
    return found


@overload
async def until(
    condition: Callable[[], Awaitable[T | None]], what: str = "the condition", seconds: float = PATIENCE_SECONDS
) -> T: ...
@overload
async def until(
    condition: Callable[[], T | None], what: str = "the condition", seconds: float = PATIENCE_SECONDS
) -> T: ...
async def until(
    condition: Callable[[], object], what: str = "the condition", seconds: float = PATIENCE_SECONDS
) -> object:
    """`wait_until` for tests that have an event loop; the condition may be a coroutine function.

    One that does not end by itself is cut off when the time is over.
    """
    patience = asyncio.timeout(seconds)
    try:
        async with patience:
            while True:
                found = condition()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError:
        assert not patience.expired(), f"{what} did not come about within {seconds} s"
        raise
