"""Settling again what Redis may have lost: by the moment of the loss, and not trusting notes that have ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sentinel import clock
from sentinel.cache import keys
from sentinel.cache.owners import OwnerRecords
from sentinel.dev.zion import ZionSimulator
from sentinel.error import NotSent, RedisUnavailable
from sentinel.limits.policy import REMEMBER_SETTLED_MS, Cost, Reservation
from sentinel.tasks import Tasks
from sentinel.usage import tracker
from sentinel.usage.batch import Record
from sentinel.usage.job_store import Job, JobStore
from sentinel.usage.spool import Settlement, Spool
from sentinel.usage.tracker import BatchingUsageTracker, SettlingLedger
from tests.support.metering import Books, open_books
from tests.support.streams import entries
from tests.support.waiting import until

EMAILS = [f"{name}@corp.test" for name in ("ana", "bo", "cy", "di", "ed")]
SPENT: Cost = Cost(1, 12, 7)
COST_MICRO_USD = 4375
LONG_SECONDS = 17 * 60


class Clock:
    """The clocks of settling, which the test sets forward. reads: how often somebody has looked."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.reads = 0

    def monotonic(self) -> float:
        self.reads += 1
        return clock.monotonic() + self.ahead

    def now_ms(self) -> int:
        return clock.now_ms() + round(self.ahead * 1000)


@pytest.fixture
def time_machine() -> Clock:
    return Clock()


@pytest.fixture
async def books(store_url: str, zion_url: str, simulator: ZionSimulator) -> AsyncIterator[Books]:
    async with open_books(store_url, zion_url, simulator) as books:
        for email in EMAILS:
            await books.user(email)
        yield books


class Process:
    """A process that settles, and is watched."""

    def __init__(self, books: Books, folder: Path, turned: Clock, ledger: SettlingLedger | None = None) -> None:
        self.unsure = 0
        self.books = books
        self.tasks = Tasks()
        self.folder = folder
        self.tracker = BatchingUsageTracker(
            ledger or books.ledger,
            Spool(folder, wall_ms=turned.now_ms),
            self.tasks,
            lambda: None,
            self._count_unsure,
            turned.monotonic,
            turned.now_ms,
            look_seconds=0.01,
        )

    def _count_unsure(self) -> None:
        self.unsure += 1

    def ask(self, email: str) -> Reservation:
        return Reservation(f"req_{email}", email.partition("@")[0], email, "gpt-4o-mini", 12, 7)

    async def serve(self, email: str) -> Reservation:
        """One request of this user, from its reservation to its settlement."""
        ask = self.ask(email)
        verdict = await self.books.ledger.reserve(ask)
        await self.tracker.settle(ask, SPENT, verdict.now_ms, cost_micro_usd=COST_MICRO_USD)
        for metric, amount in zip(("ai_requests", "ai_input_tokens", "ai_output_tokens"), SPENT, strict=True):
            self.books.owed[f"{email} {metric}"] += amount
        self.books.owed[f"{email} cost_micro_usd"] += COST_MICRO_USD
        return ask

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        task = self.tasks.start(self.tracker.run(self.books.store, self.books.ledger.incarnations), "replay")
        try:
            yield
        finally:
            task.cancel()


def files(folder: Path, suffix: str) -> list[Path]:
    return list(folder.glob(f"*{suffix}"))


async def looked(turned: Clock) -> None:
    """The process has looked at its connection since."""
    reads = turned.reads

    async def twice_more() -> bool:
        return turned.reads >= reads + 2

    await until(twice_more)


async def cut_off(books: Books) -> None:
    """Redis ends all connections; ours has come back."""
    before = books.store.connects
    await books.store.client.client_kill_filter(_type="normal", skipme=True)

    async def is_back() -> bool:
        return books.store.connects > before and books.store.available

    await until(is_back)


async def forget_notes(books: Books) -> None:
    """What 16 minutes do to the notes of what was settled."""
    async for name in books.store.client.scan_iter("sentinel:{*}:settled:*"):
        await books.store.client.delete(name)


