"""The connection to Redis: a single server, the master behind Redis Sentinel, or a cluster.

Scripts and single commands go over the multiplexed connections of `connection.py`; redis-py (`client`) listens to
channels, finds the master behind Redis Sentinel, and serves operators. Long for it has all three kinds of store, which
share what a call is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from typing import Any, Protocol

import structlog
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from sentinel.cache.connection import (
    DEADLINE_SECONDS,
    RECONNECT_SECONDS,
    Admission,
    Arg,
    Command,
    Endpoint,
    Moved,
    RedisConnection,
    away,
    pack,
)
from sentinel.cache.installation import Installation
from sentinel.error import ForeignStore, RedisUnavailable
from sentinel.redis_address import Login, RedisAddress, parse_redis_url
from sentinel.tasks import Tasks

log = structlog.get_logger()

_CLIENT_TIMEOUT_SECONDS = 5
_MOST_TAGS = 4096
"""Looked through for one on each node: 8 ms, at most once a second, where a node has next to no slots."""
_LEARN_SECONDS = 60.0
"""The slots are asked for this often even if no call fails: no connection to a node that is gone stays for ever."""


@dataclass(frozen=True, slots=True)
class Script:
    """What runs inside of Redis. words: how it is called; load: the command that makes it known there, packed."""

    words: tuple[str, str]
    load: bytes

    @classmethod
    def of(cls, text: str) -> Script:
        """A script that stands for itself."""
        return cls(("EVALSHA", _sha1(text)), pack(("SCRIPT", "LOAD", text)))

    @classmethod
    def library(cls, folder: Traversable, common: str, policy: str, reading: Collection[str]) -> dict[str, Script]:
        """The `*.lua` files of a folder as functions of KEYS and ARGV, by their names.

        policy: a Lua table; common: the file that all build on, with `whole`, which runs them; reading: those that
        write nothing: Redis sees to that, and runs them when it is full, too. It compiles a library once, where a
        script makes its tables and functions anew in each call. The names have a hash of it all, so that a replica with
        other settings or of another version can be served beside this one.
        """
        texts = {path.name.removesuffix(".lua"): path.read_text() for path in folder.iterdir() if ".lua" in path.name}
        shared = constants_of(texts[common])
        texts = {name: with_constants(text, shared | constants_of(text)) for name, text in texts.items()}
        head = f"local POLICY = {policy}\n{texts.pop(common)}"
        version = _sha1(head + "".join(texts[name] for name in sorted(texts)))[:12]
        parts = [f"#!lua name=sentinel_{version}\n{head}"]
        for name, text in sorted(texts.items()):
            flags = "'no-writes'" if name in reading else ""
            function = f"whole(function(KEYS, ARGV)\n{text}end)"
            parts.append(
                f"redis.register_function{{function_name='{name}_{version}', flags={{{flags}}}, callback={function}}}\n"
            )
        load = pack(("FUNCTION", "LOAD", "REPLACE", "".join(parts)))
        return {name: cls(("FCALL", f"{name}_{version}"), load) for name in texts}

    def packed(self, keys: Sequence[bytes], args: Sequence[Arg]) -> bytes:
        """A call of it as it goes over the wire."""
        return pack((*self.words, len(keys), *keys, *args))

    def opening(self, keys: int, args: int) -> bytes:
        """How a call begins that has so many keys and arguments; these follow, each with its length before it."""
        start = pack((*self.words, keys))
        return b"*%d%b" % (3 + keys + args, start[start.index(b"\r\n") :])


_CONSTANTS = re.compile(r"^local ([A-Z][A-Z_]*(?:, [A-Z][A-Z_]*)*) = (-?[0-9]+(?:, -?[0-9]+)*)", re.MULTILINE)
_COMMENT_STRING_OR_NAME = re.compile(r"--.*|'[^']*'|\b[A-Z][A-Z_]*\b")


def constants_of(text: str) -> dict[str, str]:
    """The numbers that a Lua text names in capitals, each declaration in a line of its own."""
    found: dict[str, str] = {}
    for names, numbers in _CONSTANTS.findall(text):
        found |= zip(names.split(", "), numbers.split(", "), strict=True)
    return found


def with_constants(text: str, constants: Mapping[str, str]) -> str:
    """A Lua text with these numbers in place of their names, and without their declarations.

    To Lua 5.1 a name is a variable, and each use of it an instruction more: an eighth of all those of our scripts.
    """
    bare = _CONSTANTS.sub("", text)
    return _COMMENT_STRING_OR_NAME.sub(lambda found: constants.get(found[0], found[0]), bare)


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Store(Protocol):
    """What Sentinel needs of a Redis, single or cluster."""

    client: Redis | RedisCluster

    @property
    def failure(self) -> Exception | None:
        """Why there was no connection at the last attempt, None after one that succeeded."""

    @property
    def available(self) -> bool:
        """False while calls fail at once."""

    @property
    def whole(self) -> bool:
        """Whether every connection stands."""

    @property
    def connects(self) -> int:
        """Changes whenever a connection was made anew: what is there now may have lost its last moments."""

    @property
    def outage_seconds(self) -> float:
        """How long a connection was lost before it was made anew; of several the longest."""

    async def start(self) -> None:
        """Try to connect; returns after the first attempt, keeps trying in the background."""

    def masters(self) -> list[tuple[RedisConnection, int]]:
        """The connection to each server that takes writes, and a number whose hash tag is that server's."""

    async def claim(self) -> None:
        """See again whose this Redis is; if it never was ours, calls fail from here on."""

    def script(self, script: Script, keys: Sequence[bytes], *args: Arg) -> Awaitable[Any]:
        """Run a script. Raises RedisUnavailable."""

    def run(self, script: Script, key: bytes, packed: bytes) -> Awaitable[Any]:
        """Run a script whose call is packed. key: one of its keys. Raises RedisUnavailable."""

    def command(self, *args: Arg, key: bytes | None = None) -> Awaitable[Any]:
        """Run one command. key: its key, where that is not the second word. Raises RedisUnavailable."""

    async def close(self) -> None:
        """Close all connections."""


