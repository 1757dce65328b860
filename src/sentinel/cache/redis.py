"""The connection to Redis.

Hot scripts and single commands go over one multiplexed connection of hiredis' packer and reader: all calls of one
event-loop turn leave in one write (4.6 us of CPU per call, 57 us through redis-py; DESIGN section 2). redis-py serves
all else (`client`), finds the master behind Redis Sentinel, and speaks to a cluster.

A call waits at most DEADLINE_SECONDS. A connection that misses it is dropped; until a new one has answered a PING,
calls fail at once: that is the breaker. Every failure is a RedisUnavailable; whether the call was carried out is then
unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import hiredis
import structlog
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.connection import parse_url
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from sentinel.clock import monotonic
from sentinel.error import RedisUnavailable
from sentinel.tasks import Tasks

log = structlog.get_logger()

DEADLINE_SECONDS = 0.25
MOST_PENDING = 20_000
_RECONNECT_SECONDS = 0.2
_CLIENT_TIMEOUT_SECONDS = 5
_AWAY = (b"READONLY", b"LOADING", b"MASTERDOWN", b"CLUSTERDOWN", b"NOREPLICAS")

Arg = bytes | str | int

# hiredis types it as a tuple of one.
_pack = cast("Callable[[tuple[Arg, ...]], bytes]", hiredis.pack_command)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the SHA-1 by which Redis knows it."""

    name: str
    text: str
    sha: str

    @classmethod
    def load(cls, name: str) -> Script:
        """Read `limits/<name>.lua`, with the common part in front."""
        folder = resources.files("sentinel.limits")
        text = folder.joinpath("ledger.lua").read_text() + folder.joinpath(f"{name}.lua").read_text()
        return cls(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Store(Protocol):
    """What Sentinel needs of a Redis, single or cluster."""

    client: Redis | RedisCluster

    @property
    def available(self) -> bool:
        """False while calls fail at once."""

    async def start(self) -> None:
        """Try to connect; returns after the first attempt, keeps trying in the background."""

    async def script(self, script: Script, keys: Sequence[bytes], *args: bytes) -> Any:
        """Run a script. Raises RedisUnavailable."""

    async def command(self, *args: Arg) -> Any:
        """Run one command whose second word is its key. Raises RedisUnavailable."""

    async def close(self) -> None:
        """Close all connections."""


def open_store(url: str) -> Store:
    """The Store for a redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://host,host/master URL."""
    scheme, _, rest = url.partition("://")
    if scheme.endswith("+cluster"):
        return ClusterStore(f"{scheme.removesuffix('+cluster')}://{rest}")
    if scheme == "redis+sentinel":
        return SingleStore(_SentinelAddress(url))
    return SingleStore(_FixedAddress(url))


class _Address(Protocol):
    client: Redis

    async def options(self) -> dict[str, Any]:
        """Where to connect now, as redis-py's connection keywords."""


class _FixedAddress:
    def __init__(self, url: str) -> None:
        self._options = dict(parse_url(url))
        self.client = Redis.from_url(url, socket_timeout=_CLIENT_TIMEOUT_SECONDS, socket_connect_timeout=1)

    async def options(self) -> dict[str, Any]:
        return self._options


class _SentinelAddress:
    """The master behind redis+sentinel://user:password@host:26379,host:26379/mymaster/0."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        hosts = [host.partition(":") for host in parts.netloc.rpartition("@")[2].split(",")]
        self._master, _, db = parts.path.strip("/").partition("/")
        self._extra: dict[str, Any] = {"username": parts.username, "password": parts.password, "db": int(db or 0)}
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            [(host, int(port or 26379)) for host, _, port in hosts], socket_timeout=1
        )
        self.client = self._sentinel.master_for(self._master, **self._extra, socket_timeout=_CLIENT_TIMEOUT_SECONDS)

    async def options(self) -> dict[str, Any]:
        host, port = await self._sentinel.discover_master(self._master)
        return {"host": host, "port": port, **self._extra}


class _Connection(asyncio.Protocol):
    """One connection: calls out in order, replies in the same order."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.lost = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                future, _ = self._pending.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's name)
        self._transport = None
        for future, _ in self._pending:
            if not future.done():
                future.set_exception(RedisUnavailable("The store is away.", retry_after_seconds=1))
        self._pending.clear()
        if not self.lost.done():
            self.lost.set_result(None)

    def call(self, packed: bytes) -> asyncio.Future[Any]:
        """Send one packed command with the others of this turn."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._transport is None or len(self._pending) >= MOST_PENDING:
            future.set_exception(RedisUnavailable("The store is away.", retry_after_seconds=1))
            return future
        self._pending.append((future, self._loop.time()))
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        return future

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def overdue(self) -> bool:
        """Whether the oldest call has waited longer than the deadline."""
        return bool(self._pending) and self._loop.time() - self._pending[0][1] > DEADLINE_SECONDS

    def abort(self) -> None:
        """Drop the connection at once; all its calls fail."""
        if self._transport is not None:
            self._transport.abort()


class SingleStore:
    """A Store on one Redis."""

    def __init__(self, address: _Address) -> None:
        self._address = address
        self.client: Redis | RedisCluster = address.client
        self._connection: _Connection | None = None
        self._tasks = Tasks()
        self._attempted = asyncio.Event()

    @property
    def available(self) -> bool:
        """Whether a connection stands that has answered."""
        return self._connection is not None

    async def start(self) -> None:
        """Connect, and from now on reconnect whenever the connection is lost."""
        self._tasks.start(self._keep_connected(), "redis connection")
        await self._attempted.wait()

    async def _keep_connected(self) -> None:
        while True:
            try:
                async with asyncio.timeout(DEADLINE_SECONDS * 4):
                    connection = await self._connect()
            except (OSError, TimeoutError, RedisError, RedisUnavailable) as error:
                log.warning("redis is away", reason=type(error).__name__)
                self._attempted.set()
                await asyncio.sleep(_RECONNECT_SECONDS)
                continue
            self._connection = connection
            self._attempted.set()
            log.info("redis is there")
            try:
                await self._watch(connection)
            finally:
                self._connection = None
                connection.abort()

    async def _connect(self) -> _Connection:
        options = await self._address.options()
        loop = asyncio.get_running_loop()
        if path := options.get("path"):
            _, connection = await loop.create_unix_connection(_Connection, path)
        else:
            tls = True if "SSL" in getattr(options.get("connection_class"), "__name__", "") else None
            _, connection = await loop.create_connection(
                _Connection, options.get("host", "localhost"), int(options.get("port", 6379)), ssl=tls
            )
        try:
            if password := options.get("password"):
                await self._greet(connection, "AUTH", options.get("username") or "default", password)
            if db := int(options.get("db") or 0):
                await self._greet(connection, "SELECT", db)
            await self._greet(connection, "PING")
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _greet(self, connection: _Connection, *command: Arg) -> None:
        reply = await connection.call(_pack(command))
        if isinstance(reply, Exception):
            raise RedisUnavailable(f"Redis refuses {command[0]!r}.") from reply

    async def _watch(self, connection: _Connection) -> None:
        while not connection.lost.done():
            await asyncio.wait([connection.lost], timeout=DEADLINE_SECONDS / 5)
            if connection.overdue():
                log.warning("redis misses its deadline", seconds=DEADLINE_SECONDS)
                return

    async def script(self, script: Script, keys: Sequence[bytes], *args: bytes) -> Any:
        """Run a script by its SHA-1, or by its text where Redis does not know it yet."""
        try:
            return await self.command("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self.command("EVAL", script.text, len(keys), *keys, *args)

    async def command(self, *args: Arg) -> Any:
        """Run one command."""
        connection = self._connection
        if connection is None:
            raise RedisUnavailable("The store is away.", retry_after_seconds=1)
        reply = await connection.call(_pack(args))
        if isinstance(reply, Exception):
            self._refuse(reply, connection)
        return reply

    def _refuse(self, reply: Exception, connection: _Connection) -> None:
        reason = str(reply).encode()
        if reason.startswith(b"NOSCRIPT"):
            raise NoScriptError(str(reply))
        log.warning("redis refuses a command", reason=str(reply)[:200])
        if reason.startswith(_AWAY):
            connection.abort()
        raise RedisUnavailable("The store refuses.", retry_after_seconds=1) from reply

    async def close(self) -> None:
        """Close all connections."""
        await self._tasks.cancel()
        await self.client.aclose()


class ClusterStore:
    """A Store on a Redis Cluster, through redis-py: it follows slots and failovers."""

    def __init__(self, url: str) -> None:
        self.client: Redis | RedisCluster = RedisCluster.from_url(
            url, socket_timeout=_CLIENT_TIMEOUT_SECONDS, socket_connect_timeout=1
        )
        self._away_until = 0.0

    @property
    def available(self) -> bool:
        """False for a moment after a failed call."""
        return monotonic() >= self._away_until

    async def start(self) -> None:
        """Learn the slots; a cluster that is away is asked again by the first call."""
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(_CLIENT_TIMEOUT_SECONDS):
                await self.client.ping()

    async def script(self, script: Script, keys: Sequence[bytes], *args: bytes) -> Any:
        """Run a script on the node that holds its keys."""
        try:
            return await self.command("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self.command("EVAL", script.text, len(keys), *keys, *args)

    async def command(self, *args: Arg) -> Any:
        """Run one command on the node that holds its key."""
        if not self.available:
            raise RedisUnavailable("The store is away.", retry_after_seconds=1)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await self.client.execute_command(*args)
        except NoScriptError:
            raise
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            log.warning("redis cluster fails", reason=type(error).__name__)
            self._away_until = monotonic() + _RECONNECT_SECONDS
            raise RedisUnavailable("The store is away.", retry_after_seconds=1) from error

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()