async def test_an_idle_process_repeats_nothing_old(books: Books, tmp_path: Path, time_machine: Clock) -> None:
    """A process that has settled nothing for 17 minutes loses its connection: what it settled last stays told once."""
    process, deliverer = Process(books, tmp_path, time_machine), books.outbox()
    with process.running():
        for email in EMAILS:
            await process.serve(email)
        await books.told(deliverer)
        time_machine.ahead += LONG_SECONDS
        await forget_notes(books)
        await looked(time_machine)
        await cut_off(books)
        await looked(time_machine)
    # Another process delivers: ours would know what Zion has taken.
    await books.told(books.outbox("other"))
    assert books.booked() == books.owed
    assert process.unsure == 0


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "not_lost"])
async def test_a_redis_that_was_away_for_long(books: Books, tmp_path: Path, time_machine: Clock, lost: bool) -> None:
    """Where no note would tell any more, what has still its lease was lost and is settled; the rest is not repeated."""
    process = Process(books, tmp_path, time_machine)
    kept = await books.store.client.dump(keys.account_keys("ana").leases)
    assert kept is None
    ask = process.ask(EMAILS[0])
    verdict = await books.ledger.reserve(ask)
    before = await books.store.client.dump(keys.account_keys("ana").leases)
    assert before is not None
    process.tracker.watch(books.store)
    await process.tracker.settle(ask, SPENT, verdict.now_ms)
    await forget_notes(books)
    if lost:
        account = keys.account_keys("ana")
        await books.store.client.delete(account.outbox)
        await books.store.client.restore(account.leases, 0, before, replace=True)
    await cut_off(books)
    time_machine.ahead += LONG_SECONDS
    process.tracker.watch(books.store)
    await process.tracker.settle_again()
    assert await books.store.command("XLEN", keys.account_keys("ana").outbox) == 1
    assert process.unsure == (0 if lost else 1)


async def test_one_account_that_cannot_be_read_keeps_no_other_from_being_settled_again(
    books: Books, tmp_path: Path, time_machine: Clock
) -> None:
    """Of five that Redis has lost, one has an account of a wrong type: four are settled, the fifth waits on disk."""
    process = Process(books, tmp_path, time_machine)
    process.tracker.watch(books.store)
    for email in EMAILS:
        await process.serve(email)
    await books.store.client.flushall()
    await books.store.client.lpush(keys.account_keys("cy").account, "x")
    await cut_off(books)
    process.tracker.watch(books.store)
    await process.tracker.settle_again()
    assert await books.waiting() == 4
    assert process.tracker.spooled == 1
    await books.store.client.delete(keys.account_keys("cy").account)
    assert await process.tracker.replay() == 1
    assert await books.waiting() == 5


async def test_an_emptied_redis_is_not_told_again(books: Books, tmp_path: Path, time_machine: Clock) -> None:
    """A Redis that comes back empty knows not what Zion has taken: what was settled right before stays told once."""
    process = Process(books, tmp_path, time_machine)
    with process.running():
        await looked(time_machine)
        for email in EMAILS:
            await process.serve(email)
        await books.told(books.outbox("one"))
        await books.store.client.flushall()
        await cut_off(books)
        await looked(time_machine)
    await books.told(books.outbox("other"))
    assert books.booked() == books.owed


class Deaf:
    """A ledger whose answers do not arrive, while it is deaf. done: it has carried out the call."""

    def __init__(self, books: Books) -> None:
        self.ledger = books.ledger
        self.failure: type[RedisUnavailable] | None = None
        self.done = False

    async def settle(
        self,
        ask: Reservation,
        spent: Cost,
        started_ms: int,
        at_ms: int = 0,
        *,
        unsure: bool = False,
        cost_micro_usd: int = 0,
    ) -> bool | None:
        if self.failure is None or self.done:
            answer = await self.ledger.settle(
                ask, spent, started_ms, at_ms, unsure=unsure, cost_micro_usd=cost_micro_usd
            )
        if self.failure is not None:
            raise self.failure("away")
        return answer


