"""Jobs: what a provider goes on with after its answer, such as a response in the background, or a batch.

Each is written down, in the partition of its user, before the answer that has begun it leaves. Any process may look how
far it is (`proxy/job_follower.py`); whoever settles it takes it away in the same step, so it is billed once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib import resources

import msgspec
import structlog

from sentinel.cache import keys
from sentinel.cache.redis import Script
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.limits.policy import Cost, Reservation
from sentinel.usage.streams import answers_of, pairs

log = structlog.get_logger()

_AGAIN_MS = 600_000
"""A job that nobody can read is told of so often."""
_ALWAYS, _IF_THERE, _IF_LOST = range(3)
"""When a job is written (put_job.lua)."""


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job, and the reservation of the request that has begun it.

    id: at the provider; kind: its family of paths there, such as `responses`. input_tokens, output_tokens: reserved.
    started_ms: the moment of the verdict, by Redis' clock. is_held: the reservation is kept until the job ends.
    hides_output: the model bills more than it shows. missing_ms: since when the provider does not know it, 0 = it does.
    below: the id of the object that it is below there, "" = none. place: the provider's name, "" = the one for all.
    """

    id: str
    kind: str
    request_id: str
    user: str
    email: str
    model: str
    input_tokens: int
    output_tokens: int
    started_ms: int
    is_held: bool = True
    hides_output: bool = False
    missing_ms: int = 0
    below: str = ""
    place: str = ""

    @property
    def reservation(self) -> Reservation:
        """As the ledger knows it."""
        return Reservation(self.request_id, self.user, self.email, self.model, self.input_tokens, self.output_tokens)


class JobStore:
    """The jobs of all users. Every method may raise RedisUnavailable.

    on_unreadable: told where something was, that cannot be read. noted: told of what Redis must not forget, as
    BatchingUsageTracker.noted is. A job that was settled and is put again is settled before, and so costs nothing.
    """

    def __init__(
        self,
        ledger: RedisLedger,
        on_unreadable: Callable[[str], None] = lambda _: None,
        noted: Callable[[str, str, Callable[[], Awaitable[bool]]], None] = lambda _id, _user, _again: None,
    ) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._on_unreadable = on_unreadable
        self._noted = noted
        self._put, self._take = (
            Script.of(resources.files(__package__).joinpath(f"{what}.lua").read_text())
            for what in ("put_job", "take_jobs")
        )

    async def put(self, job: Job, seconds: float, *, if_there: bool = False) -> bool:
        """Write down a job that is to be looked at after so long; False if it is to be there, and is not."""
        done = await self._write(job, seconds, _IF_THERE if if_there else _ALWAYS)
        if not if_there:
            self._noted(f"job {job.id}", job.user, lambda: self._write(job, seconds, _IF_LOST))
        return done

    async def _write(self, job: Job, seconds: float, when: int) -> bool:
        words = job.id, msgspec.json.encode(job), round(seconds * 1000), when
        return bool(await self._store.script(self._put, _names(keys.partition_of(job.user)), *words))

    async def due(self, partition: int, seconds: float, most: int) -> Sequence[Job]:
        """Jobs that are to be looked at now; for so long nobody else is told of them."""
        told = await self._store.script(self._take, _names(partition), round(seconds * 1000), most)
        found = []
        for id_, written in pairs(told).items():
            job = _read(id_, written, partition)
            if job is None:
                await self._set_aside(partition, id_)
            else:
                found.append(job)
        return found

    async def find(self, user: str, id_: str) -> Job | None:
        """The job of this user with this id, if it is not settled yet."""
        partition = keys.partition_of(user)
        written = await self._store.command("HGET", keys.jobs(partition), id_)
        job = None if written is None else _read(id_.encode(), written, partition)
        return job if job is not None and job.user == user else None

    async def find_below(self, user: str, id_: str) -> Sequence[Job]:
        """The jobs of this user below this object that are not settled yet."""
        partition = keys.partition_of(user)
        written = pairs(await self._store.command("HGETALL", keys.jobs(partition)))
        jobs = (_read(name, job, partition) for name, job in written.items())
        return [job for job in jobs if job is not None and (job.user, job.below) == (user, id_)]

    async def renew(self, job: Job) -> None:
        """Keep the job's reservation for as long as a lease."""
        await self._ledger.extend(job.reservation, job.output_tokens, 0, -1, job.started_ms)

    async def settle(self, job: Job, spent: Cost, cost_micro_usd: int = 0) -> bool:
        """Bill a job that has ended; False if that was done before."""
        return await self._ledger.settle_job(job.reservation, spent, job.started_ms, job.id, cost_micro_usd)

    async def counts(self) -> list[int]:
        """How many jobs of each partition are not settled yet."""
        names = [keys.jobs_due(p) for p in range(keys.PARTITIONS)]
        return [int(n) for n in await answers_of(lambda name: self._store.command("ZCARD", name), names)]

    async def _set_aside(self, partition: int, id_: bytes) -> None:
        """It stays, for an operator, and in nobody's way."""
        self._on_unreadable("jobs")
        log.error("a job cannot be read", partition=partition, job=id_.decode(errors="replace")[:64])
        await self._store.command("ZINCRBY", keys.jobs_due(partition), _AGAIN_MS, id_)


def _names(partition: int) -> tuple[bytes, bytes]:
    """KEYS of the scripts."""
    return keys.jobs(partition), keys.jobs_due(partition)


def _read(id_: bytes, written: bytes, partition: int) -> Job | None:
    try:
        job = msgspec.json.decode(written, type=Job)
    except (ValueError, RecursionError):
        return None
    return job if job.id.encode() == id_ and keys.partition_of(job.user) == partition else None
