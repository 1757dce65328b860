"""How many wrong keys and tokens one address may show: beyond that it is told to wait. Decides.

Who shows a right one is served whatever else came from that address: a proxy's address is that of all its clients.
"""

from __future__ import annotations

from collections import OrderedDict

_MOST_ADDRESSES = 10_000


class Failures:
    """Failures of each address in windows that begin with the first one. Moments are seconds of any clock."""

    def __init__(self, most: int, window_seconds: float) -> None:
        self._most = most
        self._window_seconds = window_seconds
        self._since: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait_seconds(self, address: str, now: float) -> float:
        """Note a failure of this address; how long it shall wait, 0 if it may go on."""
        began, count = self._since.pop(address, (now, 0))
        if now - began >= self._window_seconds:
            began, count = now, 0
        self._since[address] = began, count + 1
        if len(self._since) > _MOST_ADDRESSES:
            self._since.popitem(last=False)
        return began + self._window_seconds - now if count >= self._most else 0.0
