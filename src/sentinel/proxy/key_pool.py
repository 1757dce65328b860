"""A provider with several keys, used in turns: one that is refused, or limited, rests for a while.

A key that comes from a file is read anew when it changes; requests that have begun go on with the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from sentinel.clock import monotonic
from sentinel.proxy.openai import OpenAIProvider
from sentinel.proxy.provider import OnBlank, PassedStream, ProviderAnswer, ProviderRequest, ProviderStream, Room

log = structlog.get_logger()

REFUSED_SECONDS, LIMITED_SECONDS = 60.0, 10.0
"""So long a key rests that the provider does not take, or that has had too many requests."""
LOOK_SECONDS = 2.0
"""So often keys in files are looked at."""

ReadKeys = Callable[[], Sequence[str]]


class _Keyed:
    """One key, and the connections that it goes over. rests_until: monotonic seconds."""

    def __init__(self, key: str, provider: OpenAIProvider) -> None:
        self.key = key
        self.provider = provider
        self.rests_until = 0.0


class KeyPool:
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
        self._keyed = [_Keyed(key, make(key)) for key in dict.fromkeys(read_keys())]
        self._turn = 0
        self._looked = clock()
        self._gone: list[OpenAIProvider] = []

    @property
    def connections(self) -> int:
        """How many there are."""
        return sum(each.provider.connections for each in self._keyed) + sum(each.connections for each in self._gone)

    async def post(self, request: ProviderRequest, on_blank: OnBlank, room: Room) -> ProviderAnswer:
        """As AiProvider's."""
        keyed = await self._next()
        answer = await keyed.provider.post(request, on_blank, room)
        self._note(keyed, answer.status)
        return answer

    async def stream(self, request: ProviderRequest, room: Room) -> ProviderStream:
        """As AiProvider's."""
        keyed = await self._next()
        stream = await keyed.provider.stream(request, room)
        self._note(keyed, stream.status)
        return stream

    async def pass_on(self, request: ProviderRequest, room: Room) -> PassedStream:
        """As AiProvider's."""
        keyed = await self._next()
        stream = await keyed.provider.pass_on(request, room)
        self._note(keyed, stream.status)
        return stream

    async def get(self, path: str, request_id: str) -> ProviderAnswer:
        """As AiProvider's."""
        keyed = await self._next()
        answer = await keyed.provider.get(path, request_id)
        self._note(keyed, answer.status)
        return answer

    async def close(self) -> None:
        """Close all connections."""
        for provider in [*(each.provider for each in self._keyed), *self._gone]:
            await provider.close()

    def has_another(self) -> bool:
        """Whether a key is at hand that does not rest, beside the one that was used last."""
        now = self._clock()
        return len(self._keyed) > 1 and any(each.rests_until <= now for each in self._keyed)

    async def _next(self) -> _Keyed:
        now = self._clock()
        if self._may_change and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            await self.look()
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
        return {key: known.get(key) or _Keyed(key, self._make(key)) for key in dict.fromkeys(self._read_keys())}
