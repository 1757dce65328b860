"""What is passed through: settled once however it ends, also where it begins or deletes what goes on after it.

About: `proxy/passthrough.py`, `proxy/passed_answer.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from sentinel.cache.redis import Store
from sentinel.error import UpstreamError, UpstreamTimeout
from sentinel.limits.policy import Quota
from tests.exchange.driver import INPUT_TOKENS, USER, Client, Gate, Stage
from tests.exchange.test_jobs import PATH, begun, billed, leaves_at, response, streamed
from tests.exchange.test_reading_responses import JSON, START, USAGE, WORDS, said, usage
from tests.exchange.test_settling import leave
from tests.support.metering import Stepped

STORE = [b'{"id":"vs_1",', b'"object":"vector_store"}']
ENDED = response("completed", output=[said("Hello")], usage=usage(21, 17))


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    return Stage(store, tmp_path)


def creating(*, slow: bool = False, **fields: Any) -> Client:
    """Of a request that creates something."""
    client = Client(slow=slow)
    client.body = json.dumps({"name": "mine", **fields}).encode()
    return client


@pytest.mark.parametrize("gone", [True, False], ids=["client_leaves", "shutdown"])
@pytest.mark.parametrize("slow", [True, False], ids=["waited_for", "in_passing"])
@pytest.mark.parametrize("kind", [b"application/json", b"application/octet-stream"])
async def test_cancelled_at_every_step(store: Store, tmp_path: Path, gone: bool, slow: bool, kind: bytes) -> None:
    """It is one request to who leaves once it was sent on, as to who has any of its answer, and settled once."""
    for step in itertools.count(1):
        await store.client.flushall()
        stage, client = Stage(store, tmp_path), creating(slow=slow)
        stage.provider.header_lines, stage.provider.pieces = b"content-type: %b\r\n" % kind, [*STORE]
        stepped = Stepped(stage.passthrough(client, "POST", "/v1/vector_stores").run(), step)
        await stepped.run(leave(client) if gone else lambda: None)
        records = list((await stage.settled()).values())
        if (gone and stage.provider.requests) or (client.got and client.status == 200):
            assert records == [(1, 0, 0)], step
        elif not stage.provider.requests:
            assert records == [], step
        assert len(stage.ended) == 1, step
        assert stage.provider.closed <= stage.provider.opened, step
        assert not client.complete or client.status == 503 or client.got == b"".join(STORE), step
        if not stepped.cancelled:
            break
    assert step >= 6
    assert client.complete


@pytest.mark.parametrize("failure", [UpstreamError("x"), UpstreamTimeout("x")])
@pytest.mark.parametrize("begun", [[], STORE[:1]], ids=["before_the_answer", "within_it"])
async def test_a_provider_that_breaks(stage: Stage, failure: Any, begun: list[bytes]) -> None:
    """What nobody has got is free; what breaks off was one request, and is never taken for whole."""
    client = creating()
    stage.provider.header_lines = b"content-type: application/octet-stream\r\n"
    stage.provider.pieces, stage.provider.failure = [*begun, *begun, failure], None if begun else failure
    await stage.passthrough(client, "POST", "/v1/vector_stores").run()
    assert list((await stage.settled()).values()) == ([(1, 0, 0)] if begun else [])
    assert client.complete == (not begun)
    assert client.status == (200 if begun else failure.status)


BATCH = {"object": "batch", "model": "gpt-4o", "request_counts": {"total": 3, "completed": 3}}
_RUN = {"object": "thread.run", "thread_id": "thread_1", "model": "gpt-4o"}
JOBS: dict[str, tuple[dict[str, Any], str, tuple[int, int, int]]] = {
    "/v1/batches": (BATCH, "/batches/job_1", (2, 21, 17)),
    "/v1/threads/runs": (_RUN, "/threads/thread_1/runs/job_1", (0, 21, 17)),
}
"""What begins a job: what it is, where it is looked at, and what it costs beside the request that has begun it."""


@pytest.mark.parametrize(
    ("path", "stream"), [("/v1/batches", False), ("/v1/threads/runs", False), ("/v1/threads/runs", True)]
)
async def test_who_leaves_what_it_begins_at_any_step(store: Store, tmp_path: Path, path: str, stream: bool) -> None:
    """From the moment at which its provider has it on it is followed, also before any answer, and billed at its end."""
    fields, place, cost = JOBS[path]
    told = json.dumps({"id": "job_1", "status": "in_progress", **fields}).encode()
    for step in itertools.count(1):
        await store.client.flushall()
        stage, client = Stage(store, tmp_path), creating(slow=True, stream=stream)
        await stage.ledger.refresh(USER.id, Quota(), -1)
        if stream:
            stage.provider.pieces = [b"event: thread.run.queued\ndata: %b\n\n" % told, b": alive\n\n", b"data: 1\n\n"]
        else:
            stage.provider.header_lines, stage.provider.pieces = JSON, [told]
        left = await leaves_at(stage.passthrough(client, "POST", path), client, step)
        stage.provider.objects[place] = json.dumps(
            {"id": "job_1", **fields, "status": "completed", "usage": usage(21, 17)}
        ).encode()
        await stage.follower.look()
        asked = len(stage.provider.requests)
        assert list((await billed(stage)).values()) == [(1, 0, 0), cost] * asked, step
        if not left:
            break
    assert step >= 6


async def deletes(stage: Stage) -> Client:
    """Have the response deleted."""
    client = Client(slow=False)
    await asyncio.wait_for(stage.passthrough(client, "DELETE", f"/v1{PATH}").run(), 10)
    return client


class TestDeleted:
    """A response in the background that its user deletes."""

    async def test_while_it_goes_on(self, stage: Stage) -> None:
        """Nobody will tell what it has cost, so it costs what was reserved; it is waited for a while, and no longer."""
        await begun(stage, max_output_tokens=500)
        stage.provider.objects[PATH] = response("in_progress")
        assert (await deletes(stage)).got == b'{"deleted":true}'
        held = await stage.account()
        assert (held["held"], held["open"]) == ([1, INPUT_TOKENS, 500], 1)
        await stage.follower.look()
        assert sum(await stage.jobs.counts()) == 1
        impatient = stage.another_follower(missing=0)
        for _ in range(3):
            await impatient.look()
        assert await billed(stage) == {"req_1": (1, INPUT_TOKENS, 500), "req_2": (1, 0, 0)}

    async def test_right_after_its_end(self, stage: Stage) -> None:
        """That nobody has seen yet: it costs what its provider tells, which nobody could tell afterwards."""
        await begun(stage)
        stage.provider.objects[PATH] = ENDED
        await deletes(stage)
        assert await billed(stage) == {"req_1": (1, 21, 17), "req_2": (1, 0, 0)}

    async def test_while_it_is_streamed(self, stage: Stage) -> None:
        """What its stream tells in the end is what it costs."""
        gate = Gate()
        stage.provider.objects[PATH] = response("in_progress")
        streaming = asyncio.create_task(streamed(stage, *START, *WORDS, gate, USAGE))
        await asyncio.wait_for(gate.reached.wait(), 10)
        await deletes(stage)
        await stage.follower.look()
        gate.opened.set()
        await streaming
        assert await billed(stage) == {"req_1": (1, 21, 17), "req_2": (1, 0, 0)}

    async def test_that_its_provider_does_not_let_go(self, stage: Stage) -> None:
        """It is followed to its end; the refusal passes, and is free."""
        await begun(stage)
        stage.provider.kept.add(PATH)
        stage.provider.objects[PATH] = response("in_progress")
        assert (await deletes(stage)).status == 400
        stage.provider.objects[PATH] = ENDED
        await stage.follower.look()
        assert await billed(stage) == {"req_1": (1, 21, 17)}

    async def test_at_every_step_of_a_client_that_leaves(self, store: Store, tmp_path: Path) -> None:
        """Whether its provider has heard of it or not."""
        for step in itertools.count(1):
            await store.client.flushall()
            stage = Stage(store, tmp_path)
            await begun(stage, max_output_tokens=500)
            stage.provider.objects[PATH] = response("in_progress")
            client = Client(slow=False)
            stepped = Stepped(stage.passthrough(client, "DELETE", f"/v1{PATH}").run(), step)
            await stepped.run(leave(client))
            is_gone = PATH not in stage.provider.objects
            if not is_gone:
                stage.provider.objects[PATH] = ENDED
            await stage.another_follower(missing=0).look()
            records = await billed(stage)
            assert records["req_1"] == ((1, INPUT_TOKENS, 500) if is_gone else (1, 21, 17)), step
            assert records.get("req_2") == ((1, 0, 0) if is_gone else None), step
            if not stepped.cancelled:
                break
        assert step >= 6
