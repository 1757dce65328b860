"""Which process delivers which partition: exactly one at a time, so that no record is reported twice.

Every process says every two seconds that it lives. What a process leaves behind when it dies goes to another: at once
where that one sees that the process is gone (same machine), else when its last sign of life is eight seconds old.
A process that could not say so for six seconds (it was stopped, or Redis was away) stops delivering by itself, until it
has looked again at what is still its own.
"""

from __future__ import annotations

import os
import secrets
import socket
from importlib import resources
from pathlib import Path

import structlog

from sentinel.cache import keys
from sentinel.cache.redis import Script, Store
from sentinel.clock import monotonic

log = structlog.get_logger()

HEARTBEAT_SECONDS = 2.0
LEASE_SECONDS = 8.0

_CERTAIN = 1 - HEARTBEAT_SECONDS / LEASE_SECONDS
"""Of the lease: so long nobody else can have taken what is ours. What is over is for clocks and for one heartbeat."""

_KEEP, _TAKE, _GIVE = 0, 1, 2


class PartitionOwnership:
    """The partitions of this process, and its place among all that deliver.

    lease_seconds: others take over from who was silent for so long. name: host, process and something of its own.
    """

    def __init__(self, store: Store, lease_seconds: float = LEASE_SECONDS, name: str | None = None) -> None:
        self._lease_seconds = lease_seconds
        self._store = store
        self._script = Script.of(resources.files(__package__).joinpath("partition_ownership.lua").read_text())
        self._certain_until = 0.0
        self._members: list[str] = []
        self._left = False
        self.name = name or f"{place()}|{os.getpid()}|{secrets.token_hex(3)}"
        self.owned: frozenset[int] = frozenset()

    @property
    def certain(self) -> bool:
        """Whether nobody else can have taken what is ours."""
        return monotonic() < self._certain_until

    @property
    def count(self) -> int:
        """How many processes deliver, this one included."""
        return max(1, len(self._members))

    async def heartbeat(self) -> bool:
        """Say that we live; whether what we deliver is still what it was. Raises RedisUnavailable."""
        if self._left:
            return True
        before = self.owned
        await self._call(_KEEP)
        return self.owned == before

    async def claim(self, *, idle: bool) -> bool:
        """Take what is free or was a dead process's; when idle, give what exceeds our share.

        Returns whether there is more, or less, to work on than we know of. Raises RedisUnavailable.
        """
        want = _GIVE if idle else _TAKE
        before, self._left = self.owned, False
        taken = await self._call(want)
        if self._gone():
            taken = await self._call(want) or taken
        return taken or (self.owned != before and not idle)

    async def _call(self, want: int) -> bool:
        started, before = monotonic(), self.owned
        taken, mine, members = await self._store.script(
            self._script,
            (keys.members(), keys.owners()),
            self.name.encode(),
            b"%d" % round(self._lease_seconds * 1000),
            b"%d" % keys.PARTITIONS,
            b"%d" % want,
            *(name.encode() for name in self._gone()),
        )
        self.owned = frozenset(mine)
        self._members = [name.decode(errors="replace") for name in members]
        self._certain_until = started + self._lease_seconds * _CERTAIN
        if self.owned != before:
            log.info("partitions to deliver", count=len(self.owned), processes=self.count)
        return bool(taken)

    def _gone(self) -> list[str]:
        return [name for name in self._members if is_gone(name, self.name)]

    async def release(self, *, idle: bool) -> bool:
        """Deliver no more, until the next `claim`; whether any other process still delivers.

        idle: nothing of ours is on its way, so whoever comes may start at once. Otherwise what we had is a dead
        process's now. Raises RedisUnavailable.
        """
        self._left = True
        if idle and self.owned and self.certain:
            await self._store.command("HDEL", keys.owners(), *sorted(self.owned))
        await self._store.command("ZREM", keys.members(), self.name)
        self.owned, self._certain_until = frozenset(), 0.0
        others = await self._store.command("ZRANGE", keys.members(), 0, -1)
        self._members = [name.decode(errors="replace") for name in others]
        return len(self._gone()) < len(self._members)


def place() -> str:
    """The machine, its boot and the process namespace: where a process id names one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        # Nothing to tell two machines of one name apart: names never match, and a death shows by its silence.
        boot = space = secrets.token_hex(4)
    return f"{socket.gethostname()}|{boot}|{space}"


def is_gone(name: str, me: str) -> bool:
    """Whether the process of this name ran where `me` runs, and runs no more."""
    mine, my_pid, _ = me.rsplit("|", 2)
    where, *which = name.rsplit("|", 2)
    if name == me or where != mine or len(which) != 2:
        return False
    pid = which[0]
    return pid == my_pid or not _runs(pid)


def _runs(pid: str) -> bool:
    try:
        # The state follows the command's name in parentheses; Z is dead, but nobody has looked yet.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
