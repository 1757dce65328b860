"""Open-loop load: requests leave at random moments of a fixed mean rate (Poisson), whether or not answers are there.

Latency counts from the moment at which a request was due, so a server that stalls cannot hide the requests that had to
wait meanwhile (no coordinated omission). One thread, blocking on select with microseconds: an event loop's timers are
too coarse.
"""

from __future__ import annotations

import random
import select
import socket
import time
from array import array
from collections import deque
from dataclasses import dataclass, field

from bench import messages
from bench.latency import Span, quantile

CONNECTIONS = 64
SEED = 4
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """What was sent and answered. lives: from due to the last byte of the answer; per_second: what came of the rate.

    late_ms: p99 of how late requests left for which a connection was idle, which is the load's own doing.
    sent: all requests, with those of the second that is not counted.
    """

    lives: list[Span]
    per_second: float
    late_ms: float
    sent: int


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    due: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    length: int = 0

    def finished(self) -> bool:
        """Read what is there; say whether the answer is whole. Raises RuntimeError for anything but a 200."""
        data = self.socket.recv(65536)
        if not data:
            raise RuntimeError("the server has closed a connection")
        self.received += data
        if not self.length:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = bytes(self.received[:end]).lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(f"a request failed: {bytes(self.received[:300])!r}")
            self.length = end + 4 + int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        if len(self.received) < self.length:
            return False
        self.received.clear()
        self.length = 0
        return True


class Steady:
    """A load of so many requests a second with one body, users in turn."""

    def __init__(self, port: int, per_second: float, body: bytes, connections: int) -> None:
        # Large bodies from fewer users: a copy for each of them would fill the memory.
        users = messages.USERS if len(body) < 50_000 else 8
        self._requests = [messages.http_request(port, number, body) for number in range(users)]
        self._idle = deque(_Connection(socket.create_connection(("127.0.0.1", port))) for _ in range(connections))
        self._all = list(self._idle)
        self.busy: dict[int, _Connection] = {}
        self._waiting: deque[float] = deque()
        self._random = random.Random(SEED)
        self._per_second = per_second
        self._turn = 0
        self._begun, self._ended, self._late = (array("d") for _ in range(3))
        self.next_due = time.monotonic()

    def send_due(self, now: float) -> None:
        """Send all that is due; where no connection is idle, it waits, on the clock."""
        held = len(self._waiting)
        while self.next_due <= now:
            self._waiting.append(self.next_due)
            self.next_due += self._random.expovariate(self._per_second)
        while self._waiting and self._idle:
            connection = self._idle.popleft()
            connection.due = self._waiting.popleft()
            self.busy[connection.socket.fileno()] = connection
            connection.socket.sendall(self._requests[self._turn % len(self._requests)])
            self._turn += 1
            if held > 0:
                held -= 1
            else:
                self._late.append(time.monotonic() - connection.due)

    def take(self, fd: int) -> None:
        """Read from a socket on which an answer is awaited."""
        connection = self.busy[fd]
        if connection.finished():
            self._begun.append(connection.due)
            self._ended.append(time.monotonic())
            del self.busy[fd]
            self._idle.append(connection)

    def forget(self) -> None:
        """Count from now on."""
        for each in (self._begun, self._ended, self._late):
            del each[:]

    def result(self, seconds: float) -> Load:
        """What came in so many seconds."""
        lives = [Span(*life) for life in zip(self._begun, self._ended, strict=True)]
        return Load(lives, len(lives) / seconds, quantile(sorted(self._late), 0.99) * 1000, self._turn)

    def close(self) -> None:
        for connection in self._all:
            connection.socket.close()


def run(port: int, per_second: float, body: bytes, seconds: float, connections: int = CONNECTIONS) -> Load:
    """Load the port; the first second is not counted. Raises RuntimeError for anything but a 200."""
    load = Steady(port, per_second, body, connections)
    begin = load.next_due + WARM_UP_SECONDS
    counting = False
    try:
        while (now := time.monotonic()) < begin + seconds:
            if not counting and now >= begin:
                counting = True
                load.forget()
            load.send_due(now)
            # select takes microseconds; its limit of 1,024 descriptors is far.
            readable, _, _ = select.select(load.busy, [], [], max(0.0, load.next_due - time.monotonic()))
            for fd in readable:
                load.take(fd)
    finally:
        load.close()
    return load.result(seconds)
