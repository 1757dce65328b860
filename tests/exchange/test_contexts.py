"""What a request goes on from is input that nobody sees here: it is reserved by what was billed before.

About: `cache/contexts.py`, `proxy/objects.py`.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sentinel.cache import keys
from sentinel.cache.contexts import ContextRecords
from sentinel.cache.redis import Store, open_store
from sentinel.endpoints.responses import RESPONSES
from sentinel.error import RedisUnavailable
from tests.exchange.driver import INPUT_TOKENS, PROMPT, USER, Client, Gate, Stage
from tests.exchange.test_jobs import PATH, begun, response
from tests.exchange.test_reading_responses import JSON, said, usage


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    return Stage(store, tmp_path)


async def run(stage: Stage, gate: Gate | None = None, **fields: Any) -> asyncio.Task[None]:
    """A response that goes on from others; with a gate its provider waits there."""
    told = None if gate is not None else usage(21, 17)
    stage.provider.body = response("completed", id="resp_2", output=[said(" one two")], usage=told)
    stage.provider.header_lines, stage.provider.blanks = JSON, [] if gate is None else [gate]
    client = Client(slow=False)
    client.body = json.dumps({"model": "gpt-4o-mini", "input": PROMPT, **fields}).encode()
    task = asyncio.create_task(stage.exchange(client, RESPONSES).run())
    await asyncio.wait_for(task if gate is None else gate.reached.wait(), 10)
    return task


@pytest.mark.parametrize("fields", [{"previous_response_id": "resp_1"}, {"conversation": "conv_1"},
                                    {"conversation": {"id": "conv_1"}}])  # fmt: skip
async def test_what_it_goes_on_from_is_reserved(stage: Stage, fields: dict[str, Any]) -> None:
    """And billed where the provider tells no usage."""
    await stage.deps.ownership.record(USER.id, ["resp_1", "conv_1"])
    await stage.contexts.note(["resp_1", "conv_1"], 500)
    gate = Gate()
    task = await run(stage, gate, **fields)
    assert (await stage.account())["held"][1] == INPUT_TOKENS + 500
    gate.opened.set()
    await task
    assert await stage.settled() == {"req_1": (1, INPUT_TOKENS + 500, 2)}


async def test_what_a_response_brings(stage: Stage) -> None:
    """Its own input, and what it has said; a conversation has it, too. What has brought it stays as it was."""
    await stage.deps.ownership.record(USER.id, ["resp_0", "conv_1"])
    await run(stage, conversation="conv_1")
    assert [await stage.contexts.tokens([id_]) for id_ in ("resp_2", "conv_1")] == [38, 38]
    await run(stage, previous_response_id="resp_0")
    assert await stage.contexts.tokens(["resp_0"]) == 0
    assert await stage.contexts.tokens(["resp_2", "conv_1", "unknown"]) == 76


async def test_it_teaches_nothing_about_counts(stage: Stage) -> None:
    """A model's ratio is of inputs that were counted, not of what came with an earlier response."""
    await stage.deps.ownership.record(USER.id, ["resp_0"])
    await run(stage, model="open-model-9", previous_response_id="resp_0")
    assert stage.deps.input_ratio.corrected("open-model-9", 100) == 100
    await run(stage, model="open-model-9")
    assert stage.deps.input_ratio.corrected("open-model-9", 100) != 100


async def test_what_one_in_the_background_brings(stage: Stage) -> None:
    """From its end on."""
    await begun(stage)
    assert await stage.contexts.tokens(["resp_1"]) == 0
    stage.provider.objects[PATH] = response("completed", output=[said("Hello")], usage=usage(21, 17))
    await stage.follower.look()
    assert await stage.contexts.tokens(["resp_1"]) == 38


async def test_what_stands_there_otherwise(stage: Stage, store: Store) -> None:
    """What cannot be read brings nothing, and too much is bounded."""
    for written, tokens in ((b"many", 0), (b"-5", 0), (b"9" * 40, 2**53)):
        await store.command("SET", keys.context(b"resp_1"), written)
        assert await stage.contexts.tokens(["resp_1"]) == tokens


async def test_a_redis_that_is_away() -> None:
    """Nothing is admitted unseen; what is not noted is billed all the same."""
    contexts = ContextRecords(open_store("redis://127.0.0.1:1"))
    with pytest.raises(RedisUnavailable):
        await contexts.tokens(["resp_1"])
    await contexts.note(["resp_1"], 5)
