"""A provider with several keys, used in turns: one that is refused, or limited, rests for a while.

A key that comes from a file is read anew when it changes; requests that have begun go on with the one before.

The keys may be of different projects, and what one of them has made no other may find. So records of objects have the
name of a key (`KeyPool.named`), and what names such an object is sent with that one. Where it rests, or is there no
more, others are asked: of one project they have it, too; of several they answer that it is not there.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import structlog

from sentinel.clock import monotonic
from sentinel.proxy.openai import OpenAIProvider
from sentinel.proxy.provider import (
    AiProvider,
    OnBlank,
    PassedStream,
    ProviderAnswer,
    ProviderRequest,
    ProviderStream,
    Room,
)

log = structlog.get_logger()

REFUSED_SECONDS, LIMITED_SECONDS = 60.0, 10.0
"""So long a key rests that the provider does not take, or that has had too many requests."""
LOOK_SECONDS = 2.0
"""So often keys in files are looked at."""
_NAME_BYTES = 4
_NOT_THERE = (400, 404)
"""How a provider answers what names an object that the key does not find; in a body that is a mistake to some."""

ReadKeys = Callable[[], Sequence[str]]


class _Status(Protocol):
    @property
    def status(self) -> int:
        """Of an answer, whole or not."""


A = TypeVar("A", bound=_Status)
Ask = Callable[[AiProvider], Awaitable[A]]


class _Keyed:
    """One key, its name, and the connections that it goes over. rests_until: monotonic seconds."""

    def __init__(self, key: str, name: str, provider: OpenAIProvider) -> None:
        self.key = key
        self.name = name
        self.provider = provider
        self.rests_until = 0.0


class _Asking:
    """An AiProvider, whose requests are sent as `asked` says."""

    async def post(self, request: ProviderRequest, on_blank: OnBlank, room: Room) -> ProviderAnswer:
        """As AiProvider's."""
        return await self.asked(lambda provider: provider.post(request, on_blank, room), request)

    async def stream(self, request: ProviderRequest, room: Room) -> ProviderStream:
        """As AiProvider's."""
        return await self.asked(lambda provider: provider.stream(request, room), request)

    async def pass_on(self, request: ProviderRequest, room: Room) -> PassedStream:
        """As AiProvider's."""
        return await self.asked(lambda provider: provider.pass_on(request, room), request)

    async def get(self, path: str, request_id: str) -> ProviderAnswer:
        """As AiProvider's."""
        return await self.asked(lambda provider: provider.get(path, request_id), None)

    async def asked(self, ask: Ask[A], request: ProviderRequest | None) -> A:
        """The answer to a request."""
        raise NotImplementedError


