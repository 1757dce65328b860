"""One of N things in a queue cannot be read: the N-1 others pass, and the one is set aside, counted and kept.

About: `usage/quarantine.py`, `usage/streams.py`.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sentinel.cache import keys
from sentinel.clock import now_ms
from sentinel.dev.zion import ZionSimulator
from sentinel.limits.policy import Cost, Reservation
from sentinel.middleware import lease_expirer
from sentinel.tasks import Tasks
from sentinel.usage import spool_files
from sentinel.usage.batch import MOST_ITEMS, Batch, Item
from sentinel.usage.dead_letters import DeadLetters
from sentinel.usage.outbox import Outbox
from sentinel.usage.spool import Settlement, Spool
from sentinel.usage.timings import Timings
from sentinel.usage.tracker import BatchingUsageTracker
from tests.support.metering import Books, open_books
from tests.support.streams import append, entries
from tests.support.waiting import until

USERS = [f"u{number}" for number in range(10)]
EMAILS = [f"{user}@corp.test" for user in USERS]
VICTIM, OTHERS = USERS[3], [user for user in USERS if user != USERS[3]]
P = keys.partition_of(VICTIM)
FAR = 253_402_300_800_000.0


@pytest.fixture
async def books(store_url: str, zion_url: str, simulator: ZionSimulator) -> AsyncIterator[Books]:
    async with open_books(store_url, zion_url, simulator) as books:
        for email in EMAILS:
            await books.user(email)
        yield books


class Seen(Counter[str]):
    """What was told to be unreadable, by where it was."""

    def __call__(self, where: str) -> None:
        self[where] += 1


@pytest.fixture
def seen() -> Seen:
    return Seen()


def outbox_of(books: Books, seen: Seen, timings: Timings | None = None) -> Outbox:
    return Outbox(
        books.ledger, books.zion, flush_seconds=0.05, calls_per_second=1000.0, on_unreadable=seen, timings=timings
    )


async def told(books: Books, outbox: Outbox) -> None:
    """Everybody's usage is booked, once, and nothing is left."""

    async def is_told() -> bool:
        await outbox.flush()
        return books.booked() == books.owed and (await outbox.depth())[0] == 0

    await until(is_told)


def record(user: str = VICTIM, numbers: dict[str, float] | None = None) -> dict[bytes, bytes]:
    """A usage record as bill() in ledger.lua writes it, with some numbers changed."""
    all_numbers = {"requests": 1.0, "inputs": 12.0, "outputs": 7.0, "period": 0.0, "at": 0.0} | (numbers or {})
    who = msgspec.json.encode(["req_poison", user, f"{user}@corp.test", "gpt-4o"])
    return {b"who": who, b"sum": struct.pack("<5d", *all_numbers.values())}


ELSEWHERE = next(f"x{n}" for n in range(1000) if keys.partition_of(f"x{n}") != P)
GOOD = record()
RECORDS: dict[str, dict[bytes, bytes]] = {
    **{f"at {at}": record(numbers={"at": at}) for at in (math.inf, -math.inf, math.nan, 1e30, -1.0, FAR)},
    **{
        f"{field} {amount}": record(numbers={field: amount})
        for field in ("requests", "outputs")
        for amount in (math.nan, math.inf, -1.0, 2.0**60)
    },
    **{f"period {period}": record(numbers={"period": period}) for period in (math.nan, -7.0, 1e300)},
    "no fields": {b"x": b"y"},
    "a short sum": GOOD | {b"sum": b"123"},
    "no sum": {b"who": GOOD[b"who"]},
    "who is no JSON": GOOD | {b"who": b'["a"'},
    "who is no UTF-8": GOOD | {b"who": b'["a","\xff","c","d"]'},
    "who is of wrong types": GOOD | {b"who": b"[1,2,3,4]"},
    "who is too short": GOOD | {b"who": b'["a","b"]'},
    "half a surrogate": GOOD | {b"who": b'["a","\\ud800","c","d"]'},
    "a user of another partition": record(ELSEWHERE),
    "thousands of fields": {b"f%d" % n: b"" for n in range(9000)},
}


@pytest.mark.parametrize("read", [False, True], ids=["new", "read_before"])
@pytest.mark.parametrize("name", RECORDS)
async def test_a_record(books: Books, seen: Seen, name: str, read: bool) -> None:
    """A record of the outbox, before the good ones of its partition."""
    stream, client = keys.outbox(P), books.store.client
    entry = await append(books.store, stream, RECORDS[name])
    for email in EMAILS:
        await books.spend(email)
    if read:
        await client.xgroup_create(stream, keys.GROUP, "0")
        await client.xreadgroup(keys.GROUP, "deliverer", {stream: ">"})
    await told(books, outbox_of(books, seen))
    assert seen == {"outbox": 1}
    ((_, aside),) = await entries(books.store, keys.unreadable(P))
    assert aside[b"entry"] == entry


