"""What is wrong with the set-up of a Redis that answers: its version, what it forgets, what it does not let us do."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from sentinel.cache import keys
from sentinel.cache.connection import Arg, RedisConnection, away
from sentinel.cache.redis import Store
from sentinel.clock import monotonic
from sentinel.error import RedisUnavailable
from sentinel.tasks import pause

log = structlog.get_logger()

Topic = Literal["version", "eviction", "persistence", "commands"]
TOPICS: tuple[Topic, ...] = ("version", "eviction", "persistence", "commands")
OLDEST_REDIS = (7, 0)

_EVERY_SECONDS = 60.0
_LOOK_SECONDS, _PROVE_SECONDS = 0.5, 5.0
_NO_SCRIPT = "0" * 40
_NO_FUNCTION = "sentinel_none"
_WRITES_STREAM, _READS_STREAM = ("*", "field", "value"), ("-", "+", "COUNT", "1")

COMMANDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("DEL",): (),
    ("EVALSHA",): (_NO_SCRIPT, "0"),
    ("EXPIRE",): ("1000",),
    ("FCALL",): (_NO_FUNCTION, "0"),
    ("FUNCTION", "LOAD"): ("nothing",),
    ("GET",): (),
    ("GETEX",): (),
    ("HDEL",): ("field",),
    ("HEXISTS",): ("field",),
    ("HGET",): ("field",),
    ("HGETALL",): (),
    ("HLEN",): (),
    ("HMGET",): ("field",),
    ("HSET",): ("field", "value"),
    ("INFO",): ("server",),
    ("MGET",): (),
    ("PEXPIRE",): ("1000",),
    ("PUBLISH",): (),
    ("SADD",): ("member",),
    ("SCRIPT", "LOAD"): ("return 1",),
    ("SET",): ("value",),
    ("SETRANGE",): ("0", ""),
    ("SISMEMBER",): ("member",),
    ("TIME",): (),
    ("XACK",): (keys.GROUP, "0-1"),
    ("XADD",): _WRITES_STREAM,
    ("XDEL",): ("0-1",),
    ("XGROUP", "CREATE"): (keys.GROUP, "0"),
    ("XLEN",): (),
    ("XRANGE",): _READS_STREAM,
    ("XREADGROUP",): ("GROUP", keys.GROUP, "inspection", "COUNT", "1", "STREAMS"),
    ("XREVRANGE",): ("+", "-", "COUNT", "1"),
    ("ZADD",): ("1", "member"),
    ("ZCARD",): (),
    ("ZINCRBY",): ("1", "member"),
    ("ZPOPMIN",): (),
    ("ZRANGE",): ("0", "0"),
    ("ZRANGEBYSCORE",): ("0", "0"),
    ("ZREM",): ("member",),
    ("ZREMRANGEBYSCORE",): ("0", "0"),
    ("ZSCORE",): ("member",),
}
"""Every command that we or our scripts use, with arguments that its key is put before. Each is tried: Redis looks at
whether it lets us before it looks at the type of the key. SUBSCRIBE is redis-py's."""

_NAMES = re.compile(r"\b(keys?|channels?)\b")
"""In a refusal that is about what a command is to work on, not about the command."""
_WITHOUT_KEY = {"EVALSHA", "FCALL", "FUNCTION", "INFO", "SCRIPT", "TIME"}


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing that is wrong. said: what it is; remedy: what to do about it."""

    what: Topic
    said: str
    remedy: str

    def line(self) -> str:
        """Both, in one line."""
        return f"redis {self.what}: {self.said} -> {self.remedy}"


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found on all masters: their versions, and what is wrong."""

    versions: str
    flaws: tuple[Flaw, ...]


async def inspect(store: Store) -> Inspection:
    """Look at every master of this store that is there. Raises RedisUnavailable where none is."""
    masters = store.masters()
    looks = await asyncio.gather(*(_look_at(*master) for master in masters), return_exceptions=True)
    found = []
    for look in looks:
        if not isinstance(look, RedisUnavailable):
            if isinstance(look, BaseException):
                raise look
            found.append(look)
    if not found:
        raise away()
    count = Counter(flaw for _, flaws in found for flaw in flaws)
    return Inspection(
        ", ".join(sorted({version for version, _ in found})),
        tuple(_of(flaw, times, len(masters)) for flaw, times in sorted(count.items(), key=lambda c: c[0].what)),
    )


def _of(flaw: Flaw, times: int, masters: int) -> Flaw:
    return Flaw(flaw.what, f"{flaw.said} (on {times} of {masters} masters)", flaw.remedy) if masters > 1 else flaw


async def _look_at(master: RedisConnection, number: int) -> tuple[str, list[Flaw]]:
    [info] = await master.replies([("INFO",)])
    facts = _facts(info) if isinstance(info, bytes) else {}
    version = facts.get("valkey_version") or facts.get("redis_version", "not told")
    if _is_old(version):
        return version, [Flaw("version", f"{version} cannot run our functions", "use Redis 7.0 or later, or Valkey")]
    return version, _of_facts(facts) + await _refusals(master, number)