class KeyPool(_Asking):
    """An AiProvider. make: one with this key; read_keys: those that there are now, or ValueError.

    may_change: any of them comes from a file.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[str], OpenAIProvider],
        read_keys: ReadKeys,
        *,
        may_change: bool,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.name = name
        self._make = make
        self._read_keys = read_keys
        self._may_change = may_change
        self._clock = clock
        self._keyed = list(self._look({}).values())
        self._turn = 0
        self._looked = clock()
        self._gone: list[OpenAIProvider] = []

    @property
    def connections(self) -> int:
        """How many there are."""
        return sum(each.provider.connections for each in self._keyed) + sum(each.connections for each in self._gone)

    def named(self, key: str) -> str:
        """The name of a key: the same in every process, wherever it stands, and it tells nothing of the key."""
        return hashlib.blake2b(key.encode(), digest_size=_NAME_BYTES, key=self.name.encode()).hexdigest()

    def of(self, key: str) -> AiProvider:
        """As ProviderPool's."""
        return _OfKey(self, key)

    async def asked(self, ask: Ask[A], request: ProviderRequest | None) -> A:
        """The answer that whose turn it is gets."""
        await self._look_now_and_then()
        return await self.asked_by(self._in_turn(), ask, request)

    async def asked_by(self, keyed: _Keyed, ask: Ask[A], request: ProviderRequest | None) -> A:
        """The answer that this key gets."""
        if request is not None:
            request.key = keyed.name
        answer = await ask(keyed.provider)
        self._note(keyed, answer.status)
        return answer

    async def order(self, key: str) -> list[_Keyed]:
        """Who is asked for an object that this key has made, one after the other, until it is there."""
        await self._look_now_and_then()
        own = next((each for each in self._keyed if each.name == key), None)
        if own is not None and own.rests_until <= self._clock():
            return [own]
        turn = self._in_turn()
        return [turn, *(each for each in self._keyed if each is not turn and own in (None, each))]

    async def close(self) -> None:
        """Close all connections."""
        for provider in [*(each.provider for each in self._keyed), *self._gone]:
            await provider.close()

    def has_another(self) -> bool:
        """Whether a key is at hand that does not rest, beside the one that was used last."""
        now = self._clock()
        return len(self._keyed) > 1 and any(each.rests_until <= now for each in self._keyed)

    async def _look_now_and_then(self) -> None:
        now = self._clock()
        if self._may_change and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            await self.look()

    def _in_turn(self) -> _Keyed:
        now = self._clock()
        for step in range(len(self._keyed)):
            keyed = self._keyed[(self._turn + step) % len(self._keyed)]
            if keyed.rests_until <= now:
                self._turn = (self._turn + step + 1) % len(self._keyed)
                return keyed
        # All rest: the one that has done so for the longest.
        return min(self._keyed, key=lambda each: each.rests_until)

    def _note(self, keyed: _Keyed, status: int) -> None:
        if status in (401, 403):
            log.warning("a provider does not take a key", provider=self.name)
            keyed.rests_until = self._clock() + REFUSED_SECONDS
        elif status == 429:
            keyed.rests_until = self._clock() + LIMITED_SECONDS

    async def look(self) -> None:
        """See whether there are other keys now."""
        self._gone = [each for each in self._gone if each.connections]
        before = {each.key: each for each in self._keyed}
        try:
            now = await asyncio.to_thread(self._look, before)
        except (OSError, ValueError) as error:
            log.warning("keys stay as they were", provider=self.name, reason=str(error))
            return
        known = {each.key: each for each in self._keyed}
        if list(known) == list(now):
            return
        self._gone += [each.provider for key, each in known.items() if key not in now]
        # Somebody else may have looked meanwhile.
        self._keyed = [known.get(key, each) for key, each in now.items()]
        self._turn = 0
        log.info("keys have changed", provider=self.name, keys=len(now))

    def _look(self, known: Mapping[str, _Keyed]) -> dict[str, _Keyed]:
        """The keys that there are now. Beside the event loop: what shows a new one is made in 10 to 100 ms.

        Two places may have the same key, while one of them is about to be changed.
        """
        keys = dict.fromkeys(self._read_keys())
        return {key: known.get(key) or _Keyed(key, self.named(key), self._make(key)) for key in keys}


class _OfKey(_Asking):
    """The provider to what names an object that this key of a pool has made."""

    def __init__(self, pool: KeyPool, key: str) -> None:
        self._pool = pool
        self._key = key

    async def asked(self, ask: Ask[A], request: ProviderRequest | None) -> A:
        """The answer of the first that finds it, else the last one's."""
        order = await self._pool.order(self._key)
        if request is not None and not isinstance(request.body, bytes):
            # It can be sent once.
            order = [next((each for each in order if each.name == self._key), order[0])]
        *others, last = order
        for keyed in others:
            answer = await self._pool.asked_by(keyed, ask, request)
            if answer.status not in _NOT_THERE:
                return answer
            if (close := getattr(answer, "close", None)) is not None:
                close()
        return await self._pool.asked_by(last, ask, request)

    async def close(self) -> None:
        """Nothing: the pool closes."""
