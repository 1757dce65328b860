"""Responses in the background: what goes on at the provider is billed when it ends, once, whoever finds the end.

About: `proxy/jobs.py`, `proxy/job_follower.py`, `proxy/batch_results.py`, `usage/job_store.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from sentinel.cache import keys
from sentinel.cache.redis import Store
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.endpoints.responses import RESPONSES
from sentinel.error import NotFound, RedisUnavailable, UpstreamError, UpstreamTimeout
from sentinel.limits.policy import Cost, Quota
from sentinel.proxy.exchange import Exchange
from sentinel.usage.job_store import Job
from tests.exchange.driver import INPUT_TOKENS, PROMPT, USER, Client, Gate, Stage
from tests.exchange.test_reading_responses import CREATED, JSON, START, USAGE, WORDS, said, usage
from tests.exchange.test_settling import leave
from tests.support.metering import Stepped, Words, tapped

PATH = "/responses/resp_1"
JOBS = keys.jobs(keys.partition_of(USER.id))
REFERENCE = RESPONSES.ids.found_in(b'{"previous_response_id": "resp_1"}')


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    return Stage(store, tmp_path)


def response(status: str, **fields: Any) -> bytes:
    return json.dumps({"id": "resp_1", "object": "response", "status": status, "usage": None, **fields}).encode()


def asked(**fields: Any) -> Client:
    client = Client(slow=False)
    client.body = json.dumps({"model": "gpt-4o-mini", "input": PROMPT, "background": True, **fields}).encode()
    return client


async def begun(stage: Stage, status: str = "queued", **fields: Any) -> Client:
    """A client that was told that its response has begun."""
    stage.provider.body, stage.provider.header_lines = response(status), JSON
    client = asked(**fields)
    await stage.exchange(client, RESPONSES).run()
    return client


async def streamed(stage: Stage, *pieces: Any, leaves: Gate | None = None, **fields: Any) -> Client:
    """A client of a stream of a response in the background; leaves: when it does."""
    stage.provider.pieces = list(pieces)
    client = asked(stream=True, **fields)
    task = asyncio.create_task(stage.exchange(client, RESPONSES).run())
    if leaves is not None:
        await asyncio.wait_for(leaves.reached.wait(), 10)
        leave(client)()
        task.cancel()
    await asyncio.wait_for(task, 10)
    return client


async def billed(stage: Stage) -> dict[str, tuple[int, int, int]]:
    """What was billed, once nothing is followed any more."""
    assert sum(await stage.jobs.counts()) == 0
    return await stage.settled()


@pytest.mark.parametrize("status", ["queued", "in_progress"])
async def test_it_is_billed_when_it_ends(stage: Stage, status: str) -> None:
    """Until then its reservation stays, and nothing is billed; the answer passes as it came."""
    client = await begun(stage, status)
    assert (client.status, client.got) == (200, response(status))
    assert await stage.records() == {}
    assert (await stage.account())["open"] == 1
    stage.provider.objects[PATH] = response("in_progress")
    await stage.follower.look()
    assert (await stage.records(), sum(await stage.jobs.counts())) == ({}, 1)
    stage.provider.objects[PATH] = response("completed", output=[said("Hello")], usage=usage(21, 17))
    await stage.follower.look()
    assert await billed(stage) == {"req_1": (1, 21, 17)}
    assert stage.billed == [("gpt-4o-mini", Cost(1, 21, 17))]
    await stage.follower.look()
    assert stage.provider.asked == [PATH, PATH]


async def test_partitions_without_jobs_are_not_asked_for_them(stage: Stage, store: Store) -> None:
    """Each process looks every second: where nothing is to follow it only asks how many there are."""
    told: list[Words] = []

    async def listen(words: Words) -> None:
        told.append(words)

    follower = stage.another_follower(tapped(store, before=listen))
    await follower.look()
    assert {words[0] for words in told} == {"ZCARD"}
    await begun(stage)
    told.clear()
    await follower.look()
    scripts = [words for words in told if words[0] in {keys.jobs(p) for p in range(keys.PARTITIONS)}]
    assert {words[0] for words in scripts} == {JOBS}


async def test_one_that_has_ended_already(stage: Stage) -> None:
    """As any other answer."""
    stage.provider.body = response("completed", output=[said("Hello")], usage=usage(21, 17))
    client = asked()
    await stage.exchange(client, RESPONSES).run()
    assert await billed(stage) == {"req_1": (1, 21, 17)}


@pytest.mark.parametrize(
    ("end", "cost"),
    [
        (response("incomplete", usage=usage(21, 17)), (1, 21, 17)),
        (response("failed", error={"code": "server_error", "message": "x"}), None),
        (response("failed", error={"code": "server_error", "message": "x"}, usage=usage(21, 0)), (1, 21, 0)),
        (response("cancelled", output=[said(" one two three")]), (1, INPUT_TOKENS, 3)),
        (response("cancelled"), (1, INPUT_TOKENS, 0)),
        (response("completed", output=[said(" one two")], usage={"input_tokens": "x"}), (1, INPUT_TOKENS, 2)),
    ],
)
async def test_how_it_ends(stage: Stage, end: bytes, cost: tuple[int, int, int] | None) -> None:
    """Usage is what the provider says, else our count; an error costs nothing."""
    await begun(stage)
    stage.provider.objects[PATH] = end
    await stage.follower.look()
    assert await billed(stage) == ({} if cost is None else {"req_1": cost})


async def test_what_was_thought_unseen_by_a_cancelled_one(stage: Stage) -> None:
    """Nobody tells how much that was: the most that it can have been in this time, within the reservation."""
    await begun(stage, model="gpt-5", max_output_tokens=500)
    stage.provider.objects[PATH] = response("cancelled")
    job = json.loads(await stage.ledger.store.command("HGET", JOBS, "resp_1"))
    job["started_ms"] -= 3_600_000
    await stage.ledger.store.command("HSET", JOBS, "resp_1", json.dumps(job))
    await stage.follower.look()
    assert await billed(stage) == {"req_1": (1, INPUT_TOKENS, 500)}


async def test_a_client_finds_its_end(stage: Stage) -> None:
    """It is billed before the client hears of it, and by nobody else; what others have of that name is no matter."""
    await begun(stage)
    end = response("completed", output=[said("Hello")], usage=usage(21, 17))
    await stage.follower.saw("bo", "responses", end)
    await stage.follower.saw(USER.id, "responses", response("in_progress"))
    await stage.follower.saw(USER.id, "files", end)
    assert await stage.records() == {}
    await asyncio.gather(*(stage.another_follower().saw(USER.id, "responses", end) for _ in range(5)))
    assert await billed(stage) == {"req_1": (1, 21, 17)}
    stage.provider.objects[PATH] = end
    await stage.follower.look()
    await stage.follower.saw(USER.id, "responses", end)
    assert await billed(stage) == {"req_1": (1, 21, 17)}


async def test_many_look(stage: Stage) -> None:
    """Whoever finds its end first bills it."""
    await begun(stage)
    stage.provider.objects[PATH] = response("completed", output=[said("Hello")], usage=usage(21, 17))
    await asyncio.gather(*(stage.another_follower().look() for _ in range(5)))
    assert await billed(stage) == {"req_1": (1, 21, 17)}
    assert len(stage.provider.asked) == 1


@pytest.mark.parametrize("failure", [UpstreamError("x"), UpstreamTimeout("x"), b"<html>", b'{"id": 5}', b"[" * 9999])
async def test_a_provider_that_fails(stage: Stage, failure: bytes | Exception) -> None:
    """It is asked again."""
    await begun(stage)
    stage.provider.objects[PATH] = failure
    await stage.follower.look()
    await stage.follower.look()
    assert (await stage.records(), sum(await stage.jobs.counts()), len(stage.provider.asked)) == ({}, 1, 2)
    stage.provider.objects[PATH] = response("completed", usage=usage(21, 17))
    await stage.follower.look()
    assert await billed(stage) == {"req_1": (1, 21, 17)}


async def test_one_that_is_gone(stage: Stage) -> None:
    """Deleted while it ran: nobody will tell what it has cost, so it costs its reservation. It is waited for."""
    await begun(stage, max_output_tokens=500)
    await stage.follower.look()
    assert (await stage.records(), sum(await stage.jobs.counts())) == ({}, 1)
    impatient = stage.another_follower(missing=0)
    await impatient.look()
    assert await billed(stage) == {"req_1": (1, INPUT_TOKENS, 500)}


async def test_one_that_was_not_there_yet(stage: Stage) -> None:
    """What its provider knows later is waited for."""
    await begun(stage)
    await stage.follower.look()
    stage.provider.objects[PATH] = response("queued")
    await stage.follower.look()
    job = await stage.jobs.find(USER.id, "resp_1")
    assert job is not None
    assert job.missing_ms == 0


async def test_its_reservation_lives_on(stage: Stage) -> None:
    """However long it takes: what it may still cost nobody else gets."""
    await stage.limit(1000)
    await begun(stage)
    stage.provider.objects[PATH] = response("in_progress")
    held = (await stage.account())["held"]
    assert held[2] == 1000
    now = (await stage.ledger.view(USER.id)).now_ms
    for minutes in range(1, 4):
        stage.ledger.now_ms = now + minutes * 60_000
        await stage.follower.look()
        account = await stage.account()
        assert (account["held"], account["open"]) == (held, 1), minutes


async def test_a_stream_to_its_end(stage: Stage) -> None:
    """Billed as the stream says, at once."""
    client = await streamed(stage, *START, *WORDS, USAGE)
    assert client.got.endswith(USAGE)
    assert await billed(stage) == {"req_1": (1, 21, 17)}
    await stage.follower.look()
    assert stage.provider.asked == []


async def test_a_stream_that_its_client_leaves(stage: Stage) -> None:
    """The response goes on, so it costs what it costs in the end."""
    gate = Gate()
    await streamed(stage, *START, WORDS[0], gate, leaves=gate)
    assert await stage.records() == {}
    stage.provider.objects[PATH] = response("completed", output=[said("Hello")], usage=usage(21, 17))
    await stage.follower.look()
    assert await billed(stage) == {"req_1": (1, 21, 17)}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_who_leaves_at_any_step_leaves_what_goes_on(store: Store, tmp_path: Path, stream: bool) -> None:
    """From the moment at which its provider has the request on, also before any answer, it costs what it costs."""
    for step in itertools.count(1):
        await store.client.flushall()
        stage, client = Stage(store, tmp_path), asked(stream=stream)
        stage.provider.body, stage.provider.pieces = response("queued"), [*START, *WORDS, USAGE]
        if not stream:
            stage.provider.header_lines = JSON
        left = await leaves_at(stage.exchange(client, RESPONSES), client, step)
        assert sum(await stage.jobs.counts()) <= len(stage.provider.requests), step
        stage.provider.objects[PATH] = response("completed", output=[said("Hello")], usage=usage(21, 17))
        await stage.follower.look()
        assert await billed(stage) == ({"req_1": (1, 21, 17)} if stage.provider.requests else {}), step
        assert stage.provider.closed == stage.provider.opened, step
        if not left:
            break
    assert step >= 8


async def leaves_at(exchange: Exchange, client: Client, step: int) -> bool:
    """Run it; at this step its client leaves, which cancels it where it is watched. Whether there was such a step."""
    connection = client.connection

    def is_cancelled() -> bool:
        connection.gone = connection.gone or stepped.steps >= step
        return connection.gone and connection.tell is not None

    stepped = Stepped(exchange.run(), is_cancelled)
    await asyncio.wait_for(stepped.run(leave(client)), 10)
    return connection.gone


@pytest.mark.parametrize(
    "begun",
    [
        [CREATED[:9], CREATED[9:40], CREATED[40:]],
        [b": processing\n\n", CREATED],
        # It repeats long instructions, of which this is the beginning.
        [CREATED[: CREATED.index(b'"status"')] + b'"instructions":"', b"x" * 70_000, Gate()],
    ],
)
async def test_a_stream_that_begins_in_pieces(stage: Stage, begun: list[Any]) -> None:
    """Is followed, too: who leaves it leaves what goes on."""
    gate = begun[-1] if isinstance(begun[-1], Gate) else Gate()
    pieces = [*begun, *([] if gate in begun else [WORDS[0], gate])]
    await streamed(stage, *pieces, leaves=gate)
    assert sum(await stage.jobs.counts()) == 1
    stage.provider.objects[PATH] = response("completed", output=[said("Hello")], usage=usage(21, 17))
    await stage.follower.look()
    assert await billed(stage) == {"req_1": (1, 21, 17)}


async def test_what_it_was_read_of_passes(stage: Stage) -> None:
    """As it came, from its first byte on."""
    client = await streamed(stage, b": processing\n\n", CREATED[:9], CREATED[9:], *START[1:], *WORDS, USAGE)
    assert client.got == b"".join([b": processing\n\n", *START, *WORDS, USAGE])


async def test_a_stream_that_breaks_off(stage: Stage) -> None:
    """The same; and its creator may ask for it."""
    await streamed(stage, *START, WORDS[0], UpstreamError("broke off"))
    await stage.deps.ownership.check(USER.id, REFERENCE)
    stage.provider.objects[PATH] = response("completed", output=[said("Hello")], usage=usage(21, 17))
    await stage.follower.look()
    assert await billed(stage) == {"req_1": (1, 21, 17)}


async def test_a_stream_whose_first_event_tells_of_no_response(stage: Stage) -> None:
    """As one that is not in the background."""
    await streamed(stage, *WORDS[:2], USAGE)
    assert await billed(stage) == {"req_1": (1, 21, 17)}


async def test_a_stream_whose_process_is_killed(stage: Stage) -> None:
    """From its first event on it is written down: others bill it, with what was billed when its lease ended."""
    gate = Gate()
    stage.provider.pieces = [CREATED, *WORDS[:2], gate]
    killed = asyncio.create_task(stage.exchange(asked(stream=True), RESPONSES).run())
    await asyncio.wait_for(gate.reached.wait(), 10)
    (held,) = stage.leases._open
    await stage.ledger.extend(held.reservation, held.output, 0, 2, held.started_ms)
    now = (await stage.ledger.view(USER.id)).now_ms
    stage.ledger.now_ms = now + 60_000
    assert await stage.ledger.expire(USER.id) == 1
    assert await stage.records() == {"req_1": (1, INPUT_TOKENS, 2)}
    stage.provider.objects[PATH] = response("completed", output=[said("Hello")], usage=usage(21, 17))
    await stage.another_follower().look()
    account = await stage.account()
    assert (account["pend"], account["open"], account["held"]) == ([1, 21, 17], 0, [0, 0, 0])
    killed.cancel()
    await asyncio.gather(killed, return_exceptions=True)


async def test_what_it_has_created_is_its_callers(stage: Stage) -> None:
    """Found by whom it belongs to."""
    await begun(stage)
    await stage.deps.ownership.check(USER.id, REFERENCE)
    with pytest.raises(NotFound):
        await stage.deps.ownership.check("bo", REFERENCE)


async def test_one_that_nobody_can_read(stage: Stage) -> None:
    """It is counted, stays for an operator, and stands in nobody's way."""
    await begun(stage)
    jobs, due = JOBS, keys.jobs_due(keys.partition_of(USER.id))
    await stage.ledger.store.command("HSET", jobs, "poison", b"\xff")
    await stage.ledger.store.command("ZADD", due, 0, "poison")
    stage.provider.objects[PATH] = response("completed", usage=usage(21, 17))
    await stage.follower.look()
    await stage.follower.look()
    assert await stage.records() == {"req_1": (1, 21, 17)}
    assert stage.unreadable == ["jobs"]
    assert sum(await stage.jobs.counts()) == 1
    # One that is due and is no job any more goes.
    await stage.ledger.store.command("HDEL", jobs, "poison")
    await stage.ledger.store.command("ZADD", due, 0, "poison")
    await stage.follower.look()
    assert await stage.ledger.store.command("ZCARD", due) == 0


