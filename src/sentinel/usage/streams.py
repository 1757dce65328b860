"""Redis' streams as entries and records: outboxes and dead letters have the same form."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import structlog

from sentinel.cache import keys
from sentinel.cache.redis import Store
from sentinel.error import RedisRefused
from sentinel.steps import in_portions
from sentinel.usage.batch import Record

log = structlog.get_logger()

_AT_ONCE = 8
"""To make so many calls to Redis, and to read what they bring, takes 0.1 ms each."""

T = TypeVar("T")
R = TypeVar("R")


def read_record(partition: int, entry: bytes, fields: Mapping[bytes, bytes]) -> Record | None:
    """The record; None, and a line in the log, for something that others have put there."""
    try:
        record = Record.read(partition, entry, fields)
    except (KeyError, ValueError, ArithmeticError, RecursionError, struct.error) as error:
        # Not the error's words: they may be what stands there.
        log.warning("no usage record", partition=partition, entry=entry.decode(), reason=type(error).__name__)
        return None
    if keys.partition_of(record.user) != partition:
        # Dropped by its user's keys it would never go.
        log.error("a usage record of another partition", partition=partition, entry=entry.decode())
        return None
    return record


def pairs(answer: Any) -> dict[bytes, bytes]:
    """A map, which comes as a flat list from a single Redis and as a dict from redis-py."""
    if isinstance(answer, dict):
        return answer
    values = iter(answer or ())
    return dict(zip(values, values, strict=True))


def rows(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of an XRANGE answer."""
    return [(entry, pairs(fields)) for entry, fields in answer or ()]


def first_stream(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of the one stream of an XREADGROUP answer."""
    return rows(answer[0][1]) if answer else []


async def length(store: Store, stream: bytes) -> int:
    """How many entries there are; 0 for a key of another type. Raises RedisUnavailable."""
    try:
        return int(await store.command("XLEN", stream))
    except RedisRefused:
        return 0


async def lengths(store: Store, streams: Sequence[bytes]) -> list[int]:
    """The same of many; the replies are waited for as they are, for a coroutine around each would be a task."""
    return list(map(_length_in, await ask_each(lambda stream: store.command("XLEN", stream), streams)))


async def ask_each(ask: Callable[[T], Awaitable[R]], things: Sequence[T]) -> list[R | BaseException]:
    """What is answered to this question about each of these things, or raised; a few are asked about at a time."""
    answers = list[R | BaseException]()
    for portion in in_portions(things, _AT_ONCE):
        answers += await asyncio.gather(*map(ask, portion), return_exceptions=True)
    return answers


async def answers_of(ask: Callable[[T], Awaitable[R]], things: Sequence[T]) -> list[R]:
    """The same, where all must have an answer. Raises what the first that has none has raised."""
    answers = list[R]()
    for answer in await ask_each(ask, things):
        if isinstance(answer, BaseException):
            raise answer
        answers.append(answer)
    return answers


def _length_in(reply: Any) -> int:
    if isinstance(reply, RedisRefused):
        return 0
    if isinstance(reply, BaseException):
        raise reply
    return int(reply)
