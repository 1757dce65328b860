"""Usage that Zion refuses stays spent until somebody decides, and what is counted is what there are records of.

About: `usage/fault_isolation.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import pytest
import redis

from sentinel.cache import keys
from sentinel.cache.redis_ledger import read_account
from sentinel.dev.zion import BATCH, ZionSimulator
from sentinel.governance.port import AuthenticatedUser
from sentinel.limits.policy import ByDimension, Cost, Quota, Reservation
from sentinel.usage.dead_letters import DeadLetter, DeadLetters
from sentinel.usage.reconciliation import Reconciler
from sentinel.zion.client import ZionClient
from tests.support.metering import Books, Words, open_books, other_zion, scripted, tapped
from tests.support.waiting import until

ANA, BO, CY = "ana@corp.test", "bo@corp.test", "cy@corp.test"
HOUR_MS = 3_600_000

_numbers = itertools.count(1)


@pytest.fixture
async def books(store_url: str, zion_url: str, simulator: ZionSimulator) -> AsyncIterator[Books]:
    async with open_books(store_url, zion_url, simulator) as books:
        for email in (ANA, BO, CY):
            await books.user(email)
        yield books


async def limited(books: Books, requests: int, used: int = 0, ends_ms: int = 0, name: str = "ana") -> None:
    """Zion grants so many requests."""
    await books.ledger.refresh(name, Quota((requests, -1, -1), (used, 0, 0), (ends_ms, 0, 0)), -1)


async def admitted(books: Books, most: int = 20) -> int:
    """How many requests of ana are admitted and settled, one after the other."""
    for count in range(most):
        ask = Reservation(f"req_l{next(_numbers)}", "ana", ANA, "gpt-4o-mini", 0, 0)
        verdict = await books.ledger.reserve(ask)
        if not verdict.admitted:
            return count
        await books.ledger.settle(ask, Cost(1, 0, 0), verdict.now_ms)
    return most


async def buried(books: Books, count: int) -> None:
    """Deliver until there are so many dead letters."""
    outbox = books.outbox()

    async def dead() -> bool:
        await outbox.flush()
        return await DeadLetters(books.ledger).count() == count and await books.waiting() == 0

    await until(dead)
    # Another one in the same process may go on at once.
    await outbox.stop(1)


async def only_letter(books: Books) -> DeadLetter:
    (letter,) = [letter async for letter in DeadLetters(books.ledger).all()]
    return letter


async def account(books: Books, name: str = "ana") -> dict[str, ByDimension]:
    packed = await books.store.command("GET", keys.account_keys(name).account)
    found = read_account(packed) if packed else {"pend": [0, 0, 0], "letters": [0, 0, 0]}
    return {name: tuple(found[name]) for name in ("pend", "letters")}


# ------------------------------------------------------------------------------------------------------- dead letters


async def test_refused_usage_does_not_open_the_quota(books: Books, simulator: ZionSimulator) -> None:
    """However long Zion says no, and however often it tells its `used`: so many requests as it grants, and no more."""
    simulator.refused_emails.add(ANA)
    await limited(books, 5)
    assert await admitted(books) == 5
    for _ in range(2):
        await buried(books, 1)
        await limited(books, 5)
        assert await admitted(books) == 0
    assert (await books.ledger.view("ana")).used == (5, 0, 0)


async def test_what_an_operator_sends_again_is_booked_once(books: Books, simulator: ZionSimulator) -> None:
    """The letter is pending again, then used; a second try finds nothing; and it may be refused again."""
    simulator.refused_emails.add(ANA)
    await limited(books, 5)
    assert await admitted(books) == 5
    await buried(books, 1)
    letter = await only_letter(books)
    assert await DeadLetters(books.ledger).requeue(letter)
    assert await DeadLetters(books.ledger).requeue(letter) is None
    assert await account(books) == {"pend": (5, 0, 0), "letters": (0, 0, 0)}
    assert await admitted(books) == 0
    await buried(books, 1)
    assert await account(books) == {"pend": (0, 0, 0), "letters": (5, 0, 0)}
    simulator.refused_emails.clear()
    letter = await only_letter(books)
    assert await DeadLetters(books.ledger).requeue(letter)
    await books.told(books.outbox())
    assert simulator.used(ANA)["ai_requests"] == 5
    await limited(books, 7, simulator.used(ANA)["ai_requests"])
    assert await admitted(books) == 2


async def test_a_letter_that_is_deleted_counts_no_more(books: Books, simulator: ZionSimulator) -> None:
    """An operator has decided that it is never billed."""
    simulator.refused_emails.add(ANA)
    await limited(books, 5)
    assert await admitted(books, 3) == 3
    await buried(books, 1)
    dead = DeadLetters(books.ledger)
    letter = await only_letter(books)
    assert await dead.discard(letter)
    assert not await dead.discard(letter)
    assert await dead.requeue(letter) is None
    assert await dead.count() == 0
    assert await admitted(books) == 5


async def test_letters_count_until_the_period_ends(books: Books, simulator: ZionSimulator) -> None:
    """In the next one they are spent no more; sent again then, they count as what Zion is going to book."""
    simulator.refused_emails.add(ANA)
    now = (await books.ledger.view("ana")).now_ms
    await limited(books, 5, ends_ms=now + HOUR_MS)
    assert await admitted(books) == 5
    await buried(books, 1)
    books.ledger.now_ms = now + HOUR_MS - 1
    assert await admitted(books) == 0
    books.ledger.now_ms = now + HOUR_MS
    assert (await books.ledger.view("ana")).used == (0, 0, 0)
    letter = await only_letter(books)
    assert await DeadLetters(books.ledger).requeue(letter)
    assert await account(books) == {"pend": (5, 0, 0), "letters": (0, 0, 0)}
    assert await admitted(books) == 0


async def test_zion_may_begin_the_next_period_first(books: Books, simulator: ZionSimulator) -> None:
    """Then letters of the one before are over, too, while our clock is still in it."""
    simulator.refused_emails.add(ANA)
    now = (await books.ledger.view("ana")).now_ms
    await limited(books, 5, ends_ms=now + HOUR_MS)
    assert await admitted(books) == 5
    await buried(books, 1)
    await limited(books, 5, ends_ms=now + 2 * HOUR_MS)
    assert await admitted(books) == 5


async def test_usage_of_an_earlier_period_becomes_no_debt(books: Books, simulator: ZionSimulator) -> None:
    """Refused after the period that it was spent in, it takes nothing from the next one."""
    simulator.refused_emails.add(ANA)
    now = (await books.ledger.view("ana")).now_ms
    await limited(books, 5, ends_ms=now + HOUR_MS)
    assert await admitted(books) == 5
    books.ledger.now_ms = now + HOUR_MS
    assert await admitted(books) == 0
    await buried(books, 1)
    assert await account(books) == {"pend": (0, 0, 0), "letters": (0, 0, 0)}
    assert await admitted(books) == 5


async def test_letters_outlive_their_account(books: Books, simulator: ZionSimulator) -> None:
    """An account that was forgotten counts them again as soon as Zion has told the limits."""
    simulator.refused_emails.add(ANA)
    await limited(books, 5)
    assert await admitted(books, 3) == 3
    await buried(books, 1)
    await books.store.command("DEL", keys.account_keys("ana").account)
    await limited(books, 5)
    await Reconciler(books.ledger).reconcile()
    assert await admitted(books) == 2


async def test_a_letter_goes_under_the_address_that_the_user_has_now(books: Books, simulator: ZionSimulator) -> None:
    """Zion knows the old one no more: replay tells the usage under that of the newest token."""
    simulator.refused_emails.add(ANA)
    await books.spend(ANA)
    await buried(books, 1)
    for lifetime_ms, email in ((60_000, ANA), (90_000, "ana.new@corp.test"), (70_000, "older@corp.test")):
        digest = keys.token_digest(email.encode())
        profile = msgspec.json.encode(AuthenticatedUser("ana", email))
        await books.store.command("SET", keys.jwt_stale(digest), profile, "PX", lifetime_ms)
        await books.store.command("ZADD", keys.tokens("ana"), lifetime_ms, digest)
    simulator.add_user("ana.new@corp.test", external_id="ana")
    letter = await only_letter(books)
    assert await DeadLetters(books.ledger).requeue(letter)
    await books.told(books.outbox())
    assert simulator.used("ana.new@corp.test")["ai_requests"] == 1


@pytest.mark.parametrize("how", ["status", "success_false", "results"])
async def test_a_zion_that_refuses_everybody_buries_nobody(books: Books, simulator: ZionSimulator, how: str) -> None:
    """In maintenance it says 422, or no, to all: usage waits, and is told once when that is over."""
    for number in range(20):
        await books.user(f"m{number}@corp.test")
        await books.spend(f"m{number}@corp.test")
    if how == "results":
        simulator.refused_emails |= {f"m{number}@corp.test" for number in range(20)}
    else:
        body = b'{"success":false,"error":{"code":"MAINTENANCE","message":"later"}}'
        simulator.faults.set(status=422 if how == "status" else 200, body=body, path_prefix=BATCH)
    outbox = books.outbox()

    async def tried(times: int) -> bool:
        await outbox.flush()
        return len(books.reports()) >= times

    await until(lambda: tried(40 if how == "results" else 12))
    assert outbox.delivered.dead == 0
    if how != "results":
        # Nothing is taken apart any more once two are refused.
        assert len({len(call.body["increments"]) for call in books.reports()[-3:]}) <= 3
    simulator.faults.clear()
    simulator.refused_emails.clear()
    await books.told(outbox)
    assert books.booked() == books.owed
    # After an hour of it they are letters all the same.
    simulator.refused_emails |= {ANA, BO}
    books.timings = replace(books.timings, outage_seconds=0.0)
    await books.spend(ANA)
    await books.spend(BO)
    await buried(books, 2)


# ---------------------------------------------------------------------------------------------------- reconciliation


async def test_usage_whose_records_are_gone_is_given_back(books: Books) -> None:
    """An outbox that was trimmed, evicted or restored from an older dump does not take the quota for ever."""
    await limited(books, 10)
    assert await admitted(books, 6) == 6
    await books.store.command("DEL", keys.account_keys("ana").outbox)
    reconciler = Reconciler(books.ledger)
    await limited(books, 10)
    await reconciler.reconcile()
    assert reconciler.corrected == 1
    assert await account(books) == {"pend": (0, 0, 0), "letters": (0, 0, 0)}
    assert await admitted(books) == 10


async def test_usage_that_an_account_has_forgotten_counts_again(books: Books) -> None:
    """What waits for Zion is counted again once the limits are known."""
    await limited(books, 10)
    assert await admitted(books, 6) == 6
    await books.store.command("DEL", keys.account_keys("ana").account)
    await limited(books, 10)
    await Reconciler(books.ledger).reconcile()
    assert await admitted(books) == 4


async def test_letters_that_are_gone_are_given_back(books: Books, simulator: ZionSimulator) -> None:
    """Whoever deletes the stream of dead letters has decided, too."""
    simulator.refused_emails.add(ANA)
    await limited(books, 10)
    assert await admitted(books, 6) == 6
    await buried(books, 1)
    await books.store.command("DEL", keys.dead_letters(keys.account_keys("ana").partition))
    await limited(books, 10)
    await Reconciler(books.ledger).reconcile()
    assert await admitted(books) == 10


async def test_accounts_that_are_right_are_left_alone(books: Books, simulator: ZionSimulator) -> None:
    """Also when much is pending and refused; and nobody is looked at without need."""
    simulator.refused_emails.add(ANA)
    await limited(books, 10)
    assert await admitted(books, 4) == 4
    await buried(books, 1)
    assert await admitted(books, 4) == 4
    before = await account(books)
    assert before == {"pend": (4, 0, 0), "letters": (4, 0, 0)}
    await limited(books, 10)
    assert books.ledger.doubtful == {"ana"}
    reconciler = Reconciler(books.ledger)
    await reconciler.reconcile()
    assert reconciler.corrected == 0
    assert await account(books) == before
    await limited(books, 1000)
    assert books.ledger.doubtful == set()


@pytest.mark.parametrize("step", range(1, 12))
async def test_what_happens_meanwhile_is_not_lost(books: Books, step: int) -> None:
    """A settlement or a delivery at any moment of the look: in the end the account has what there is."""
    await limited(books, 30)
    assert await admitted(books, 10) == 10
    await limited(books, 12)
    count, outbox = 0, books.outbox()

    async def between_two_steps(words: Words) -> None:
        nonlocal count
        if words[0] == "XRANGE":
            count += 1
            if count == step:
                await books.spend(ANA, Cost(1, 0, 0))
            elif count == step + 1:
                await outbox.flush()

    await Reconciler(tapped(books.store, after=between_two_steps)).reconcile()
    waiting = await books.waiting()
    assert (await account(books))["pend"][0] == waiting


async def test_records_of_a_group_that_was_destroyed_are_booked_once(
    books: Books, simulator: ZionSimulator, store_url: str
) -> None:
    """XACK tells nothing then; what was in the outbox was pending."""
    await limited(books, 10)
    assert await admitted(books, 6) == 6
    outbox = keys.outbox(keys.account_keys("ana").partition)

    def destroyed(*_: object) -> None:
        with redis.Redis.from_url(store_url) as client:
            assert client.xgroup_destroy(outbox, keys.GROUP)

    with other_zion(scripted(destroyed, simulator)) as url:
        books.zion = ZionClient(url, simulator.api_key)
        await books.outbox().flush()
        await books.zion.close()
    assert await account(books) == {"pend": (0, 0, 0), "letters": (0, 0, 0)}
    assert await admitted(books) == 4
