"""A process that was stopped beyond its lease: what others have by then it does not deliver, in no format.

About: `middleware/lease_keeper.py`, `proxy/relay.py`, `proxy/whole.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sentinel.cache.redis import Store
from sentinel.limits.policy import Cost, Quota, Reservation
from tests.exchange.driver import USER, Gate, Stage
from tests.exchange.test_settling import answers, asking, every, streams
from tests.support.formats import TEXT, USAGE, Format


async def stopped(stage: Stage, asks: Cost | None) -> None:
    """The process stands still until its lease has ended; meanwhile somebody else asks for so much, and gets it."""
    stage.ledger.now_ms = (await stage.ledger.view(USER.id)).now_ms + 60_000
    assert await stage.ledger.expire(USER.id) == 1
    if asks is not None:
        other = Reservation("other", USER.id, USER.email, "gpt-4o-mini", asks.input, asks.output, asks.output)
        verdict = await stage.ledger.reserve(other)
        assert verdict.granted_output == asks.output
        await stage.ledger.settle(other, asks, verdict.now_ms)


@every
@pytest.mark.parametrize("taken", [True, False])
async def test_a_request_whose_place_others_have(
    store: Store, tmp_path: Path, format_: Format, stream: bool, taken: bool
) -> None:
    """Is not answered, and costs nothing; where nobody has it, it is answered, and paid for."""
    stage, client, gate = Stage(store, tmp_path, lease_seconds=0), asking(format_, stream=stream, slow=False), Gate()
    await stage.ledger.refresh(USER.id, Quota(limit=(1, -1, -1)), -1)
    answers(stage, format_)
    stage.provider.gate, stage.provider.blanks = gate, [gate]
    task = asyncio.create_task(stage.exchange(client, format_.at(stream=stream)).run())
    await asyncio.wait_for(gate.reached.wait(), 10)
    await stopped(stage, Cost(1, 0, 0) if taken else None)
    gate.opened.set()
    await asyncio.wait_for(task, 10)
    own = (1, *(USAGE if stream else format_.usage))
    assert await stage.settled() == ({"other": (1, 0, 0)} if taken else {"req_1": own})
    assert (client.status, client.complete) == (503 if taken else 200, True)


@streams
@pytest.mark.parametrize("left", [1, 0])
async def test_a_stream_gets_what_others_left(store: Store, tmp_path: Path, format_: Format, left: int) -> None:
    """Of ten tokens it has delivered two; it ends in good order where the others' begin."""
    stage = Stage(store, tmp_path, default_output=10, lease_seconds=0)
    client, gate = asking(format_, stream=True, slow=False), Gate()
    await stage.limit(10)
    answers(stage, format_)
    stage.provider.pieces.insert(len(format_.before) + 2, gate)
    task = asyncio.create_task(stage.exchange(client, format_.endpoint).run())
    await asyncio.wait_for(gate.reached.wait(), 10)
    assert format_.text(client.got) == TEXT[:8]
    await stopped(stage, Cost(1, 0, 8 - left))
    gate.opened.set()
    await asyncio.wait_for(task, 10)
    account = await stage.account()
    # The end of its lease has billed some of it, and its own end the rest.
    assert (account["pend"], account["held"], account["open"]) == ([2, format_.input, 10], [0, 0, 0], 0)
    assert format_.text(client.got) == TEXT[: 14 if left else 8]
    assert (stage.ended[0].outcome, client.complete) == ("limit", True)