async def test_a_batch(stage: Stage) -> None:
    """It counts as its requests, of which one was counted when it was made; its model may be known at its end only."""
    now = (await stage.ledger.view(USER.id)).now_ms
    await stage.ledger.refresh(USER.id, Quota(), -1)
    await stage.follower.begin(
        Job("batch_1", "batches", "req_9.job", USER.id, USER.email, "", 0, 0, now, is_held=False)
    )
    told = {"id": "batch_1", "object": "batch", "model": "gpt-4o", "request_counts": {"total": 9, "completed": 7}}
    for status, cost in (("in_progress", None), ("completed", (6, 700, 70))):
        stage.provider.objects["/batches/batch_1"] = json.dumps(
            {**told, "status": status, "usage": usage(700, 70)}
        ).encode()
        await stage.follower.look()
        assert (await stage.records()).get("req_9.job") == cost
    assert stage.billed == [("gpt-4o", Cost(6, 700, 70))]
    assert await billed(stage) == {"req_9.job": (6, 700, 70)}


async def test_a_run_of_an_eval(stage: Stage) -> None:
    """It lies below its eval, and each of its models tells its usage; that of another eval is not looked at for it."""
    now = (await stage.ledger.view(USER.id)).now_ms
    await stage.ledger.refresh(USER.id, Quota(), -1)
    job = Job("run_1", "evals/runs", "req_9.job", USER.id, USER.email, "", 0, 0, now, is_held=False, below="eval_1")
    await stage.follower.begin(job)
    each = {"prompt_tokens": 100, "completion_tokens": 7}
    told = {"id": "run_1", "object": "eval.run", "eval_id": "eval_1", "status": "completed"}
    stage.provider.objects["/evals/eval_1/runs/run_1"] = json.dumps({**told, "per_model_usage": [each, each]}).encode()
    await stage.follower.look_below(USER.id, "eval_2")
    await stage.follower.look_below("bo", "eval_1")
    assert stage.provider.asked == []
    await stage.follower.look_below(USER.id, "eval_1")
    assert await billed(stage) == {"req_9.job": (0, 200, 14)}


