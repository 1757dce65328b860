"""Places for questions to Zion about tokens that nobody here has seen: strangers can make up any number of them.

Whoever has asked before, or whose user is known, needs none. What is behind one address never has all of the places,
nor all of the queue, and the next place goes to the address that has the fewest: so a newcomer passes beside a flood.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from ipaddress import IPv6Address, ip_address

from sentinel.error import ZionUnavailable

MOST_AT_ONCE, MOST_WAITING = 32, 256
_SHARE = 3 / 4
"""Of the places and of the queue, for one address: behind a balancer all clients have the same."""
_RETRY_SECONDS = 2.0


class Bulkhead:
    """most: questions at once. most_waiting: those who wait for a place; who comes then is refused."""

    def __init__(self, most: int = MOST_AT_ONCE, most_waiting: int = MOST_WAITING) -> None:
        self._most, self._most_waiting = most, most_waiting
        self._inside: Counter[str] = Counter()
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}

    def has_place(self, address: str | None) -> bool:
        """Whether this client's question can be asked at once."""
        return self._has_place(_network(address))

    def _has_place(self, network: str) -> bool:
        return self._inside.total() < self._most and self._inside[network] < self._most * _SHARE

    async def enter(self, address: str | None) -> None:
        """Take a place for one question of a client at this address, which `leave` gives back.

        Raises ZionUnavailable where too many wait for one.
        """
        network = _network(address)
        if self._has_place(network):
            self._inside[network] += 1
        else:
            await self._wait(network)

    def leave(self, address: str | None) -> None:
        """Give the place back that this address has entered."""
        self._leave(_network(address))

    async def _wait(self, network: str) -> None:
        queue = self._queues.get(network, ())
        waiting = sum(map(len, self._queues.values()))
        if waiting >= self._most_waiting or len(queue) >= self._most_waiting * _SHARE:
            raise ZionUnavailable("Too many unknown tokens are being looked up.", retry_after_seconds=_RETRY_SECONDS)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(network, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self._leave(network)
            raise
        finally:
            self._forget(network, place)

    def _leave(self, network: str) -> None:
        self._inside[network] -= 1
        if not self._inside[network]:
            del self._inside[network]
        # A dict is in the order of arrival, and min takes the first of equals.
        while able := [name for name in self._queues if self._has_place(name)]:
            network = min(able, key=self._inside.__getitem__)
            place = self._queues[network][0]
            self._forget(network, place)
            # Whoever waited may just have left.
            if not place.done():
                self._inside[network] += 1
                place.set_result(None)

    def _forget(self, network: str, place: asyncio.Future[None]) -> None:
        queue = self._queues.get(network, deque())
        if place in queue:
            queue.remove(place)
            if not queue:
                del self._queues[network]


def _network(address: str | None) -> str:
    """Whom an address belongs to: in IPv6 everybody has 64 bits for themselves."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return address or ""
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
