"""Several deliverers on one Redis: none tells what another has told, and what a dead one leaves behind is told once.

About: `usage/record_store.py`, `usage/recovery.py`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Literal

import pytest
import redis

from sentinel.cache import keys
from sentinel.dev.zion import BATCH, ZionSimulator
from sentinel.error import RedisUnavailable
from sentinel.limits.policy import Cost
from sentinel.usage import partition_ownership
from sentinel.usage.outbox import Outbox
from tests.support.metering import Books, Stepped, Words, open_books, tapped
from tests.support.streams import append, entries
from tests.support.waiting import AT_ONCE_SECONDS, until

ANA, BO, CY = "ana@corp.test", "bo@corp.test", "cy@corp.test"
NOBODY = 99_999_999
"""A process id that no process has."""

LEASE_SECONDS = 0.6

CONTENT = """
local all = redis.call('KEYS', '*')
table.sort(all)
for i, name in ipairs(all) do
  local held = redis.call('TYPE', name).ok
  if held == 'stream' then
    held = {redis.call('XRANGE', name, '-', '+')}
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', name)) do
      local pending = redis.call('XPENDING', name, group[2], '-', '+', 1000)
      for at, entry in ipairs(pending) do pending[at] = entry[1] end
      held[#held + 1] = {group, pending}
    end
    held = cjson.encode(held)
  elseif held == 'hash' then
    redis.setresp(3)
    held = redis.call('HGETALL', name).map
    redis.setresp(2)
    held.seen, held.since = nil, nil
    local fields = {}
    for field, value in pairs(held) do fields[#fields + 1] = field .. '=' .. value end
    table.sort(fields)
    held = table.concat(fields, ' ')
  elseif held == 'zset' and name == KEYS[1] then
    held = table.concat(redis.call('ZRANGE', name, 0, -1), ' ')
  else
    held = redis.call('DUMP', name)
  end
  all[i] = name .. ' ' .. held
end
return redis.sha1hex(table.concat(all, ' '))
"""
"""What Redis holds, without the moments at which somebody looked, which change with each command. KEYS: the members."""


@pytest.fixture
async def books(store_url: str, zion_url: str, simulator: ZionSimulator) -> AsyncIterator[Books]:
    async with open_books(store_url, zion_url, simulator) as books:
        for email in (ANA, BO, CY):
            await books.user(email)
        yield books


@pytest.fixture
def short_lives(books: Books) -> None:
    """Processes count as dead after half a second of silence."""
    books.timings = replace(books.timings, lease_seconds=LEASE_SECONDS, poll_seconds=0.05)


def doomed(books: Books) -> Outbox:
    """A deliverer that others see to be dead; so nobody may look while it works."""
    return books.outbox(process=f"{partition_ownership.place()}|{NOBODY}|1")


@pytest.mark.parametrize("refused", [False, True])
async def test_killed_at_every_step(books: Books, refused: bool) -> None:
    """Wherever a process dies while it delivers, its successor tells the rest, and nothing twice."""
    for step in itertools.count(1):
        for email, model in itertools.product((ANA, BO, CY), ("gpt-4o", "gpt-4o-mini")):
            await books.spend(email, Cost(1, 10 + step, step), model)
        if refused and step % 2:
            books.simulator.refused_emails.add(BO)
        victim = doomed(books)
        stepped = Stepped(victim.flush(), step)
        await stepped.run()
        books.simulator.refused_emails.clear()
        successor = books.outbox()
        await books.told(successor)
        assert successor.delivered.ambiguous == 0, step
        assert books.booked() == books.owed, step
        await successor._ownership.release(idle=True)
        if not stepped.cancelled:
            break
    assert step > 10


async def test_killed_twice(books: Books) -> None:
    """A successor that dies while it takes over leaves nothing behind either."""
    for step in itertools.count(1):
        for email in (ANA, BO, CY):
            await books.spend(email, Cost(1, 10 + step, step))
        await Stepped(doomed(books).flush(), 9).run()
        stepped = Stepped(doomed(books).flush(), step)
        await stepped.run()
        successor = books.outbox()
        await books.told(successor)
        assert books.booked() == books.owed, step
        await successor._ownership.release(idle=True)
        if not stepped.cancelled:
            break
    assert step > 10


async def test_two_share_the_work(books: Books, short_lives: None) -> None:
    """Two processes that deliver at the same time, under load, tell everything once; both take part."""
    some = [f"w{number}@corp.test" for number in range(40)]
    for email in some:
        await books.user(email)
    pair = [books.outbox("one"), books.outbox("two|1|1")]
    running = [asyncio.create_task(outbox.run()) for outbox in pair]
    running += [asyncio.create_task(_beat(outbox)) for outbox in pair]
    for _ in range(25):
        for email in some:
            await books.spend(email)
        await asyncio.sleep(0.02)
    await until(lambda: _nothing_waits(books))
    for outbox in pair:
        await outbox.stop(5)
    for task in running:
        task.cancel()
    assert books.booked() == books.owed
    assert all(outbox.delivered.taken > 0 for outbox in pair)
    assert sum(outbox.delivered.taken for outbox in pair) == 1000


async def test_partitions_are_shared_evenly(books: Books, short_lives: None) -> None:
    """Who comes gets a share from those who are idle; who leaves gives it back."""
    one, two, three = (books.outbox(name) for name in ("one", "two", "three"))
    await one.flush()
    assert len(one._ownership.owned) == 64

    async def shares(*sizes: int) -> bool:
        for outbox in (one, two, three)[: len(sizes)]:
            await outbox.flush()
        return [len(outbox._ownership.owned) for outbox in (one, two, three)[: len(sizes)]] == list(sizes)

    await until(lambda: shares(32, 32))
    await until(lambda: shares(22, 22, 20))
    await three.stop(1)
    await until(lambda: shares(32, 32))


async def test_silence_is_death(books: Books, short_lives: None) -> None:
    """What a process on another machine leaves behind is taken over when its last sign of life is old enough."""
    # Long enough for a busy machine to come to the second look before it is over.
    books.timings = replace(books.timings, lease_seconds=2.0)
    victim, successor = books.outbox("far"), books.outbox("near|1|1")
    await books.spend(ANA)
    await Stepped(victim.flush(), 9).run()
    await successor.flush()
    assert successor._ownership.owned == frozenset()
    await until(lambda: _told_by(successor))
    assert books.booked() == books.owed


async def test_a_process_that_was_stopped_tells_nothing_of_its_past(books: Books, short_lives: None) -> None:
    """Who was silent for too long looks first at what is still its own, even in the middle of its work."""
    victim, successor = books.outbox("far"), books.outbox("near|1|1")
    await books.spend(ANA)
    books.simulator.faults.set(status=503, times=1)
    assert not await victim.flush()
    await successor.flush()
    await until(lambda: _told_by(successor))
    calls = len(books.reports())
    # Once its pause after the failure is over.
    await until(victim.flush)
    assert len(books.reports()) == calls
    assert books.booked() == books.owed


@pytest.mark.parametrize("beats", [False, True], ids=["silent", "heard"])
@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_process_that_was_stopped_right_before_a_call(
    books: Books, short_lives: None, where: Literal["before", "after"], beats: bool
) -> None:
    """Who goes on after a silence that was too long does not send what it was about to send.

    where: the stop is before, or after, it is written down that it is sent. beats: the process says that it lives, and
    is believed so again, before it comes to the call.
    """
    stop, awake = asyncio.Event(), asyncio.Event()

    async def stopped(words: Words) -> None:
        if _notes_sent(words):
            stop.set()
            await awake.wait()

    ledger = tapped(books.store, before=stopped) if where == "before" else tapped(books.store, after=stopped)
    victim, successor = replace(books, ledger=ledger).outbox("far"), books.outbox("near|1|1")
    await books.spend(ANA)
    working = asyncio.create_task(victim.flush())
    await stop.wait()
    await successor.flush()
    await until(lambda: _told_by(successor))
    if beats:
        beating = asyncio.create_task(victim.beat())
        await until(lambda: not victim._ownership.owned)
    awake.set()
    await working
    if beats:
        beating.cancel()
    await books.told(successor)
    assert len(books.reports()) == 1
    assert books.booked() == books.owed


async def test_a_process_that_was_stopped_while_another_could_not_tell(books: Books, short_lives: None) -> None:
    """Its successor has written down the same usage as sent, and Zion fails: it is told in one batch all the same."""
    stop, awake = asyncio.Event(), asyncio.Event()

    async def stopped(words: Words) -> None:
        if _notes_sent(words):
            stop.set()
            await awake.wait()

    victim = replace(books, ledger=tapped(books.store, before=stopped)).outbox("far")
    successor = books.outbox("near|1|1")
    await books.spend(ANA)
    working = asyncio.create_task(victim.flush())
    await stop.wait()
    books.simulator.faults.set(status=503, times=1, path_prefix=BATCH)
    await successor.flush()
    await until(lambda: _failed(successor))
    awake.set()
    await working
    await until(lambda: _told_by(successor))
    await books.told(successor)
    assert books.booked() == books.owed


async def test_nobody_dies_of_a_redis_that_was_away(books: Books, short_lives: None) -> None:
    """After an outage of Redis, in which nobody could say that they live, everyone gets the time to say so."""
    one, two = books.outbox("one"), books.outbox("two|1|1")
    await one.flush()
    await two.flush()
    await asyncio.sleep(LEASE_SECONDS * 2)
    await two.flush()
    assert two._ownership.owned == frozenset()
    await one._ownership.heartbeat()
    await asyncio.sleep(LEASE_SECONDS / 2)
    await one._ownership.heartbeat()
    await two.flush()
    assert len(one._ownership.owned) == 64


async def test_an_emptied_redis_is_set_up_again(books: Books) -> None:
    """When Redis has forgotten groups, owners and batches, delivery goes on with what comes next."""
    books.timings = replace(books.timings, poll_seconds=0.0)
    outbox = books.outbox()
    await books.spend(ANA)
    await books.told(outbox)
    await books.store.client.flushall()
    await books.spend(BO)
    await until(lambda: _told_by(outbox))
    assert books.booked() == books.owed


@pytest.mark.parametrize("read", [True, False], ids=["read_before", "not_read_before"])
async def test_a_redis_that_lost_its_last_moments(books: Books, read: bool) -> None:
    """What Zion has taken is not told again because Redis, after a power cut, gives it out once more."""
    outbox = books.outbox()
    await books.spend(BO)
    await books.told(outbox)
    await books.spend(ANA)
    (record,) = await _entries(books)
    await books.told(outbox)
    # As a power cut leaves it: the record is back, under its old name; for the group it is new, or was read before.
    stream, entry, fields = record
    await books.store.client.delete(stream)
    await append(books.store, stream, fields, entry)
    await books.store.client.xgroup_create(stream, "zion", "0")
    if read:
        await books.store.client.xreadgroup("zion", "deliverer", {stream: ">"})
        await _reconnected(books)
    await books.told(outbox)
    assert books.booked() == books.owed


async def test_a_redis_that_lost_a_batch_before_its_answer_was_noted(books: Books) -> None:
    """Zion's yes counts although Redis was cut off before it could be written down, and has forgotten the batch."""
    cuts = 0

    async def cut_off(words: Words) -> None:
        nonlocal cuts
        # Nothing was refused, says an answer.
        if words[:2] == ("HSET", keys.batches()) and words[3] == b"{}" and not cuts:
            cuts += 1
            await books.store.client.delete(keys.batches())
            raise RedisUnavailable("away")

    outbox = replace(books, ledger=tapped(books.store, before=cut_off)).outbox()
    await books.spend(ANA)
    with pytest.raises(RedisUnavailable):
        await outbox.flush()
    await books.told(outbox)
    assert books.booked() == books.owed


async def _reconnected(books: Books) -> None:
    """Redis ends all connections, as at its restart; ours has come back."""
    before = books.store.connects
    await books.store.client.client_kill_filter(_type="normal", skipme=True)

    async def is_back() -> bool:
        return books.store.connects > before and books.store.available

    await until(is_back)


@pytest.mark.parametrize("what", ["all is well", "one is refused", "a batch is refused", "no answer"])
async def test_a_redis_that_lost_its_last_moments_at_every_step(books: Books, store_url: str, what: str) -> None:
    """Wherever Redis is thrown back to, while usage is told and after it, nothing is told twice, or never."""
    # For here Redis loses moments that are long past, and what it has then is looked for at once.
    books.timings = replace(books.timings, remember_seconds=600.0, recall_seconds=0.0)
    pictures: dict[bytes, dict[bytes, bytes]] = {}
    outbox = books.outbox()
    await books.told(outbox)
    with redis.Redis.from_url(store_url) as client:
        content = client.register_script(CONTENT)

        def take_picture() -> bool:
            what_it_holds = content([keys.members()])
            if what_it_holds in pictures:
                return False
            names = client.keys()
            with client.pipeline() as dumps:
                for name in names:
                    dumps.dump(name)
                # What ends by itself may have done so since its name was told.
                dumped = zip(names, dumps.execute(), strict=True)
                pictures[what_it_holds] = {name: dump for name, dump in dumped if dump is not None}
            return False

        for number in range(2):
            for email, model in itertools.product((ANA, BO), ("gpt-4o", "gpt-4o-mini")):
                await books.spend(email, Cost(1, 10 + number, 1), model)
            if number == 0:
                _go_wrong(books, what)
            await Stepped(_told_with_one_refusal(books, outbox), take_picture).run()
        assert books.booked() == books.owed
        for step, picture in enumerate(pictures.values()):
            with client.pipeline() as restores:
                restores.flushall()
                for key, value in picture.items():
                    restores.restore(key, 0, value)
                restores.execute()
            await books.settle_again()
            await books.told(outbox)
            assert books.booked() == books.owed, step
    assert outbox.delivered.ambiguous == 0
    assert len(pictures) > 10


def _go_wrong(books: Books, what: str) -> None:
    if what == "one is refused":
        books.simulator.refused_emails.add(BO)
    elif what == "a batch is refused":
        books.simulator.faults.set(status=413, times=1, path_prefix=BATCH)
    elif what == "no answer":
        books.simulator.faults.set(apply_then_drop=True, times=1, path_prefix=BATCH)


async def _told_with_one_refusal(books: Books, outbox: Outbox) -> None:
    await outbox.flush()
    books.simulator.refused_emails.clear()
    await books.told(outbox)


async def _entries(books: Books) -> list[tuple[bytes, bytes, dict[bytes, bytes]]]:
    """All records, as (stream, entry, fields)."""
    return [
        (key, entry, fields)
        async for key in books.store.client.scan_iter("sentinel:{*}:outbox")
        for entry, fields in await entries(books.store, key)
    ]


async def test_stopping_waits_for_the_call_that_is_on_its_way(books: Books) -> None:
    """SIGTERM while Zion takes its time: the batch is not sent a second time beside the first."""
    await books.spend(ANA)
    books.simulator.faults.set(delay_seconds=0.3, times=1)
    outbox = books.outbox()
    running = asyncio.create_task(outbox.run())
    await until(lambda: _called(books))
    await books.spend(BO)
    await outbox.stop(5)
    await running
    assert books.booked() == books.owed
    assert len(books.reports()) == 2


async def test_stopping_does_not_wait_for_ever(books: Books) -> None:
    """What Zion does not take in time stays for whoever comes next, who tells it once."""
    await books.spend(ANA)
    books.simulator.faults.set(delay_seconds=30)
    outbox = books.outbox()
    async with asyncio.timeout(AT_ONCE_SECONDS):
        await outbox.stop(0.3)
    books.simulator.faults.clear()
    await books.told(books.outbox("next"))
    assert books.booked() == books.owed


async def test_who_stops_last_delivers_what_others_have_settled_meanwhile(books: Books) -> None:
    """A stop of all: one settles in a partition where another has looked for the last time, and ends before that."""
    books.timings = replace(books.timings, poll_seconds=0.0)
    one, two = books.outbox("one"), books.outbox("two|1|1")

    async def share() -> bool:
        await one.flush()
        await two.flush()
        return len(two._ownership.owned) == 32

    await until(share)
    users = [await books.user(f"last{number}@corp.test") for number in range(8)]
    hers = next(user for user in users if keys.partition_of(user.partition("@")[0]) in one._ownership.owned)
    await books.spend(hers)
    books.simulator.faults.set(delay_seconds=0.3, times=1)
    stopping = asyncio.create_task(one.stop(10))
    await until(lambda: _called(books))
    for user in users:
        await books.spend(user)
    await two.stop(10)
    assert not stopping.done()
    await stopping
    assert await books.waiting() == 0
    assert books.booked() == books.owed


async def test_who_stops_last_takes_what_the_other_has_just_left(books: Books) -> None:
    """Its last look at partitions may be a second old, and the other has left since."""
    books.timings = replace(books.timings, poll_seconds=60.0)
    one, two = books.outbox("one"), books.outbox("two|1|1")
    await one.flush()
    await two.flush()
    await one.stop(10)
    await books.spend(ANA)
    await two.stop(10)
    assert await books.waiting() == 0
    assert books.booked() == books.owed


async def test_a_sign_of_life_does_not_follow_the_end(books: Books) -> None:
    """Who has left is not among those who deliver again before its process has ended."""
    outbox = books.outbox("one")
    await outbox.flush()
    await outbox.stop(10)
    await outbox._ownership.heartbeat()
    assert await books.store.command("ZCARD", keys.members()) == 0


async def _beat(outbox: Outbox) -> None:
    while True:
        await outbox._ownership.heartbeat()
        await asyncio.sleep(LEASE_SECONDS / 4)


async def _nothing_waits(books: Books) -> bool:
    return await books.waiting() == 0


async def _told_by(outbox: Outbox) -> bool:
    await outbox.flush()
    return outbox.delivered.taken > 0 and (await outbox.depth())[0] == 0


async def _failed(outbox: Outbox) -> bool:
    await outbox.flush()
    return outbox.delivered.failures > 0


def _notes_sent(words: Words) -> bool:
    """Whether this writes down that a batch is sent."""
    return words[:2] == (keys.batches(), keys.deliverers()) and words[4:5] >= (b"{",)


async def _called(books: Books) -> bool:
    return bool(books.reports())