def results(*usages: dict[str, int], kind: str = "batches") -> bytes:
    """The lines of a batch that has ended; the last request has failed."""
    if kind == "batches":
        lines = [{"custom_id": "c", "response": {"status_code": 200, "body": {"usage": each}}} for each in usages]
    else:
        lines = [{"custom_id": "c", "result": {"type": "succeeded", "message": {"usage": each}}} for each in usages]
    return b"\n".join(json.dumps(line).encode() for line in [*lines, {"custom_id": "c", "response": None}]) + b"\n"


BATCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "batches": (
        "/files/file-1/content",
        {"status": "completed", "output_file_id": "file-1", "request_counts": {"total": 3, "completed": 2}},
    ),
    "messages/batches": (
        "/messages/batches/batch_1/results",
        {"processing_status": "ended", "request_counts": {"processing": 0, "succeeded": 2, "errored": 1}},
    ),
}


async def begin_batch(stage: Stage, kind: str) -> tuple[str, bytes]:
    """A batch that is followed; where its results lie, and what is told of it once it has ended."""
    now = (await stage.ledger.view(USER.id)).now_ms
    await stage.ledger.refresh(USER.id, Quota(), -1)
    await stage.follower.begin(Job("batch_1", kind, "req_9.job", USER.id, USER.email, "", 0, 0, now, is_held=False))
    path, fields = BATCHES[kind]
    return path, json.dumps({"id": "batch_1", **fields}).encode()


