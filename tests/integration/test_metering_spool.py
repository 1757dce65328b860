"""The file that keeps usage while Redis is away: whatever is killed or full, a line that was taken is replayed once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from sentinel.cache import keys
from sentinel.cache.redis import Store
from sentinel.error import RedisRefused, RedisUnavailable
from sentinel.limits.policy import Cost
from sentinel.usage import spool_files
from sentinel.usage.spool import Settlement, Spool
from tests.support.waiting import until

WRITER = textwrap.dedent(
    """
    import asyncio, resource, signal, sys
    from pathlib import Path
    from sentinel.usage.spool import Settlement, Spool

    async def write(spool, name, number):
        try:
            await spool.append(Settlement(f"{name}-{number}", "ana", "ana@corp.test", "m" * 40, (1, 2, 3), 1, 1))
        except OSError:
            return
        # Told only when it is on the disk.
        sys.stdout.write(f"{name}-{number}\\n")
        sys.stdout.flush()

    async def main(folder, name, most_bytes, count):
        if most_bytes:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        spool = Spool(Path(folder))
        for start in range(0, count, 7):
            await asyncio.gather(*(write(spool, name, number) for number in range(start, min(start + 7, count))))

    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    """
)


def writer(folder: Path, name: str, *, most_bytes: int = 0, count: int = 10**9) -> subprocess.Popen[str]:
    """A process that spools, and prints each settlement that it was promised."""
    command = [sys.executable, "-c", WRITER, str(folder), name, str(most_bytes), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def settlement(number: int) -> Settlement:
    return Settlement(f"req_{number}", "ana", "ana@corp.test", "gpt-4o", Cost(1, 2, 3), 1, 1_770_000_000_000 + number)


class Taker:
    """Takes settlements, as a ledger does that goes away after `most`."""

    def __init__(self, most: int = 10**9) -> None:
        self.most = most
        self.ids: list[str] = []

    async def __call__(self, line: Settlement) -> bool:
        if len(self.ids) >= self.most:
            raise RedisUnavailable("away")
        self.ids.append(line.id)
        return True


async def test_killed_while_spooling(tmp_path: Path) -> None:
    """What two processes were promised before they were killed is replayed, in their order; each file by one reader."""
    processes = [writer(tmp_path, name) for name in ("a", "b")]
    promised: list[list[str]] = []
    for process in processes:
        with process:
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(150)]
            process.kill()
            promised.append(lines + [line.strip() for line in process.stdout if line.endswith("\n")])
    one, two = Taker(), Taker()
    await asyncio.gather(Spool(tmp_path).replay(one), Spool(tmp_path).replay(two))
    taken = Counter(one.ids + two.ids)
    assert max(taken.values()) == 1
    for lines in promised:
        assert set(lines) <= set(taken)
        ids = one.ids if lines[0] in one.ids else two.ids
        assert [name for name in ids if name in lines] == sorted(lines, key=lambda name: int(name.split("-")[1]))
    assert files(tmp_path) == []


async def test_a_living_process_keeps_its_file(tmp_path: Path) -> None:
    """What a living process spools is not taken from it."""
    mine, other, taker = Spool(tmp_path), Spool(tmp_path), Taker()
    await mine.append(settlement(1))
    assert await other.replay(taker) == 0
    assert await mine.replay(taker) == 1
    assert taker.ids == ["req_1"]


@pytest.mark.parametrize("torn", [b'{"id":"req_9","us', b"\xff\xfe", b"{}"])
async def test_a_torn_last_line_is_set_aside(tmp_path: Path, torn: bytes) -> None:
    """Half a line of a killed process, whose request was never done, stops nobody, and is kept to be looked at."""
    spool, taker = Spool(tmp_path), Taker()
    await spool.append(settlement(1))
    spool._let_go()
    (path,) = files(tmp_path)
    with path.open("ab") as file:
        file.write(torn)
    assert await Spool(tmp_path).replay(taker) == 2
    assert taker.ids == ["req_1"]
    (aside,) = files(tmp_path)
    assert (aside.suffix, aside.read_bytes()) == (".bad", torn + b"\n")


async def test_a_full_disk(tmp_path: Path) -> None:
    """A disk that takes a part of a line takes none of it: what was promised is there, and nothing is mixed up."""
    with writer(tmp_path, "a", most_bytes=1000, count=60) as process:
        assert process.stdout is not None
        promised = process.stdout.read().split()
    assert process.returncode == 0
    (path,) = files(tmp_path)
    assert path.stat().st_size <= 1000
    assert path.read_bytes().endswith(b"\n")
    taker = Taker()
    await Spool(tmp_path).replay(taker)
    assert taker.ids == promised
    assert 0 < len(promised) < 60


async def test_a_disk_that_has_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a write that failed half-way the next one starts on a line of its own."""
    spool, taker, write = Spool(tmp_path), Taker(), os.write
    await spool.append(settlement(1))

    def half(fd: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", full)
        return write(fd, bytes(data)[: len(data) // 2])

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        await spool.append(settlement(2))
    monkeypatch.setattr(os, "write", write)
    await spool.append(settlement(3))
    await spool.replay(taker)
    assert taker.ids == ["req_1", "req_3"]


@pytest.mark.parametrize("error", [RedisUnavailable, RedisRefused])
async def test_a_redis_that_takes_nothing_leaves_few_files(tmp_path: Path, error: type[RedisUnavailable]) -> None:
    """While Redis is there and refuses writes, usage goes on to be spooled, and is tried again each second."""
    second, taker = 1000, Taker()
    now = 1_770_000_000_000

    async def refuse(line: Settlement) -> None:
        raise error("no writes")

    spool = Spool(tmp_path, wall_ms=lambda: now)
    for number in range(60):
        await spool.append(settlement(number))
        await spool.replay(refuse)
        now += second
    assert len(files(tmp_path)) <= 2 + spool_files.RETRY_MS // second
    now += spool_files.RETRY_MS
    await spool.replay(taker)
    assert sorted(taker.ids) == sorted(f"req_{number}" for number in range(60))
    assert files(tmp_path) == []


async def test_what_others_left_and_cannot_be_opened_does_not_keep_ours(tmp_path: Path) -> None:
    """A file that is none, or that somebody else has, is no reason to wait with what we spooled."""
    (tmp_path / "1-odd~0.jsonl").mkdir()
    other, spool, taker = Spool(tmp_path), Spool(tmp_path), Taker()
    await other.append(settlement(1))
    await spool.append(settlement(2))
    await spool.replay(taker)
    assert taker.ids == ["req_2"]


@pytest.mark.parametrize("most", [0, 1, 99, 250, 499])
async def test_a_replay_goes_on_where_it_was(tmp_path: Path, most: int) -> None:
    """A replay that Redis interrupts, in any process, goes on with the first line that was not taken."""
    spool = Spool(tmp_path)
    await asyncio.gather(*(spool.append(settlement(number)) for number in range(500)))
    first, second = Taker(most), Taker()
    assert await spool.replay(first) == most
    assert spool.depth == 500 - most
    assert await Spool(tmp_path).replay(second) == 500 - most
    assert first.ids + second.ids == [f"req_{number}" for number in range(500)]
    assert files(tmp_path) == []


async def test_the_oldest_file_comes_first(tmp_path: Path) -> None:
    """What was spent first reaches the ledger first."""
    taker = Taker()
    for number in range(3):
        spool = Spool(tmp_path)
        await spool.append(settlement(number))
        spool._let_go()
        await asyncio.sleep(0.002)
    await Spool(tmp_path).replay(taker)
    assert taker.ids == ["req_0", "req_1", "req_2"]


async def test_a_file_that_is_taken_for_an_empty_one_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that comes between the making of a file and its locking does not take the first line away."""
    import fcntl  # noqa: PLC0415 (what is replaced)

    lock, taker, others = fcntl.flock, Taker(), [True]

    def late(fd: int, how: int) -> None:
        if others and how == fcntl.LOCK_EX:
            others.clear()
            for path in tmp_path.iterdir():
                path.unlink()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    spool = Spool(tmp_path)
    await spool.append(settlement(1))
    assert await spool.replay(taker) == 1


async def test_a_long_outage_is_replayed_in_bounded_memory(tmp_path: Path) -> None:
    """Five megabytes of spool need less than one to be replayed."""
    spool = Spool(tmp_path)
    for start in range(0, 40_000, 5000):
        await asyncio.gather(*(spool.append(settlement(number)) for number in range(start, start + 5000)))
    (path,) = files(tmp_path)
    assert path.stat().st_size > 5_000_000
    count = 0

    async def settle(line: Settlement) -> None:
        nonlocal count
        count += 1

    tracemalloc.start()
    try:
        await spool.replay(settle)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert count == 40_000


REPLAYER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from sentinel.cache.redis_ledger import RedisLedger
    from sentinel.cache.redis import open_store
    from sentinel.limits.policy import Policy
    from sentinel.usage.spool import Spool

    async def main(url, folder):
        store = open_store(url, deadline_seconds=10.0)
        await store.start()
        ledger = RedisLedger(store, Policy((), None, 30_000, 1000, 1000))
        spool = Spool(Path(folder))
        await spool.replay(lambda line: ledger.settle(line.reservation(), line.spent, line.started_ms, line.at_ms))

    asyncio.run(main(*sys.argv[1:]))
    """
)


def replayer(store_url: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", REPLAYER, store_url, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


async def test_killed_while_replaying(tmp_path: Path, store: Store, store_url: str) -> None:
    """Replays that are killed again and again bring every line into the ledger once."""
    spool = Spool(tmp_path)
    await asyncio.gather(*(spool.append(settlement(number)) for number in range(5000)))
    spool._let_go()
    outbox = keys.account_keys("ana").outbox

    async def grown() -> bool:
        length: int = await store.command("XLEN", outbox)
        return length > before

    for _ in range(3):
        before: int = await store.command("XLEN", outbox)
        process = replayer(store_url, tmp_path)
        await until(grown)
        process.kill()
        process.wait(10)
    assert await store.command("XLEN", outbox) < 5000
    assert await asyncio.to_thread(replayer(store_url, tmp_path).wait, 30) == 0
    assert await store.command("XLEN", outbox) == 5000
    assert files(tmp_path) == []