def _facts(info: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _is_old(version: str) -> bool:
    parts = version.split(".")[:2]
    return all(part.isdecimal() for part in parts) and tuple(map(int, parts)) < OLDEST_REDIS


def _of_facts(facts: Mapping[str, str]) -> list[Flaw]:
    flaws = []
    if (policy := facts.get("maxmemory_policy", "noeviction")) != "noeviction":
        flaws.append(Flaw("eviction", policy, "set maxmemory-policy to noeviction: usage and limits may vanish"))
    if facts.get("aof_enabled", "1") != "1":
        remedy = "set appendonly yes: a restart of Redis would lose usage that waits for Zion"
        flaws.append(Flaw("persistence", "no append-only file", remedy))
    return flaws


async def _refusals(master: RedisConnection, number: int) -> list[Flaw]:
    """Commands that this Redis does not know, or does not let us run; keys and channels that it denies us."""
    key = keys.probe(number)
    tried = [_tried(name, rest, key) for name, rest in COMMANDS.items()]
    others: list[tuple[Arg, ...]] = [
        ("GET", keys.jwt(b"probe")),
        ("GET", keys.limits("probe")),
        # No news.
        ("PUBLISH", keys.breakers(), ""),
        ("DEL", key),
    ]
    replies = await master.replies([*tried, *others])
    refusals = [str(reply) if isinstance(reply, Exception) else "" for reply in replies]
    of_names = [bool(reply.startswith("NOPERM") and _NAMES.search(reply)) for reply in refusals]
    told = list(zip(COMMANDS, refusals, of_names, strict=False))
    unknown = [name for name, reply, _ in told if reply.startswith("ERR unknown command")]
    denied = [name for name, reply, of_name in told if reply.startswith("NOPERM") and not of_name]
    flaws = []
    if unknown:
        flaws.append(Flaw("commands", f"does not know {_listed(unknown)}", "take rename-command out of its settings"))
    if denied:
        rights = " ".join(f"+{'|'.join(name).lower()}" for name in denied)
        flaws.append(Flaw("commands", f"does not permit {_listed(denied)}", f"ACL SETUSER NAME {rights}"))
    if any(of_names):
        flaws.append(Flaw("commands", "denies us keys or channels", f"ACL SETUSER NAME {' '.join(keys.patterns())}"))
    return flaws


def _listed(names: Sequence[tuple[str, ...]]) -> str:
    return ", ".join(" ".join(name) for name in names)


def _tried(name: tuple[str, ...], rest: tuple[str, ...], key: bytes) -> tuple[Arg, ...]:
    match name[0]:
        case "PUBLISH":
            # To nobody: no user has this name.
            return ("PUBLISH", keys.forget(), "")
        case "XREADGROUP":
            return (*name, *rest, key, ">")
        case word if word in _WITHOUT_KEY:
            return (*name, *rest)
    return (*name, key, *rest)


class Inspector:
    """Looks at the set-up of Redis at the start, whenever a connection is made anew, and now and then.

    prove: finds out whether we may call a Redis of nobody ours. on_flaws: told which topics are flawed, after each
    look. flaws: what was found at the last.
    """

    def __init__(
        self, store: Store, prove: Callable[[], Awaitable[bool]], on_flaws: Callable[[Sequence[Topic]], None]
    ) -> None:
        self._store = store
        self._prove = prove
        self._on_flaws = on_flaws
        self._connects = -1
        self.flaws: tuple[Flaw, ...] = ()

    async def look(self) -> None:
        """Look once, and say in the log what is new. What was wrong stays so while Redis is away."""
        connects = self._store.connects
        try:
            found = (await inspect(self._store)).flaws
        except RedisUnavailable:
            log.debug("the set-up of redis is not known while it is away")
            return
        for flaw in found:
            if flaw not in self.flaws:
                log.warning("redis is not set up as it should be", what=flaw.what, found=flaw.said, remedy=flaw.remedy)
        if self.flaws and not found:
            log.info("redis is set up as it should be")
        self.flaws, self._connects = found, connects
        self._on_flaws([flaw.what for flaw in found])

    async def run(self) -> None:
        """Look for ever, and see to it that Redis is ours."""
        proven, proved_at, looked_at = False, float("-inf"), monotonic()
        while True:
            if not proven and monotonic() - proved_at >= _PROVE_SECONDS:
                proven, proved_at = await self._prove(), monotonic()
                await self._store.claim()
            anew = self._store.available and self._store.connects != self._connects
            if anew or monotonic() - looked_at >= _EVERY_SECONDS:
                looked_at = monotonic()
                await self._store.claim()
                await self.look()
            await pause(_LOOK_SECONDS)
