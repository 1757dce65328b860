"""One multiplexed connection to one Redis server, kept up, with a deadline.

While calls wait for answers, those of one event-loop turn leave in one write, over hiredis' packer and reader (4.6 us
of CPU per call, 57 us through redis-py; DESIGN section 2).

A call waits at most `deadline_seconds`. A connection that misses them is dropped; until a new one has answered a PING,
calls fail at once: that is the breaker. Every failure is a RedisUnavailable; whether the call was carried out is then
unknown.

Long because a call, its deadline and the loss of its connection are one state.

What Redis says in an error may hold keys, and these names: only its kind goes beyond this file (`diagnosis.plain`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import hiredis
import structlog
from redis.exceptions import RedisError

from sentinel.clock import monotonic
from sentinel.diagnosis import plain, reason_of
from sentinel.error import ForeignStore, NotSent, RedisRefused, RedisUnavailable
from sentinel.redis_address import NOBODY, Login
from sentinel.tasks import Tasks, pause

log = structlog.get_logger()

DEADLINE_SECONDS = 0.25
MOST_PENDING = 20_000
MOST_IN_ONE_WRITE = 16
"""Redis shall begin with the first calls of a busy turn while we are still at the others."""
RECONNECT_SECONDS = 0.2
_LOOK_AGAIN_SECONDS = 0.02
_UNKNOWN = ("NOSCRIPT", "ERR Function not found")
_AWAY = ("READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS")
_ABOUT_THE_KEYS = ("WRONGTYPE", "ERR user_function:", "ERR user_script:")
"""Refusals of one call for what its keys hold: of a wrong type, or nothing that our scripts can read."""
_TO_ALL = (
    *_AWAY, "NOPERM", "NOAUTH", "OOM", "MISCONF", "CLUSTERDOWN", "ERR unknown command", "ERR ACL failure in script",
    "ERR The user executing the script", "ERR Unknown Redis command",
)  # fmt: skip
"""Refusals that have nothing to do with the one call: others would be refused, too."""
_TELL = b""
"""In place of what makes a script known: an error is an answer to this call like any other."""

Arg = bytes | str | int

# hiredis types it as a tuple of one.
pack = cast("Callable[[tuple[Arg, ...]], bytes]", hiredis.pack_command)
"""A command as it goes over the wire."""

Command = Callable[..., Awaitable[Any]]
"""Runs a command, of these words. Raises RedisUnavailable."""
Admission = Callable[[Command, bool], Awaitable[None]]
"""Finds out whether we may use the Redis that we have reached; whether anew. Raises ForeignStore, RedisUnavailable."""


class Moved(RedisUnavailable):
    """Another node of the cluster has the key. address: its host and port."""

    def __init__(self, reply: Exception) -> None:
        super().__init__("The store has moved.", retry_after_seconds=1)
        host, _, port = str(reply).split()[2].rpartition(":")
        self.address = (host, int(port))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server, and how to log in there. path: of a socket, in place of host and port."""

    host: str
    port: int
    path: str = ""
    login: Login = NOBODY
    db: int = 0
    tls: ssl.SSLContext | None = None


class Address(Protocol):
    """Where a server is."""

    @property
    def name(self) -> str:
        """The same in words, without a password."""

    async def endpoint(self) -> Endpoint:
        """Where to connect now. Raises RedisError, OSError."""


def away() -> NotSent:
    """Nothing was sent."""
    return NotSent("The store is away.", retry_after_seconds=1)


def _unanswered() -> RedisUnavailable:
    return RedisUnavailable("The store does not answer.", retry_after_seconds=1)


_Call = tuple[asyncio.Future[Any], float, bytes, bytes | None]
"""A call that waits for its reply: the reply, when it was made, it packed, the command that makes its script known."""