def open_store(
    url: str,
    meanwhile: str | None = None,
    installation: Installation | None = None,
    *,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> Store:
    """The Store for a REDIS_URL. Raises ValueError for one that is wrong.

    meanwhile: what becomes of requests while it is away, for the log. installation: ours; a Redis of another one is as
    good as away. None where that does not matter. deadline_seconds: how long a call may wait.
    """
    address = parse_redis_url(url)
    admission = installation.claim if installation else _admit_any
    if address.kind == "cluster":
        return ClusterStore(address, meanwhile, admission, deadline_seconds)
    if address.kind == "sentinel":
        return SingleStore(_SentinelAddress(address, deadline_seconds), meanwhile, admission, deadline_seconds)
    return SingleStore(_FixedAddress(address), meanwhile, admission, deadline_seconds)


async def _admit_any(_: Command, __: bool) -> None:
    return


def _endpoint(address: RedisAddress) -> Endpoint:
    """Its first host. Reads the files of TLS."""
    host, port = address.hosts[0] if address.hosts else ("", 0)
    tls = address.tls.context() if address.tls else None
    return Endpoint(host, port, address.path, address.login, address.db, tls)


def _login_and_tls(address: RedisAddress, login: Login) -> dict[str, Any]:
    """The same for redis-py, as its keywords."""
    options: dict[str, Any] = {"username": login.username, "password": login.password}
    if tls := address.tls:
        options |= {"ssl": True, "ssl_ca_certs": tls.ca_file, "ssl_certfile": tls.cert_file}
        options |= {"ssl_keyfile": tls.key_file, "ssl_cert_reqs": "required" if tls.verify else "none"}
        options |= {"ssl_check_hostname": tls.verify and tls.check_hostname}
    return options


class _FixedAddress:
    def __init__(self, address: RedisAddress) -> None:
        self._endpoint = at = _endpoint(address)
        self.name = at.path or f"{at.host}:{at.port}"
        self.client = Redis(
            host=self._endpoint.host,
            port=self._endpoint.port,
            unix_socket_path=self._endpoint.path or None,
            db=address.db,
            socket_timeout=_CLIENT_TIMEOUT_SECONDS,
            socket_connect_timeout=1,
            **_login_and_tls(address, address.login),
        )

    async def endpoint(self) -> Endpoint:
        return self._endpoint

    async def close(self) -> None:
        await self.client.aclose()


class _SentinelAddress:
    """The master behind Sentinels, which is asked for at each connect."""

    def __init__(self, address: RedisAddress, deadline_seconds: float) -> None:
        self._master = address.master
        self.name = f"{address.master} of {','.join(f'{host}:{port}' for host, port in address.hosts)}"
        self._of_master = _endpoint(address)
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            address.hosts,
            sentinel_kwargs={
                "socket_timeout": deadline_seconds,
                "socket_connect_timeout": deadline_seconds,
                # Whoever asks asks every Sentinel in turn, and the connection asks again.
                "retry": Retry(NoBackoff(), 0),
                **_login_and_tls(address, address.sentinel_login),
            },
        )
        self.client = self._sentinel.master_for(
            address.master,
            db=address.db,
            socket_timeout=_CLIENT_TIMEOUT_SECONDS,
            **_login_and_tls(address, address.login),
        )

    async def endpoint(self) -> Endpoint:
        host, port = await self._sentinel.discover_master(self._master)
        return replace(self._of_master, host=host, port=port)

    async def close(self) -> None:
        for client in (self.client, *self._sentinel.sentinels):
            await client.aclose()


