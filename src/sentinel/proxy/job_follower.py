"""Follows jobs until they end, and bills them: a response in the background, a batch, a run (DESIGN P2).

Every process looks for jobs that are due, in all partitions, and takes them for a while; so one goes on being followed
whoever dies. Until a job ends its reservation is renewed as a lease is. A client that asks for its job may be who
finds its end: it is billed then, before the client hears of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import structlog
from msgspec.structs import replace

from sentinel.cache.contexts import ContextRecords
from sentinel.clock import monotonic, now_ms
from sentinel.endpoints.jobs import Progress, has_cost, path_of, progress_of
from sentinel.error import ModelNotFound, RedisRefused, RedisUnavailable, UpstreamError, UpstreamTimeout
from sentinel.limits.policy import Cost
from sentinel.prices.catalog import UNPRICED, Prices
from sentinel.proxy import billing
from sentinel.proxy.batch_results import usage_of_results
from sentinel.proxy.billing import SPENT_NOTHING, Spent
from sentinel.proxy.provider import AiProvider
from sentinel.proxy.registry import Registry, Target
from sentinel.steps import in_portions
from sentinel.tasks import pause
from sentinel.tokens.counter import TokenCounter, is_large
from sentinel.tokens.loose import Reading
from sentinel.tokens.usage import NOTHING, Usage
from sentinel.usage.job_store import Job, JobStore
from sentinel.usage.streams import answers_of

log = structlog.get_logger()

T = TypeVar("T")

_EVERY_SECONDS = 1.0
_AGAIN_SECONDS = 0.1
_OF_ITS_AGE = 8
"""A job is looked at again after an eighth of the time that it has taken so far."""
_AT_ONCE = 16
"""Jobs that one process asks for at the same time, and takes of one partition at once."""


@dataclass(frozen=True, slots=True)
class JobTimings:
    """Seconds. pause, longest_pause: between two looks at a job, the first and the last that grow with its age.

    taken: so long nobody else looks at it; who dies meanwhile holds it up by no more. missing: so long a job is waited
    for that its provider does not know. patience: so long Redis is waited for to write one down.
    """

    pause: float = 2.0
    longest_pause: float = 60.0
    taken: float = 20.0
    missing: float = 60.0
    patience: float = 5.0


class JobFollower:
    """Of one process. on_billed: told the model of each job that has ended, its cost, and that in micro-USD.

    threads: what is long is read and counted there: an ended response may have megabytes.
    """

    def __init__(
        self,
        jobs: JobStore,
        contexts: ContextRecords,
        registry: Registry,
        counter: TokenCounter,
        threads: Executor,
        *,
        lease_seconds: float,
        on_billed: Callable[[str, Cost, int | None], None] = lambda _model, _cost, _micro_usd: None,
        timings: JobTimings | None = None,
    ) -> None:
        self._timings = timings or JobTimings()
        self._jobs = jobs
        self._contexts = contexts
        self._registry = registry
        self._counter = counter
        self._threads = threads
        self._renew_seconds = lease_seconds / 3
        self._reading = WeakValueDictionary[str, asyncio.Lock]()
        self._on_billed = on_billed

    async def run(self) -> None:
        """Look for ever, at moments of its own."""
        while True:
            await pause(_EVERY_SECONDS * (0.5 + random.random()))  # noqa: S311 (no secret)
            try:
                await self.look()
            except RedisRefused:
                raise
            except RedisUnavailable:
                log.debug("jobs wait for redis")

    async def look(self) -> None:
        """Look at all jobs that are due. Raises RedisUnavailable."""
        counts = await self._jobs.counts()
        # As a rule there are none. To ask for those that are due costs Redis ten times as much.
        partitions = [p for p, count in enumerate(counts) if count]
        taken_seconds = min(self._timings.taken, 2 * self._renew_seconds)
        due = await answers_of(lambda p: self._jobs.due(p, taken_seconds, _AT_ONCE), partitions)
        found = [job for jobs in due for job in jobs]
        for some in in_portions(found, _AT_ONCE):
            await asyncio.gather(*map(self._look_at, some))

    async def begin(self, job: Job) -> bool:
        """Follow this job from now on; False if Redis is away for so long that it cannot be written down."""
        until = monotonic() + self._timings.patience
        while True:
            try:
                return await self._jobs.put(job, self._timings.pause)
            except RedisUnavailable:
                if monotonic() > until:
                    return False
            await pause(_AGAIN_SECONDS)

    async def is_followed(self, user: str, id_: str) -> bool:
        """Whether this is a job of the user's that is not billed yet; no while Redis is away."""
        try:
            return await self._jobs.find(user, id_) is not None
        except RedisUnavailable:
            return False

    async def look_before(self, user: str, id_: str) -> None:
        """This is about to be deleted: if it is a job that has ended, nobody could tell afterwards what it has cost."""
        with contextlib.suppress(RedisUnavailable):
            job = await self._jobs.find(user, id_)
            if job is not None:
                await self._look_at(job)

    async def look_below(self, user: str, id_: str) -> None:
        """The same for all that is below what is about to be deleted."""
        with contextlib.suppress(RedisUnavailable):
            for job in await self._jobs.find_below(user, id_):
                await self._look_at(job)

    async def saw(self, user: str, kind: str, body: bytes) -> None:
        """This is about to be told to a client of an object of this user: bill it if it is a job that has ended.

        Raises RedisUnavailable: then whoever looks next bills it.
        """
        progress = await self._aside(len(body), progress_of, kind, body)
        if progress is None or not progress.is_over:
            return
        job = await self._jobs.find(user, progress.id)
        if job is not None:
            await self._end(job, progress)

    async def settle(self, job: Job, spent: Cost, cost_micro_usd: int = 0) -> None:
        """Bill a job whose end was seen in a stream. While Redis is away that is left to whoever looks next."""
        try:
            await self._jobs.settle(job, spent, cost_micro_usd)
        except RedisUnavailable:
            log.info("a job is billed later", request_id=job.request_id)

    async def _look_at(self, job: Job) -> None:
        if job.is_held:
            await self._jobs.renew(job)
        try:
            provider = self._provider_of(job)
            answer = await provider.get(path_of(job.kind, job.id, job.below), job.request_id)
        except (UpstreamError, UpstreamTimeout, ModelNotFound):
            await self._look_later(job)
            return
        progress = None
        if answer.status == 200:
            progress = await self._aside(len(answer.body), progress_of, job.kind, answer.body)
        if progress is not None and progress.is_over:
            await self._end(job, progress)
        elif answer.status == 404:
            await self._missing(job)
        else:
            await self._look_later(replace(job, missing_ms=0) if answer.status == 200 else job)

    def _provider_of(self, job: Job) -> AiProvider:
        """Who has it. Raises ModelNotFound while no file names that provider."""
        return self._target_of(job).provider

    def _prices_of(self, job: Job) -> Prices:
        with contextlib.suppress(ModelNotFound):
            return self._target_of(job).prices
        return UNPRICED

    def _target_of(self, job: Job) -> Target:
        place = job.place or (self._registry.home if self._registry.is_many else "")
        return self._registry.targets(job.kind, job.model, place)[0]

    async def _look_later(self, job: Job) -> None:
        await self._jobs.put(job, self._pause(job), if_there=True)

    def _pause(self, job: Job) -> float:
        longest = min(self._timings.longest_pause, self._renew_seconds if job.is_held else inf)
        return min(longest, max(self._timings.pause, _seconds_of(job) / _OF_ITS_AGE))

    async def _missing(self, job: Job) -> None:
        """Its provider does not know it: it may have been deleted. What it has cost nobody will tell then."""
        now = now_ms()
        since = job.missing_ms or now
        if now - since < self._timings.missing * 1000:
            await self._look_later(replace(job, missing_ms=since))
            return
        log.warning("a job is gone, its reservation is billed", request_id=job.request_id, kind=job.kind)
        await self._bill(job, Spent(Cost(1, job.input_tokens, job.output_tokens)) if job.is_held else SPENT_NOTHING)

    async def _end(self, job: Job, progress: Progress) -> None:
        if progress.results:
            summed = await self._summed(job, progress.results)
            if summed is None:
                return
            progress = replace(progress, reading=Reading(usage=summed))
        characters = sum(len(text.piece) for text in progress.reading.texts)
        spent = await self._aside(characters, self._spent, job, progress)
        await self._bill(replace(job, model=job.model or progress.model), spent)

    async def _summed(self, job: Job, path: str) -> Usage | None:
        """What the results of a batch tell; None where they cannot be read yet, or somebody has billed it meanwhile."""
        lock = self._reading.setdefault(job.id, asyncio.Lock())
        async with lock:
            # Who asks again and again waits for whoever reads them.
            if await self._jobs.find(job.user, job.id) is None:
                return None
            try:
                provider = self._provider_of(job)
                usage = await usage_of_results(provider, job.kind, path, job.request_id, self._threads)
            except (UpstreamError, UpstreamTimeout, ModelNotFound):
                await self._look_later(job)
                return None
            if usage is None:
                log.error("the results of a batch are gone: its tokens are not billed", request_id=job.request_id)
            return usage or NOTHING

    async def _aside(self, size: int, work: Callable[..., T], *args: Any) -> T:
        """Do something with an answer: beside the event loop if so much of it is large."""
        if not is_large(size):
            return work(*args)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def _bill(self, job: Job, spent: Spent) -> None:
        """What is not held is many requests, whose sum tells neither the tier of each nor what a batch is let off."""
        prices = self._prices_of(job) if job.is_held else UNPRICED
        cost, cost_micro_usd = spent.cost, spent.micro_usd(prices, job.model, job.started_ms)
        if await self._jobs.settle(job, cost, cost_micro_usd or 0):
            _, inputs, outputs = cost
            log.info(
                "a job has ended",
                request_id=job.request_id,
                kind=job.kind,
                model=job.model,
                input_tokens=inputs,
                output_tokens=outputs,
                cost_usd=None if cost_micro_usd is None else cost_micro_usd / 1_000_000,
            )
            self._on_billed(job.model, cost, cost_micro_usd)
            if job.is_held:
                await self._contexts.note([job.id], inputs + outputs)

    def _spent(self, job: Job, progress: Progress) -> Spent:
        """What a job has cost that has ended; a batch counts as the requests in it, of which one was counted before."""
        if not has_cost(progress):
            return SPENT_NOTHING
        reading = progress.reading
        counted = self._counter.count_generated(reading.texts, job.model) if reading.texts else 0
        if job.hides_output and reading.usage == NOTHING:
            # It was cancelled, and nobody tells what was thought by then.
            counted = max(counted, billing.unseen(_seconds_of(job), 1, job.output_tokens))
        spent = billing.spent(reading.usage, job.input_tokens, counted)
        return spent if job.is_held else Spent(Cost(max(0, progress.requests - 1), spent.cost.input, spent.cost.output))


def _seconds_of(job: Job) -> float:
    """How long a job has taken so far, at most a day."""
    return min(86_400.0, max(0.0, (now_ms() - job.started_ms) / 1000))