class _Connection(asyncio.Protocol):
    """One connection: calls out in order, replies in the same order. on_error is given calls that Redis refuses."""

    def __init__(self, on_error: Callable[[_Connection, _Call, Exception], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_error = on_error
        self._reader = hiredis.Reader()
        self._pending: deque[_Call] = deque()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._broken: Exception | None = None
        self.lost = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                call = self._pending.popleft()
                future = call[0]
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    self._on_error(self, call, reply)
                else:
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self._broken = hiredis.ProtocolError(str(error))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for future, *_ in self._pending:
            if not future.done():
                lost = _unanswered()
                lost.__cause__ = self._broken or exc or ConnectionResetError()
                future.set_exception(lost)
        self._pending.clear()
        if not self.lost.done():
            self.lost.set_result(None)

    def call(self, packed: bytes, load: bytes | None = None) -> asyncio.Future[Any]:
        """Send one packed command: at once where none waits for an answer, else with the others of this turn.

        Raises RedisUnavailable.
        """
        if self._transport is None or len(self._pending) >= MOST_PENDING:
            raise away()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._pending.append((future, self._loop.time(), packed, load))
        if len(self._pending) == 1:
            # It is no busy turn, so there is nothing to wait for: p50 at 2,000 requests/s is a tenth lower.
            self._transport.write(packed)
            return future
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        if len(self._out) == MOST_IN_ONE_WRITE:
            self._flush()
        return future

    def _flush(self) -> None:
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def overdue(self, deadline_seconds: float) -> bool:
        """Whether the oldest call has waited longer than the deadline."""
        return bool(self._pending) and self._loop.time() - self._pending[0][1] > deadline_seconds

    @property
    def is_closing(self) -> bool:
        """Whether nothing more can come over it."""
        return self._transport is None or self._transport.is_closing()

    def abort(self) -> None:
        """Drop the connection at once; all its calls fail."""
        if self._transport is not None:
            self._transport.abort()


class RedisConnection:
    """A connection that is made anew whenever it is lost. connects: how often it was made.

    meanwhile: what becomes of requests while it is lost, for the log. failure: why the last attempt to connect failed,
    None after one that did not. admission: asked at each connect, before the connection counts. failed_at: when a call
    last failed that others would have failed like, by the loop's clock (-inf = never), and refusal: how Redis put it.
    outage_seconds: how long there was none before this one.
    deadline_seconds: how long a call may wait.
    """

    def __init__(
        self,
        address: Address,
        meanwhile: str | None = None,
        admission: Admission | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._address = address
        self._meanwhile = meanwhile
        self._admission = admission
        self._deadline_seconds = deadline_seconds
        self._connection: _Connection | None = None
        self._told: set[str] = set()
        self.failed_at = float("-inf")
        self.refusal = ""
        self.connects = 0
        self.outage_seconds = 0.0
        self.failure: Exception | None = None
        self._tasks = Tasks()
        self._attempted = asyncio.Event()
        self._loading: dict[bytes, asyncio.Task[None]] = {}

    @property
    def available(self) -> bool:
        """Whether a connection stands that has answered."""
        return self._connection is not None

    @property
    def whole(self) -> bool:
        """The same: there is one connection."""
        return self.available

    async def start(self) -> None:
        """Connect, and from now on reconnect whenever the connection is lost."""
        self._tasks.keep(self._keep_connected, "redis connection")
        await self._attempted.wait()

    async def _keep_connected(self) -> None:
        told, lost = "", monotonic()
        while True:
            try:
                async with asyncio.timeout(self._deadline_seconds * 4):
                    connection = await self._connect()
            except (OSError, TimeoutError, RedisError, RedisUnavailable) as error:
                reason = error.message if isinstance(error, ForeignStore) else reason_of(error)
                if reason != told:
                    log.warning("redis is away", address=self._address.name, reason=reason, meanwhile=self._meanwhile)
                told = reason
                self.failure = error
                self._attempted.set()
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            self._connection = connection
            self.outage_seconds = monotonic() - lost if self.connects else 0.0
            self.connects += 1
            self.failure = None
            self._told.clear()
            told = ""
            self._attempted.set()
            log.info("redis is there", address=self._address.name)
            try:
                await self._watch(connection)
            finally:
                self._connection, lost = None, monotonic()
                connection.abort()

    async def _connect(self) -> _Connection:
        endpoint = await self._address.endpoint()
        loop = asyncio.get_running_loop()

        def protocol() -> _Connection:
            return _Connection(self._on_error)

        if endpoint.path:
            _, connection = await loop.create_unix_connection(protocol, endpoint.path)
        else:
            _, connection = await loop.create_connection(protocol, endpoint.host, endpoint.port, ssl=endpoint.tls)
        try:
            login = endpoint.login
            if login.username or login.password:
                await connection.call(pack(("AUTH", login.username or "default", login.password or "")))
            if endpoint.db:
                await connection.call(pack(("SELECT", endpoint.db)))
            await connection.call(pack(("PING",)))
            await self._admit(connection, anew=True)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _admit(self, connection: _Connection, *, anew: bool) -> None:
        if self._admission is None:
            return
        try:
            await self._admission(lambda *words: connection.call(pack(words)), anew)
        except ForeignStore:
            raise
        except RedisUnavailable:
            # Without rights or memory it says the same to requests, and health shows that. A replica has hung up.
            if connection.is_closing:
                raise

    async def claim(self) -> None:
        """See again whose this Redis is; if it never was ours, the connection is dropped, and none made again."""
        if (connection := self._connection) is not None:
            try:
                await self._admit(connection, anew=False)
            except RedisUnavailable:
                connection.abort()

    async def _watch(self, connection: _Connection) -> None:
        while not connection.lost.done():
            await asyncio.wait([connection.lost], timeout=self._deadline_seconds / 5)
            if connection.overdue(self._deadline_seconds):
                # Perhaps it is this process that was held up, and the reply waits to be read: timers come before that.
                await pause(_LOOK_AGAIN_SECONDS)
            if connection.overdue(self._deadline_seconds):
                log.warning("redis misses its deadline", seconds=self._deadline_seconds)
                self._failed("no answer in time")
                return

    def command(self, *words: Arg, key: bytes | None = None) -> Awaitable[Any]:  # noqa: ARG002 (there is one node)
        """Run one command. Raises RedisUnavailable, Moved."""
        return self.call(pack(words))

    def call(self, packed: bytes, load: bytes | None = None) -> Awaitable[Any]:
        """The same for a packed command. load: that which makes its script known to Redis, packed, too.

        What is awaited is the reply's own future: on the way of every request each coroutine between them counts.
        """
        if self._connection is None:
            raise away()
        return self._connection.call(packed, load)

    async def replies(self, commands: Sequence[tuple[Arg, ...]]) -> list[Any]:
        """What Redis answers to each of these commands, errors among it. Raises RedisUnavailable."""
        return await asyncio.gather(*(self.call(pack(words), _TELL) for words in commands))

    def _failed(self, refusal: str) -> None:
        self.failed_at, self.refusal = asyncio.get_running_loop().time(), refusal

    def _on_error(self, connection: _Connection, call: _Call, error: Exception) -> None:
        future, _, packed, load = call
        if load == _TELL:
            future.set_result(error)
            return
        reason = str(error)
        if load is not None and reason.startswith(_UNKNOWN):
            task = self._tasks.start(self._load_and_call(future, packed, load), "call again")
            # A task that is cancelled before its first step does nothing at all.
            task.add_done_callback(lambda _: None if future.done() else future.set_exception(_unanswered()))
            return
        if reason.startswith("MOVED ") and len(reason.split()) == 3:
            future.set_exception(Moved(error))
            return
        cause = plain(error)
        # Full, read-only, without rights: it refuses all alike. Why a connection is not made is told once it is not.
        if connection is self._connection:
            self._tell(str(cause), _name_of(packed))
        if reason.startswith(_TO_ALL):
            self._failed(str(cause))
        if reason.startswith(_AWAY):
            connection.abort()
        error_type = RedisRefused if reason.startswith(_ABOUT_THE_KEYS) else RedisUnavailable
        refused = error_type("The store refuses.", retry_after_seconds=1)
        refused.__cause__ = cause
        future.set_exception(refused)

    def _tell(self, kind: str, command: str) -> None:
        """Say once for each connection that Redis refuses in this way, and what was refused first."""
        if kind not in self._told:
            self._told.add(kind)
            log.warning("redis refuses a command", command=command, reason=kind)

    async def _load_and_call(self, future: asyncio.Future[Any], packed: bytes, load: bytes) -> None:
        """Call again once the script is loaded. Of many calls that miss it one loads it: Redis compiles for 1 ms."""
        loading = self._loading.get(load)
        if loading is None:
            loading = self._loading[load] = self._tasks.start(self._load(load), "load script")
        await asyncio.shield(loading)
        if future.done():
            # Whoever made the call has given it up, and perhaps made it undone.
            return
        try:
            reply = await self.call(packed)
        except RedisUnavailable as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(reply)

    async def _load(self, load: bytes) -> None:
        try:
            await self.call(load)
        except RedisUnavailable:
            log.debug("a script was not loaded")
        finally:
            del self._loading[load]

    async def close(self) -> None:
        """Close the connection for good."""
        await self._tasks.cancel()


def _name_of(packed: bytes) -> str:
    """The command in a packed call, and the function that it calls: our own words, without keys."""
    words = packed[:200].split(b"\r\n")[2:5:2]
    name, what = words[0].decode(), words[-1].decode(errors="replace")
    if name == "FCALL":
        return f"FCALL {what.rpartition('_')[0]}"
    return f"{name} LOAD" if what == "LOAD" else name