@pytest.mark.parametrize("minutes", [0.1, 17, 600])
@pytest.mark.parametrize(
    ("failure", "done", "booked_late"),
    [(NotSent, False, 1), (RedisUnavailable, True, 0), (RedisUnavailable, False, 0)],
    ids=["never_sent", "carried_out", "lost_on_its_way"],
)
async def test_a_spooled_settlement_is_replayed_late(
    books: Books,
    tmp_path: Path,
    time_machine: Clock,
    minutes: float,
    failure: type[RedisUnavailable],
    done: bool,
    booked_late: int,
) -> None:
    """What Redis never heard of is taken however late; what it may have carried out is taken once, or set aside."""
    ledger = Deaf(books)
    process = Process(books, tmp_path, time_machine, ledger)
    ledger.failure, ledger.done = failure, done
    await process.tracker.settle(process.ask(EMAILS[0]), SPENT, clock.now_ms(), cost_micro_usd=COST_MICRO_USD)
    ledger.failure = None
    time_machine.ahead += minutes * 60
    if minutes > 15:
        await forget_notes(books)
    await process.tracker.replay()
    late = minutes > 15
    assert await books.waiting() == done + (booked_late if late else 0 if done else 1)
    aside = files(tmp_path, ".bad")
    assert len(aside) == process.unsure == (late and failure is RedisUnavailable)
    assert files(tmp_path, ".jsonl") == []
    if aside and not done:
        # An operator has found out that it was not carried out.
        aside[0].rename(aside[0].with_suffix(".jsonl"))
        assert await process.tracker.replay() == 1
        assert await books.waiting() == 1
    partition = keys.partition_of(EMAILS[0].partition("@")[0])
    written = await entries(books.store, keys.outbox(partition))
    assert {Record.read(partition, *each).cost_micro_usd for each in written} <= {COST_MICRO_USD}


@pytest.mark.parametrize("failure", [NotSent, RedisUnavailable])
async def test_a_replay_that_was_broken_off_is_repeated_late(
    books: Books, tmp_path: Path, time_machine: Clock, failure: type[RedisUnavailable]
) -> None:
    """A replay whose answers did not come says so in the name of its file, for whoever repeats it hours later."""
    lines = [Settlement(f"r{n}", "ana", EMAILS[0], "m", SPENT, 1, clock.now_ms()) for n in range(300)]
    first = Spool(tmp_path, wall_ms=time_machine.now_ms)
    await asyncio.gather(*map(first.append, lines))
    sent = 0

    async def settle(line: Settlement) -> None:
        nonlocal sent
        sent += 1
        failing = sent > 100
        if not failing or failure is RedisUnavailable:
            await books.ledger.settle(line.reservation(), line.spent, line.started_ms, line.at_ms)
        if failing:
            raise failure("away")

    assert await first.replay(settle) == 100
    time_machine.ahead += LONG_SECONDS
    await forget_notes(books)
    two = Process(books, tmp_path, time_machine)
    assert await two.tracker.replay() == 200
    assert await books.waiting() == 300
    assert (two.unsure > 0) == (failure is RedisUnavailable)


def test_notes_live_longer_than_settlements_are_sure() -> None:
    """There is a minute between the last repeat that trusts a note and the end of that note."""
    assert tracker._SURE_MS + 60_000 <= REMEMBER_SETTLED_MS


JOB = Job("resp_1", "responses", "req_1", "ana", "ana@corp.test", "gpt-4o-mini", 12, 7, 1)


class Notes:
    """A process's records of jobs and owners, which it notes again."""

    def __init__(self, process: Process) -> None:
        self._process, self._books = process, process.books
        self.jobs = JobStore(process.books.ledger, noted=process.tracker.noted)
        self.owners = OwnerRecords(process.books.store, process.tracker.noted)
        process.tracker.watch(process.books.store)

    async def write(self) -> None:
        await self.jobs.put(JOB, 60)
        await self.owners.record("ana", ["resp_1", "file-1"], None)

    async def lose(self) -> None:
        """Redis comes back without what it was told last."""
        await self._books.store.client.delete(
            keys.jobs(keys.partition_of("ana")), keys.jobs_due(keys.partition_of("ana")), keys.owner(b"file-1")
        )
        await cut_off(self._books)
        self._process.tracker.watch(self._books.store)

    async def there(self) -> tuple[int, list[str | None]]:
        return sum(await self.jobs.counts()), await self.owners.owners(["resp_1", "file-1"])