@pytest.mark.parametrize("read", [False, True], ids=["new", "read_before"])
async def test_pages_of_records(books: Books, seen: Seen, read: bool) -> None:
    """More of them than are read at once, before the good ones."""
    stream, client = keys.outbox(P), books.store.client
    for _ in range(600):
        await append(books.store, stream, RECORDS["at inf"])
    for email in EMAILS:
        await books.spend(email)
    if read:
        await client.xgroup_create(stream, keys.GROUP, "0")
        await client.xreadgroup(keys.GROUP, "deliverer", {stream: ">"})
    await told(books, outbox_of(books, seen))
    assert seen == {"outbox": 600}


async def test_a_record_that_somebody_deleted(books: Books, seen: Seen) -> None:
    """An entry that was read before and is gone (XTRIM, XDEL) leaves its name, and is not read for ever."""
    stream, client = keys.outbox(P), books.store.client
    entry = await append(books.store, stream, record())
    await client.xgroup_create(stream, keys.GROUP, "0")
    await client.xreadgroup(keys.GROUP, "deliverer", {stream: ">"})
    await client.xdel(stream, entry)
    for email in EMAILS:
        await books.spend(email)
    await told(books, outbox_of(books, seen))
    assert (await client.xpending(stream, keys.GROUP))["pending"] == 0
    assert seen == {"outbox": 1}


async def test_an_outbox(books: Books, seen: Seen) -> None:
    """The outbox of a partition is of a wrong type: all other partitions go on, and so does it once that is mended."""
    client = books.store.client
    await client.set(keys.outbox(P), "x")
    others = [email for email in EMAILS if keys.partition_of(email.partition("@")[0]) != P]
    for email in others:
        await books.spend(email)
    outbox = outbox_of(books, seen)
    await told(books, outbox)
    assert seen == {"outbox": 1}
    await client.delete(keys.outbox(P))
    await books.spend(f"{VICTIM}@corp.test")

    async def is_told() -> bool:
        await outbox._flush_safely()
        return books.booked() == books.owed

    await until(is_told)


def batch(**fields: Any) -> dict[str, Any]:
    """A batch as it is written down, with a field of its item changed."""
    item = Item(P, VICTIM, f"{VICTIM}@corp.test", "m", 0, ["1-1"], Cost(1, 2, 3), now_ms(), Cost(0, 0, 0))
    built: dict[str, Any] = msgspec.to_builtins(Batch("poison", [item]))
    built["items"][0] |= fields
    return built


BATCHES: dict[str, Any] = {
    "no JSON": b"{",
    "no UTF-8": b'{"key":"\xff","items":[]}',
    "other JSON": {"hello": "world"},
    "no items": {"key": "poison", "items": []},
    "too many items": {"key": "poison", "items": batch()["items"] * (MOST_ITEMS + 1)},
    "another key": batch() | {"key": "other"},
    "no entries": batch(entries=[]),
    "no entry": batch(entries=["abc"]),
    "amounts below zero": batch(spent=[-1, 2, 3]),
    "huge amounts": batch(spent=[1, 2, 10**30]),
    "amounts of text": batch(spent=["1", 2, 3]),
    "a moment beyond": batch(at_ms=10**30),
    "no moment": {"key": "poison", "items": [{k: v for k, v in batch()["items"][0].items() if k != "at_ms"}]},
    "another partition": batch(partition=(P + 1) % keys.PARTITIONS),
    "no such partition": batch(partition=10**6),
    "nested": b"[" * 100_000,
}


@pytest.mark.parametrize("name", BATCHES)
async def test_a_batch(books: Books, seen: Seen, name: str) -> None:
    """A batch that was written down as sent; beside it another that waits for its answer."""
    value = BATCHES[name]
    books.simulator.faults.set(drop=True, times=1)
    for email in EMAILS[:5]:
        await books.spend(email)
    victim = outbox_of(books, seen)
    await victim.flush()
    await victim._ownership.release(idle=True)
    await books.store.command(
        "HSET", keys.batches(), b"poison", value if isinstance(value, bytes) else msgspec.json.encode(value)
    )
    for email in EMAILS[5:]:
        await books.spend(email)
    await told(books, outbox_of(books, seen))
    assert seen == {"batches": 1}
    assert await books.store.command("HLEN", keys.unreadable_batches()) == 1
    assert await books.store.command("HLEN", keys.batches()) == 0