class SingleStore(RedisConnection):
    """A Store on one Redis."""

    def __init__(
        self,
        address: _FixedAddress | _SentinelAddress,
        meanwhile: str | None,
        admission: Admission,
        deadline_seconds: float,
    ) -> None:
        super().__init__(address, meanwhile, admission, deadline_seconds)
        self.client: Redis | RedisCluster = address.client
        self._close_clients = address.close

    def masters(self) -> list[tuple[RedisConnection, int]]:
        """The one there is."""
        return [(self, 0)]

    def script(self, script: Script, keys: Sequence[bytes], *args: Arg) -> Awaitable[Any]:
        """Run a script, which is loaded first where Redis does not know it."""
        return self.call(script.packed(keys, args), script.load)

    def run(self, script: Script, key: bytes, packed: bytes) -> Awaitable[Any]:  # noqa: ARG002 (there is one node)
        """Run a script whose call is packed."""
        return self.call(packed, script.load)

    async def close(self) -> None:
        """Close all connections."""
        await super().close()
        await self._close_clients()


_Node = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _NodeAddress:
    at: Endpoint
    name: str

    async def endpoint(self) -> Endpoint:
        return self.at


class ClusterStore:
    """A Store on a Redis Cluster: a connection to each master, of which each is up or away by itself.

    Who has which slots is learned at the start, whenever a call fails or is sent on, and now and then. A slot that is
    on its way from node to node is away: a script cannot run while some of its keys are here and some there.
    """

    def __init__(
        self, address: RedisAddress, meanwhile: str | None, admission: Admission, deadline_seconds: float
    ) -> None:
        self._meanwhile = meanwhile
        self._admission = admission
        self._deadline_seconds = deadline_seconds
        self._foreign: ForeignStore | None = None
        self._claimed = self._connects_of_gone = 0
        self._unknown = False
        self._seed: _Node = address.hosts[0]
        self.client: Redis | RedisCluster = RedisCluster(
            *self._seed,
            socket_timeout=_CLIENT_TIMEOUT_SECONDS,
            socket_connect_timeout=1,
            **_login_and_tls(address, address.login),
        )
        self._any_node = _endpoint(address)
        self._connections: dict[_Node, RedisConnection] = {}
        self._slots: list[_Node] = [self._seed] * 16_384
        self._learn_soon = asyncio.Event()
        self._tasks = Tasks()

    @property
    def available(self) -> bool:
        """Whether any node can be reached; users of a node that cannot are refused all the same."""
        return self._foreign is None and any(one.available for one in self._connections.values())

    @property
    def failure(self) -> Exception | None:
        """Why a node cannot be reached, or must not be used."""
        return self._foreign or next((one.failure for one in self._connections.values() if one.failure), None)

    @property
    def whole(self) -> bool:
        """Whether every node can be reached."""
        return bool(self._connections) and all(one.available for one in self._connections.values())

    @property
    def connects(self) -> int:
        """Connections made to all nodes, also to those that are gone: it never returns to what it was."""
        return self._connects_of_gone + sum(one.connects for one in self._connections.values())

    @property
    def outage_seconds(self) -> float:
        """The longest of all nodes' last ones."""
        return max((one.outage_seconds for one in self._connections.values()), default=0.0)

    async def start(self) -> None:
        """Learn the slots, and from now on follow them."""
        await self._learn()
        await self.claim()
        self._tasks.keep(self._follow, "cluster slots")

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEARN_SECONDS):
                    await self._learn_soon.wait()
            self._learn_soon.clear()
            await self._learn()
            await self.claim()
            await asyncio.sleep(RECONNECT_SECONDS)

    def masters(self) -> list[tuple[RedisConnection, int]]:
        """The connection to each master that has slots, and a number whose hash tag is in one of them."""
        found: dict[_Node, int] = {}
        owners = set(self._slots)
        for number in range(_MOST_TAGS):
            found.setdefault(self._slots[key_slot(b"%d" % number)], number)
            if len(found) == len(owners):
                break
        return [(self._connections[node], number) for node, number in found.items() if node in self._connections]

    async def claim(self) -> None:
        """See again whose this cluster is; while it is another's, calls fail."""
        anew, self._claimed = self._claimed != self.connects, self.connects
        try:
            await self._admission(lambda *words: self._at_its_node(words[1], lambda node: node.command(*words)), anew)
        except ForeignStore as error:
            if self._foreign is None:
                log.warning(
                    "redis is away",
                    address=":".join(map(str, self._seed)),
                    reason=error.message,
                    meanwhile=self._meanwhile,
                )
            self._foreign = error
        except RedisUnavailable:
            log.debug("nobody tells whose the redis cluster is")
        else:
            self._foreign = None

    async def _learn(self) -> None:
        """Ask nodes until one tells the slots, and keep connections to their masters alone."""
        for node in [*random.sample(list(self._connections), len(self._connections)), self._seed]:
            connection = await self._connection(node)
            try:
                ranges = await connection.command("CLUSTER", "SLOTS")
            except RedisUnavailable:
                continue
            slots = self._slots.copy()
            for first, last, (host, port, *_), *_ in ranges:
                slots[first : last + 1] = [(host.decode() if host else node[0], port)] * (last - first + 1)
            for owner in set(slots):
                await self._connection(owner)
            self._slots, self._unknown = slots, False
            await self._forget(set(self._connections) - set(slots))
            return
        if not self._unknown:
            log.warning("no node of the redis cluster tells who has which slots", meanwhile=self._meanwhile)
        self._unknown = True

    async def _connection(self, node: _Node) -> RedisConnection:
        if node not in self._connections:
            address = _NodeAddress(replace(self._any_node, host=node[0], port=node[1]), f"{node[0]}:{node[1]}")
            self._connections[node] = RedisConnection(address, self._meanwhile, deadline_seconds=self._deadline_seconds)
            await self._connections[node].start()
        return self._connections[node]

    async def _forget(self, nodes: set[_Node]) -> None:
        for node in nodes:
            connection = self._connections.pop(node)
            self._connects_of_gone += connection.connects
            await connection.close()

    async def script(self, script: Script, keys: Sequence[bytes], *args: Arg) -> Any:
        """Run a script on the node that holds its keys."""
        return await self.run(script, keys[0], script.packed(keys, args))

    async def run(self, script: Script, key: bytes, packed: bytes) -> Any:
        """Run a script whose call is packed on the node that holds its keys."""
        return await self._on_its_node(key, lambda connection: connection.call(packed, script.load))

    async def command(self, *args: Arg, key: bytes | None = None) -> Any:
        """Run one command on the node that holds its key."""
        if key is None:
            key = args[1] if isinstance(args[1], bytes) else str(args[1]).encode()
        return await self._on_its_node(key, lambda connection: connection.command(*args))

    async def _on_its_node(self, key: bytes, call: Callable[[RedisConnection], Awaitable[Any]]) -> Any:
        if self._foreign is not None:
            self._learn_soon.set()
            raise away()
        return await self._at_its_node(key, call)

    async def _at_its_node(self, key: bytes, call: Callable[[RedisConnection], Awaitable[Any]]) -> Any:
        slot = key_slot(key)
        connection = self._connections.get(self._slots[slot])
        try:
            if connection is None:
                raise away()
            return await call(connection)
        except Moved as moved:
            self._learn_soon.set()
            self._slots[slot] = moved.address
            return await call(await self._connection(moved.address))
        except RedisUnavailable:
            self._learn_soon.set()
            raise

    async def close(self) -> None:
        """Close all connections."""
        await self._tasks.cancel()
        await self._forget(set(self._connections))
        await self.client.aclose()