@pytest.mark.parametrize("kind", BATCHES)
async def test_a_batch_that_tells_no_usage(stage: Stage, kind: str) -> None:
    """Its results tell, line by line; it is not billed before they could be read."""
    path, told = await begin_batch(stage, kind)
    stage.provider.objects |= {f"/{kind}/batch_1": told, path: UpstreamError("away")}
    await stage.follower.look()
    assert (await stage.records(), sum(await stage.jobs.counts())) == ({}, 1)
    counts = {"input_tokens": 100, "output_tokens": 7}
    stage.provider.objects[path] = results(counts, counts, kind=kind)
    await stage.follower.look()
    assert await billed(stage) == {"req_9.job": (1, 200, 14)}


async def test_the_results_of_a_batch_that_nobody_can_read(stage: Stage) -> None:
    """A line that is no JSON costs its bytes; what is gone costs its requests."""
    path, told = await begin_batch(stage, "batches")
    stage.provider.objects |= {"/batches/batch_1": told, path: b"no JSON\n" + results({"prompt_tokens": 5})}
    await stage.follower.look()
    assert await billed(stage) == {"req_9.job": (1, 5, 7)}


async def test_the_results_of_a_batch_are_gone(stage: Stage) -> None:
    """Nobody can tell; its requests are billed."""
    _, told = await begin_batch(stage, "batches")
    stage.provider.objects["/batches/batch_1"] = told
    await stage.follower.look()
    assert await billed(stage) == {"req_9.job": (1, 0, 0)}