@pytest.mark.parametrize("answer", [b"{", b"[1]", b'{"x":"y"}', b"\xff", b"7"])
async def test_an_answer(books: Books, seen: Seen, answer: bytes) -> None:
    """What Zion said to a batch cannot be read: Zion is asked what it has booked."""
    books.simulator.faults.set(apply_then_drop=True, times=1)
    for email in EMAILS:
        await books.spend(email)
    victim = outbox_of(books, seen)
    await victim.flush()
    await victim._ownership.release(idle=True)
    names: list[bytes] = await books.store.command("HKEYS", keys.batches())
    (key,) = [name for name in names if not name.endswith(b":answer")]
    await books.store.command("HSET", keys.batches(), key + b":answer", answer)
    successor = outbox_of(books, seen)
    await told(books, successor)
    assert successor.delivered.ambiguous == 0


ACCOUNTS: dict[str, Callable[[Any, keys.AccountKeys], Awaitable[Any]]] = {
    "account of a wrong type": lambda client, account: client.lpush(account.account, "x"),
    "account of garbage": lambda client, account: client.set(account.account, b"garbage" * 9),
    "account cut short": lambda client, account: client.set(account.account, b"\0" * 100),
}
LEASES = {
    **ACCOUNTS,
    "leases of a wrong type": lambda client, account: client.set(account.leases, "x"),
    "a lease of garbage": lambda client, account: client.hset(account.leases, "req_x", b"garb"),
}


async def broken(books: Books, how: Callable[[Any, keys.AccountKeys], Awaitable[Any]]) -> keys.AccountKeys:
    account = keys.account_keys(VICTIM)
    if how is not LEASES["a lease of garbage"]:
        await books.store.client.delete(account.leases if how is LEASES["leases of a wrong type"] else account.account)
    await how(books.store.client, account)
    return account


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("name", ACCOUNTS)
async def test_an_account_while_usage_is_told(books: Books, seen: Seen, name: str, refused: bool) -> None:
    """The account of one user in a batch cannot be read: all are booked, once, or refused, and leave the outbox."""
    for email in EMAILS:
        await books.spend(email)
    await broken(books, ACCOUNTS[name])
    outbox = outbox_of(books, seen)
    if not refused:
        await told(books, outbox)
        assert seen == {"accounts": 1}
        return
    books.simulator.refused_emails.add(f"{VICTIM}@corp.test")

    async def is_told() -> bool:
        await outbox.flush()
        return outbox.delivered.dead == 1 and (await outbox.depth())[0] == 0

    await until(is_told)
    assert sum(amount for name, amount in books.booked().items() if "ai_requests" in name) == 9
    assert seen["accounts"] == 1
    assert await books.store.command("XLEN", keys.unreadable(P)) == 1


@pytest.mark.parametrize("name", LEASES)
async def test_a_lease(books: Books, seen: Seen, name: str) -> None:
    """A dead process had requests of ten users in flight; one of these cannot be read: nine get their tokens back."""
    ledger = books.ledger
    for user in USERS:
        await ledger.reserve(Reservation(f"req_{user}", user, f"{user}@corp.test", "m", 5, 50))
    account = await broken(books, LEASES[name])
    ledger.now_ms = now_ms() + ledger.policy.lease_ms + 5000
    assert await lease_expirer.expire_due(ledger, seen) == 9
    assert seen == {"accounts": 1}
    # It stands behind all others from now on.
    assert await ledger.due(P, 100) == []
    await books.store.client.delete(account.account, account.leases)
    ledger.now_ms += 700_000
    await lease_expirer.expire_due(ledger, seen)
    assert await books.store.client.zscore(account.index, VICTIM) is None
    assert seen == {"accounts": 1}


