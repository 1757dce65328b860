"""Every key that Sentinel has in Redis.

One user's keys and their outbox share a hash tag `{p}`, p = CRC-32 of the user modulo PARTITIONS, so that one atomic
script works on a single Redis and on a cluster alike. Changing PARTITIONS moves every account: it is a constant, not
a setting.

A process belongs to one installation, and `use_prefix` says once, at its start, what the keys of that begin with.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

PARTITIONS = 64
"""Accounts spread over at most 64 shards; one look at every outbox is still one small pipeline (docs/scaling.md)."""

GROUP = "zion"
SCHEMA = 4
"""The number of what stands in all these keys. Another one means that two versions cannot work side by side."""
_SETTLED_BUCKET_MS = 5 * 60_000
_prefix = b""


def use_prefix(prefix: str | None) -> None:
    """From now on all keys, and the channels, begin with `prefix:`; with nothing where there is none (REDIS_PREFIX)."""
    global _prefix  # noqa: PLW0603 (a process has one installation; each name would have to carry it)
    _prefix = f"{prefix}:".encode() if prefix else b""
    account_keys.cache_clear()


def patterns() -> list[str]:
    """What the keys, and the channels, look like, as Redis' access control takes it."""
    prefix = _prefix.decode()
    of_keys = [f"~{prefix}*"] if prefix else ["~sentinel:*", "~jwt:*", "~limits:*"]
    return [*of_keys, f"&{forget()}", f"&{breakers()}"]


@dataclass(frozen=True, slots=True)
class AccountKeys:
    """The keys of one user. The order is that of KEYS in the scripts. packed: the four as they go over the wire."""

    account: bytes
    leases: bytes
    index: bytes
    outbox: bytes
    partition: int
    name: bytes
    packed: bytes

    @property
    def all(self) -> tuple[bytes, ...]:
        """KEYS of the scripts that name no request; due.lua has the index alone."""
        return (self.account, self.leases, self.index, self.outbox)

    def settle(self, started_ms: int) -> tuple[bytes, ...]:
        """KEYS of extend.lua and settle.lua. started_ms: when it was reserved, by Redis' clock; the same on retries."""
        return (self.account, self.leases, self.index, self.outbox, self.settled(settled_bucket(started_ms)))

    def settled(self, bucket: int) -> bytes:
        """The set in which a settled request is noted. bucket: `settled_bucket` of the moment of its verdict."""
        return b"%bsentinel:{%d}:settled:%d" % (_prefix, self.partition, bucket)


def settled_bucket(started_ms: int) -> int:
    """The number of the set in which a request of this moment is noted once it is settled."""
    return started_ms // _SETTLED_BUCKET_MS


def partition_of(user: str) -> int:
    """The partition that a user's keys are in."""
    return crc32(user.encode()) % PARTITIONS


@lru_cache(maxsize=16_384)
def account_keys(user: str) -> AccountKeys:
    """The keys of `user` (Zion's external id)."""
    name = user.encode()
    p = crc32(name) % PARTITIONS
    # The number is of what is in there: nobody shall read what an earlier version has written.
    account, leases = (
        b"%bsentinel:{%d}:account4:%b" % (_prefix, p, name),
        b"%bsentinel:{%d}:leases4:%b" % (_prefix, p, name),
    )
    packed = b"".join(b"$%d\r\n%b\r\n" % (len(key), key) for key in (account, leases, index(p), outbox(p)))
    return AccountKeys(account, leases, index(p), outbox(p), p, name, packed)


def index(partition: int) -> bytes:
    """Sorted set of the users with leases, by the earliest end."""
    return b"%bsentinel:{%d}:leases" % (_prefix, partition)


def outbox(partition: int) -> bytes:
    """Stream of the usage records that Zion has not acknowledged."""
    return b"%bsentinel:{%d}:outbox" % (_prefix, partition)


def dead_letters(partition: int) -> bytes:
    """Stream of the usage that Zion has refused for good."""
    return b"%bsentinel:{%d}:dead-letters" % (_prefix, partition)


def probe(number: int) -> bytes:
    """What a probe writes and deletes. number: any; its hash tag decides on which node of a cluster that is."""
    return b"%bsentinel:{%d}:probe" % (_prefix, number)