async def test_many_that_see_the_end_of_a_batch(stage: Stage) -> None:
    """Its results are read once."""
    path, told = await begin_batch(stage, "batches")
    stage.provider.objects |= {"/batches/batch_1": told, path: results(usage(100, 7))}
    await asyncio.gather(
        *(stage.follower.saw(USER.id, "batches", told) for _ in range(5)),
        stage.follower.look_before(USER.id, "batch_1"),
    )
    assert await billed(stage) == {"req_9.job": (1, 100, 7)}
    assert stage.provider.asked.count(path) == 1


def away(store: Store) -> RedisLedger:
    """A ledger that is away whenever a job is settled or written down."""

    async def refuse(words: Words) -> None:
        if JOBS in words:
            raise RedisUnavailable("away")

    return tapped(store, before=refuse)


async def test_redis_is_away_when_it_ends(stage: Stage, store: Store) -> None:
    """Who sees the end then leaves it to whoever looks next."""
    await begun(stage)
    job = await stage.jobs.find(USER.id, "resp_1")
    assert job is not None
    await stage.another_follower(away(store)).settle(job, Cost(1, 21, 17))
    assert await stage.records() == {}
    stage.provider.objects[PATH] = response("completed", output=[said("Hello")], usage=usage(21, 17))
    await stage.follower.look()
    assert await billed(stage) == {"req_1": (1, 21, 17)}


@pytest.mark.parametrize("stream", [False, True])
async def test_redis_is_away_when_it_begins(store: Store, tmp_path: Path, stream: bool) -> None:
    """Nobody could follow it, so nobody will learn what it costs: it costs its reservation, and is delivered."""
    stage = Stage(store, tmp_path, jobs_ledger=away(store))
    if stream:
        await streamed(stage, *START, *WORDS, USAGE, max_output_tokens=500)
    else:
        client = await begun(stage, max_output_tokens=500)
        assert (client.status, client.got) == (200, response("queued"))
    assert await billed(stage) == {"req_1": (1, 21, 17) if stream else (1, INPUT_TOKENS, 500)}