@pytest.mark.parametrize("how", ["type", "bytes", "elsewhere", "hundreds"])
async def test_an_index_of_leases(books: Books, seen: Seen, how: str) -> None:
    """What tells whose leases are due has something in it that is no user's."""
    ledger, index, client = books.ledger, keys.index(P), books.store.client
    others = [user for user in OTHERS if keys.partition_of(user) != P]
    for user in others if how == "type" else USERS:
        await ledger.reserve(Reservation(f"req_{user}", user, f"{user}@corp.test", "m", 5, 50))
    match how:
        case "type":
            await client.set(index, "x")
        case "bytes":
            await client.zadd(index, {b"\xff\xfe": 1})
        case "elsewhere":
            await client.zadd(index, {ELSEWHERE: 1})
        case "hundreds":
            strangers = [f"s{n}" for n in range(30_000) if keys.partition_of(f"s{n}") == P]
            await client.zadd(index, dict.fromkeys(strangers, 1))
            for stranger in strangers:
                await client.set(keys.account_keys(stranger).account, "x")
    ledger.now_ms = now_ms() + ledger.policy.lease_ms + 5000
    count = 0
    for _ in range(6):
        count += await lease_expirer.expire_due(ledger, seen)
    assert count == (len(others) if how == "type" else 10)


async def test_the_life_of_a_partition(books: Books, tracker: BatchingUsageTracker, tmp_path: Path) -> None:
    """What tells an emptied partition is of a wrong type: the spool is replayed all the same."""
    await books.store.client.lpush(keys.life(P), "x")
    await spooled(books, tmp_path, USERS)
    task = asyncio.create_task(tracker.run(books.store, books.ledger.incarnations))

    async def is_replayed() -> bool:
        return await books.waiting() == 10

    await until(is_replayed)
    task.cancel()


@pytest.mark.parametrize(
    "fields",
    [RECORDS["at inf"], RECORDS["no fields"], RECORDS["who is no UTF-8"], record() | {b"reason": b"\xff"}],
    ids=["at", "fields", "who", "reason"],
)
async def test_a_dead_letter(books: Books, fields: dict[bytes, bytes]) -> None:
    """Nine of ten dead letters are shown and go back; the tenth is shown as what it is."""
    dead = DeadLetters(books.ledger)
    for user in OTHERS:
        await append(books.store, keys.dead_letters(keys.partition_of(user)), record(user) | {b"reason": b"no"})
    await append(books.store, keys.dead_letters(P), fields)
    letters = [letter async for letter in dead.all()]
    assert len(letters) == 10
    good = [letter for letter in letters if letter.record is not None]
    assert {letter.record.user for letter in good if letter.record} >= set(OTHERS)
    assert all([await dead.requeue(letter) for letter in good])


async def test_dead_letters_of_a_partition(books: Books, seen: Seen) -> None:
    """One partition's letters are of a wrong type: the others are shown."""
    await books.store.client.set(keys.dead_letters(P), "x")
    others = [user for user in OTHERS if keys.partition_of(user) != P]
    for user in others:
        await append(books.store, keys.dead_letters(keys.partition_of(user)), record(user))
    letters = [letter async for letter in DeadLetters(books.ledger, on_unreadable=seen).all()]
    assert len(letters) == len(others)
    assert seen == {"dead_letters": 1}


async def test_thousands_of_dead_letters_come_in_pages(books: Books) -> None:
    """Letters of now are listed once each, in order, while others come and go."""
    stream, client = keys.dead_letters(P), books.store.client
    written = [(await append(books.store, stream, record())).decode() for _ in range(1000)]
    found = []
    async for letter in DeadLetters(books.ledger).all():
        found.append(letter.entry)
        await append(books.store, stream, record())
        await client.xdel(stream, letter.entry)
    assert found == written


@pytest.mark.parametrize("name", ["no name of ours", "|", "a|b", "\N{SNOWMAN}||", b"\xff\xfe"])
async def test_a_deliverer(books: Books, seen: Seen, name: str | bytes) -> None:
    """Among those that deliver is a name that no process of ours has; its partitions are taken when it is silent."""
    await books.store.command("ZADD", "sentinel:{delivery}:members", now_ms(), name)
    await books.store.client.hset("sentinel:{delivery}:owners", mapping={"seen": "x", "since": "y"})
    for email in EMAILS:
        await books.spend(email)
    outbox = outbox_of(books, seen, Timings(lease_seconds=0.6, poll_seconds=0.05))

    async def is_told() -> bool:
        await outbox._ownership.heartbeat()
        await outbox.flush()
        return books.booked() == books.owed

    await until(is_told)


# ------------------------------------------------------------------------------------------------------------ spool


def line(**fields: Any) -> bytes:
    """A line of the spool with some fields changed."""
    settlement = Settlement("req_poison", VICTIM, f"{VICTIM}@corp.test", "m", Cost(1, 2, 3), 1, now_ms())
    return msgspec.json.encode(msgspec.to_builtins(settlement) | fields)


