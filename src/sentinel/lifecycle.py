"""The life cycle of a process: services start in order and close in reverse, each with the loops that belong to it.

A start that fails closes what had started. A close that fails is logged and keeps nothing else open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from sentinel.tasks import Tasks

log = structlog.get_logger()

Step = Callable[[], Awaitable[object]]
Loop = Callable[[], Coroutine[Any, Any, None]]


async def _nothing() -> None:
    """The step of a service that needs none."""


@dataclass(frozen=True, slots=True)
class Service:
    """One part of a process.

    start: ends when those that start later may use it. loops: background work by name, begun after `start`; a loop that
    ends with an error is started again. close: its loops still run while it is awaited, and are cancelled after it.
    """

    name: str
    start: Step = _nothing
    close: Step = _nothing
    loops: Mapping[str, Loop] = field(default_factory=dict)


class LifeCycle:
    """Services in the order in which they start. on_failure: told the name of a loop that has failed."""

    def __init__(self, services: Sequence[Service], on_failure: Callable[[str], None] = lambda _: None) -> None:
        self._services = services
        self._on_failure = on_failure
        self._started: list[tuple[Service, Tasks]] = []

    async def start(self) -> None:
        """Start all services, each after those before it. Raises what a start raises, with nothing left running."""
        try:
            for service in self._services:
                await service.start()
                tasks = Tasks(self._on_failure)
                self._started.append((service, tasks))
                for name, loop in service.loops.items():
                    tasks.keep(loop, name)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close what has started, the last one first."""
        while self._started:
            service, tasks = self._started.pop()
            try:
                await service.close()
            except Exception:
                log.exception("a service did not close well", service=service.name)
            finally:
                await tasks.cancel()

    @property
    def failing(self) -> list[str]:
        """The loops that have failed in the last minute."""
        return sorted(name for _, tasks in self._started for name in tasks.failing)