async def test_jobs_and_owners_that_redis_has_lost(books: Books, tmp_path: Path, time_machine: Clock) -> None:
    """They are noted again, once, by whoever had noted them: what goes on is billed, and its user's."""
    process = Process(books, tmp_path, time_machine)
    notes = Notes(process)
    await notes.write()
    await notes.lose()
    assert await notes.there() == (0, ["ana", None])
    await process.tracker.note_again()
    assert await notes.there() == (1, ["ana", "ana"])
    assert await notes.jobs.due(keys.partition_of("ana"), 1, 9) == []
    await books.store.client.delete(keys.owner(b"file-1"))
    await process.tracker.note_again()
    assert await notes.there() == (1, ["ana", None])


@pytest.mark.parametrize(("seconds", "leaves"), [(0, False), (60, False), (0, True)])
async def test_an_owner_whose_record_met_a_cut_connection(
    books: Books, tmp_path: Path, time_machine: Clock, seconds: float, *, leaves: bool
) -> None:
    """Redis has never taken it, and is told once it is back, however long it was away; also for who has left."""
    process = Process(books, tmp_path, time_machine)
    notes, client = Notes(process), books.store.client
    await client.client_pause(30_000, all=False)
    recording = asyncio.ensure_future(notes.owners.record("ana", ["file-1"], None))

    async def is_held_up() -> bool:
        return bool((await client.info("clients"))["blocked_clients"])

    await until(is_held_up)
    if leaves:
        recording.cancel()
    await cut_off(books)
    with pytest.raises(asyncio.CancelledError if leaves else RedisUnavailable):
        await recording
    await client.client_unpause()
    time_machine.ahead += seconds
    process.tracker.watch(books.store)
    assert await notes.owners.owners(["file-1"]) == [None]
    await process.tracker.note_again()
    assert await notes.owners.owners(["file-1"]) == ["ana"]
    await client.delete(keys.owner(b"file-1"))
    await process.tracker.note_again()
    assert await notes.owners.owners(["file-1"]) == [None]


async def test_a_job_that_was_settled_is_not_settled_again(books: Books, tmp_path: Path, time_machine: Clock) -> None:
    """Noted again for all that, it costs nothing more."""
    process = Process(books, tmp_path, time_machine)
    notes = Notes(process)
    await notes.write()
    assert await notes.jobs.settle(JOB, SPENT)
    await notes.lose()
    await process.tracker.note_again()
    assert not await notes.jobs.settle(JOB, SPENT)
    assert sum(await notes.jobs.counts()) == 0
    assert await books.waiting() == 1


async def test_what_an_emptied_redis_is_not_told(books: Books, tmp_path: Path, time_machine: Clock) -> None:
    """It knows not what was settled, and neither does anybody after 14 minutes: no job begins anew."""
    process = Process(books, tmp_path, time_machine)
    notes = Notes(process)
    await process.tracker.settle_again(await books.ledger.incarnations())
    await notes.write()
    await books.store.client.flushall()
    await notes.lose()
    await process.tracker.settle_again(await books.ledger.incarnations())
    await process.tracker.note_again()
    assert await notes.there() == (0, [None, None])
    await notes.write()
    await notes.lose()
    time_machine.ahead += LONG_SECONDS
    await process.tracker.note_again()
    assert sum(await notes.jobs.counts()) == 0


async def test_one_note_that_cannot_be_written_is_in_no_others_way(
    books: Books, tmp_path: Path, time_machine: Clock
) -> None:
    """The jobs of its user are of a wrong type."""
    process = Process(books, tmp_path, time_machine)
    notes = Notes(process)
    await notes.write()
    await notes.lose()
    await books.store.client.lpush(keys.jobs(keys.partition_of("ana")), "x")
    await process.tracker.note_again()
    assert await notes.owners.owners(["file-1"]) == ["ana"]