LINES = {
    "no UTF-8": b'{"id":"\xff"}',
    "half a line": line()[:40],
    "half a line and a whole one": line()[:40] + line(),
    "zeros": b"\0" * 5000,
    "longer than any": b"x" * (3 << 20),
    "nothing": b"",
    "other JSON": b'{"hello":"world"}',
    "nested": b"[" * 100_000,
    "amounts below zero": line(spent=[-1, 2, 3]),
    "huge amounts": line(spent=[1, 10**400, 3]),
    "endless amounts": line().replace(b"[1,2,3]", b"[1,1e999,3]"),
    "amounts of text": line(spent=["1", 2, 3]),
    "two amounts": line(spent=[1, 2]),
    "a moment beyond": line(at_ms=10**30),
    "a moment below zero": line(started_ms=-1),
    "nobody": line(user=""),
    "half a surrogate": line().replace(b"req_poison", b"\\ud800"),
}


@pytest.fixture
def tracker(books: Books, tmp_path: Path, seen: Seen) -> BatchingUsageTracker:
    spool = Spool(tmp_path, lambda: seen("spool"))
    return BatchingUsageTracker(books.ledger, spool, Tasks(), lambda: None)


async def spooled(books: Books, folder: Path, users: list[str]) -> None:
    """A dead process has left a settlement of each of these."""
    spool = Spool(folder)
    for user in users:
        await spool.append(Settlement(f"req_{user}", user, f"{user}@corp.test", "m", Cost(1, 2, 3), 1, now_ms()))
    spool._let_go()


@pytest.mark.parametrize("place", [0, 4, 9])
@pytest.mark.parametrize("name", LINES)
async def test_a_line(
    books: Books, tracker: BatchingUsageTracker, tmp_path: Path, seen: Seen, name: str, place: int
) -> None:
    """A line of the spool, anywhere among nine good ones; it is kept as it was."""
    await spooled(books, tmp_path, OTHERS)
    (path,) = folder_of(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines.insert(place, LINES[name] + b"\n")
    path.write_bytes(b"".join(lines))
    await tracker.replay()
    assert await books.waiting() == 9
    (aside,) = folder_of(tmp_path)
    assert (aside.suffix, aside.read_bytes().replace(b"\n", b"")) == (".bad", LINES[name].replace(b"\n", b""))
    assert seen["spool"] >= 1
    assert spool_files.set_aside(str(tmp_path)) == [aside.name]


@pytest.mark.parametrize("what", ["folder", "pipe", "socket", "dangling link", "no permission"])
async def test_a_file(books: Books, tracker: BatchingUsageTracker, tmp_path: Path, seen: Seen, what: str) -> None:
    """A file of the spool that is none, or that may not be read: the others are replayed, and it is told of once."""
    if what == "no permission" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = tmp_path / "0-poison~0.jsonl"
    with socket.socket(socket.AF_UNIX) as listening:
        match what:
            case "folder":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "socket":
                os.chdir(tmp_path)
                listening.bind(path.name)
            case "dangling link":
                path.symlink_to(tmp_path / "nowhere")
            case "no permission":
                path.write_bytes(line())
                path.chmod(0)
        await spooled(books, tmp_path, OTHERS)
        for _ in range(3):
            await tracker.replay()
    assert await books.waiting() == 9
    assert folder_of(tmp_path) == [path]
    assert seen == ({} if what == "dangling link" else {"spool": 1})


@pytest.mark.parametrize("name", ACCOUNTS)
async def test_an_account_while_the_spool_is_replayed(books: Books, tmp_path: Path, name: str) -> None:
    """A line whose user's account cannot be read waits, behind all others, until the account is mended."""
    tracker = BatchingUsageTracker(books.ledger, Spool(tmp_path, retry_ms=50), Tasks(), lambda: None)
    await spooled(books, tmp_path, [VICTIM] * 200 + OTHERS)
    account = await broken(books, ACCOUNTS[name])
    await tracker.replay()
    assert await books.waiting() == 9
    for _ in range(3):
        await tracker.replay()
    assert len(folder_of(tmp_path)) == 1
    await books.store.client.delete(account.account)

    async def is_done() -> bool:
        await tracker.replay()
        return folder_of(tmp_path) == []

    await until(is_done)
    assert await books.waiting() == 10


@pytest.fixture(autouse=True)
def _here() -> Iterator[None]:
    """Sockets have short names, so one test goes where its socket is."""
    before = Path.cwd()
    yield
    os.chdir(before)


def folder_of(path: Path) -> list[Path]:
    return sorted(path.iterdir())
