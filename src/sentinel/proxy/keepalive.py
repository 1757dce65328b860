"""Tells clients of silent streams to wait: coding tools give up after 20 s of silence, load balancers after 60.

One ticker for all streams of a process. It looks at what each has sent since the last look, so that a chunk costs
nothing more than to be remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import inf

import msgspec

from sentinel.clock import monotonic
from sentinel.proxy.client import ClientSide
from sentinel.proxy.sse import COMMENT, END_OF_EVENT
from sentinel.steps import in_portions
from sentinel.tasks import Tasks, pause

_LOOK_SECONDS = 1.0
_DOUBT_SECONDS = 1.0
"""After so much silence a client that has closed its sending side is sent a comment, whatever the setting: one that is
gone answers with a reset, and its provider shall not go on for nobody."""
_AT_ONCE = 64
"""Streams in one step; to write to all of them takes half a millisecond."""

# A carriage return at the end could be half of a line end, and what follows would be taken for a blank line.
_EVENT_ENDS = (b"\n\n", b"\n\r\n", b"\r\r\n")


class Watched(msgspec.Struct, eq=False):
    """A stream that is under way. head: headers for a client that has none yet. since: it has been silent.

    between: what the client has got ends with an event. comment: what it is sent.
    """

    client: ClientSide
    head: Callable[[], bytes]
    since: float
    between: bool = True
    comment: bytes = COMMENT


class StreamKeepAlive:
    """The open streams of this process. seconds: the silence after which a client gets a comment, 0 = never."""

    def __init__(self, seconds: float, tasks: Tasks) -> None:
        self._seconds = seconds
        self._tasks = tasks
        self.open: set[Watched] = set()

    def watch(self, client: ClientSide, head: Callable[[], bytes], comment: bytes = COMMENT) -> Watched:
        """Look after this stream from now on. head: called where the first comment comes before the stream's head."""
        watched = Watched(client, head, monotonic(), comment=comment)
        self.open.add(watched)
        return watched

    def release(self, watched: Watched) -> None:
        """Its exchange has ended, or will write no stream."""
        self.open.discard(watched)

    async def run(self) -> None:
        """Look for ever, unless nobody gets a comment for being silent."""
        while self._seconds:
            await self._look_at_all(min(_LOOK_SECONDS, self._seconds / 4))

    async def run_for_doubts(self) -> None:
        """Where `run` does nothing: look for ever after clients that may be gone."""
        while not self._seconds:
            await self._look_at_all(_LOOK_SECONDS)

    async def _look_at_all(self, seconds: float) -> None:
        await pause(seconds)
        streams = list(self.open)
        for some in in_portions(streams, _AT_ONCE):
            self.look(some, monotonic())
            await pause(0)

    def look(self, streams: Collection[Watched], now: float) -> None:
        """Send a comment to each of these that has been silent for too long, and has no event half sent."""
        for watched in streams:
            client = watched.client
            last, client.last_piece = client.last_piece, b""
            if client.passing is not None and client.passing.moved:
                client.passing.moved, last = False, END_OF_EVENT
            if last:
                watched.since, watched.between = now, last.endswith(_EVENT_ENDS)
            elif watched.between and now - watched.since >= self._patience(client) and watched in self.open:
                watched.since = now
                client.comment(watched.comment, watched.head, self._tasks)

    def _patience(self, client: ClientSide) -> float:
        seconds = self._seconds or inf
        return min(seconds, _DOUBT_SECONDS) if client.is_in_doubt else seconds