def installation() -> bytes:
    """Whose all these keys are (installation.py)."""
    return b"%bsentinel:installation" % _prefix


def forget() -> str:
    """Channel on which the name of a user tells every process to forget what it knows of them."""
    return f"{_prefix.decode()}sentinel:forget"


def breakers() -> str:
    """Channel on which processes tell one another which targets they leave alone."""
    return f"{_prefix.decode()}sentinel:breakers"


def jobs(partition: int) -> bytes:
    """What goes on at the provider and is not billed yet, by its id there."""
    return b"%bsentinel:{%d}:jobs" % (_prefix, partition)


def jobs_due(partition: int) -> bytes:
    """Sorted set of the jobs by when each is to be looked at."""
    return b"%bsentinel:{%d}:jobs:due" % (_prefix, partition)


def batches() -> bytes:
    """Batches that were sent to Zion and are not done with, by their key; and Zion's answer to each that has one."""
    return b"%bsentinel:batches" % _prefix


def deliverers() -> bytes:
    """The partitions, by who took them over last: only they note batches as sent. On the shard of `batches`."""
    return b"%bsentinel:deliverers:{%b}" % (_prefix, batches())


def unreadable_batches() -> bytes:
    """Batches that cannot be read, by their key, for an operator."""
    return b"%bsentinel:batches:unreadable" % _prefix


def members() -> bytes:
    """The processes that deliver usage."""
    return b"%bsentinel:{delivery}:members" % _prefix


def owners() -> bytes:
    """The partitions, by who delivers them."""
    return b"%bsentinel:{delivery}:owners" % _prefix


def life(partition: int) -> bytes:
    """A name that lives as long as what Redis remembers of this partition: another one after it was emptied."""
    return b"%bsentinel:{%d}:life" % (_prefix, partition)


def unreadable(partition: int) -> bytes:
    """Stream of entries of the outbox that cannot be read, for an operator; and hash fields of accounts that cannot."""
    return b"%bsentinel:{%d}:unreadable" % (_prefix, partition)


def owner(name: bytes) -> bytes:
    """Whose object of a provider this is. name: what the provider calls it."""
    return b"%bsentinel:owner:%b" % (_prefix, name)


def tiers() -> bytes:
    """The models of each tier, as the governance last said, while that is fresh."""
    return b"%bsentinel:tiers:config" % _prefix


def session(user: str, conversation: str) -> bytes:
    """The model that a user's conversation stays with."""
    return b"%bsentinel:session:%b" % (_prefix, token_digest(f"{user}\0{conversation}".encode(errors="replace")))


def context(name: bytes) -> bytes:
    """How many tokens this object of a provider brings to a request that names it."""
    return b"%bsentinel:context:%b" % (_prefix, name)


def client_secret(digest: bytes) -> bytes:
    """Whose a key of a provider is that was made for a client. digest: of the key."""
    return b"%bsentinel:client-secret:%b" % (_prefix, digest)


def token_digest(token: bytes) -> bytes:
    """SHA-256 of a JWT in hex: the only form in which a token leaves this process, but for governance."""
    return hashlib.sha256(token).hexdigest().encode()


def jwt(digest: bytes) -> bytes:
    """Who a token belongs to, while that is fresh."""
    return b"%bjwt:%b" % (_prefix, digest)


def jwt_stale(digest: bytes) -> bytes:
    """Who a token belonged to, for the time that Zion is away."""
    return b"%bjwt:stale:%b" % (_prefix, digest)


def tokens(user: str) -> bytes:
    """Sorted set of the digests of a user's tokens by their ends, for an operator who wants them forgotten."""
    # Earlier versions have a set at jwt:of:, which ends by itself.
    return b"%bjwt:ends:%b" % (_prefix, user.encode())


def forgotten(user: str) -> bytes:
    """A name that is another one each time an operator wants the user forgotten; what was known before is not kept."""
    return b"%bjwt:forgotten:%b" % (_prefix, user.encode())


def limits(user: str) -> bytes:
    """The quota that a user was last said to have, while that is fresh."""
    return b"%blimits:%b" % (_prefix, user.encode())
