"""Usage survives whatever is killed: Sentinel, Redis, Zion, in the worst moments."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from sentinel.cache import keys
from sentinel.dev.zion import BATCH
from tests.support.client import Answer
from tests.support.said import said_by
from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    GENERATE,
    GENERATIONS,
    MESSAGES,
    NATIVE,
    RESPONSES,
    SPEECH,
    STREAM_GENERATE,
    TRANSCRIPTIONS,
    chat,
    encoded,
    post,
)
from tests.support.waiting import AT_ONCE_SECONDS, PATIENCE_SECONDS, wait_until

USAGE = "/api/v1/usage"


@pytest.fixture
def stack() -> Iterator[Stack]:
    with Stack(appendfsync="always") as stack:
        yield stack


def ask(sentinel: SentinelProcess, token: str, text: str = "[[tokens=5]]", **fields: Any) -> tuple[int, bytes]:
    """One chat request; status and body."""
    answer = post(sentinel, token, chat(text, **fields))
    return answer.status, answer.body


def waiting(stack: Stack) -> int:
    """Records in the outboxes."""
    with redis.Redis.from_url(stack.store.url) as client:
        return sum(client.xlen(keys.outbox(p)) for p in range(keys.PARTITIONS))


def reports(stack: Stack) -> list[Any]:
    return [call for call in list(stack.simulators.zion.calls) if call.path == BATCH]


def nothing_waits(stack: Stack) -> bool:
    with redis.Redis.from_url(stack.store.url) as client:
        return waiting(stack) == 0 and client.hlen(keys.batches()) == 0


STREAMS = (CHAT, COMPLETIONS, RESPONSES, MESSAGES, STREAM_GENERATE, NATIVE, CHAT, RESPONSES)
WHOLES = (CHAT, RESPONSES, MESSAGES, GENERATE, EMBEDDINGS, SPEECH, TRANSCRIPTIONS, GENERATIONS)


@pytest.mark.parametrize("paths", [STREAMS, WHOLES], ids=["streams", "whole"])
def test_who_has_the_answer_has_paid_for_it(stack: Stack, paths: tuple[str, ...]) -> None:
    """Sentinel and Redis killed the moment the last byte is there: the usage is in the file of Redis, and is told."""
    sentinel = stack.sentinel(USAGE_FLUSH_SECONDS="600")
    _, token = stack.user()

    def complete(number: int) -> bool:
        """Have one answer, of a kind of its own; the first who has it pulls the plug."""
        connection = http.client.HTTPConnection("127.0.0.1", sentinel.port, timeout=PATIENCE_SECONDS)
        path = paths[number]
        fields = {"stream": True} if paths is STREAMS else {}
        body, kind = encoded(path, f"[[tokens={20 + 3 * number if number else 30} delay=0.005]]", **fields)
        headers = {"authorization": f"Bearer {token}", "content-type": kind, "anthropic-version": "2023-06-01"}
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            head = {name.lower(): value for name, value in answer.getheaders()}
            got = Answer(answer.status, head, answer.read())
            return got.status == 200 and (paths is WHOLES or said_by(got).is_whole)
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            if number == 0:
                sentinel.kill()
                stack.store.kill()
            connection.close()

    assert ask(sentinel, token)[0] == 200
    with ThreadPoolExecutor(8) as pool:
        count = 1 + sum(pool.map(complete, range(8)))
    stack.store.start()
    stack.sentinel()
    assert stack.booked(count)["ai_requests"] >= count
    wait_until(lambda: nothing_waits(stack), "an empty outbox")
    assert stack.used()["ai_requests"] <= 1 + len([b for b in stack.simulators.openai.billed if b.state == "complete"])


@pytest.mark.parametrize(
    "fault", [{"apply_then_delay_seconds": 30.0}, {"delay_seconds": 30.0}], ids=["taken", "not_taken"]
)
def test_killed_between_call_and_answer(stack: Stack, fault: dict[str, Any]) -> None:
    """Whether Zion took a batch whose sender was killed is found out; it is booked once, and soon."""
    one = stack.sentinel()
    _, token = stack.user()
    assert ask(one, token)[0] == 200
    assert stack.booked(1)["ai_requests"] == 1
    two = stack.sentinel()
    stack.simulators.zion.faults.set(**fault, path_prefix=USAGE, times=1)
    assert [ask(one, token, model=model)[0] for model in ("gpt-4o", "gpt-4o-mini", "gpt-4.1")] == [200] * 3
    wait_until(lambda: len(reports(stack)) == 2, "the call that will not be answered")
    _kill_deliverer(stack, one, two)
    wait_until(lambda: stack.used()["ai_requests"] == 4 and nothing_waits(stack), "delivery by the other")
    assert stack.used()["ai_requests"] == 4
    sent = [(call.headers["idempotency-key"], call.body) for call in reports(stack)[1:]]
    same = [call for call in sent if call == sent[0]]
    assert len(same) == (1 if "apply_then_delay_seconds" in fault else 2)


def _kill_deliverer(stack: Stack, *sentinels: SentinelProcess) -> None:
    """Kill the process that delivers the usual caller's usage."""
    with redis.Redis.from_url(stack.store.url) as client:
        owner = client.hget(keys.owners(), str(keys.account_keys("ana").partition)).decode()
    for sentinel in sentinels:
        if f"|{sentinel.pid}|" in owner:
            sentinel.kill()
            return
    raise AssertionError(owner)


def test_a_term_right_behind_a_request(stack: Stack) -> None:
    """SIGTERM: what was just used is told before the exit, although the next flush is far away, and Zion hesitates."""
    sentinel = stack.sentinel(USAGE_FLUSH_SECONDS="600")
    _, token = stack.user()
    assert ask(sentinel, token)[0] == 200
    stack.simulators.zion.faults.set(status=503, path_prefix=USAGE, times=2)
    assert sentinel.stop(20) == 0
    assert stack.used()["ai_requests"] == 1
    assert nothing_waits(stack)


def test_a_term_while_zion_is_away(stack: Stack) -> None:
    """What Zion does not take is told by the next process, at once."""
    sentinel = stack.sentinel()
    _, token = stack.user()
    stack.simulators.zion.faults.set(status=503, path_prefix=USAGE)
    assert ask(sentinel, token)[0] == 200
    assert sentinel.stop(30) == 0
    assert waiting(stack) == 1
    stack.simulators.zion.faults.clear()
    stack.sentinel()
    started = time.monotonic()
    assert stack.booked(1)["ai_requests"] == 1
    assert time.monotonic() - started < AT_ONCE_SECONDS
    wait_until(lambda: nothing_waits(stack), "an empty outbox")
    assert stack.used()["ai_requests"] == 1


def test_redis_killed_while_zion_is_away(stack: Stack) -> None:
    """A Redis that is killed and comes back with its data loses nothing of what waits, and nothing is told twice."""
    sentinel = stack.sentinel()
    _, token = stack.user()
    stack.simulators.zion.faults.set(status=503, path_prefix=USAGE)
    assert [ask(sentinel, token, model=model)[0] for model in ("gpt-4o", "gpt-4o-mini")] == [200, 200]
    wait_until(lambda: reports(stack), "the first report")
    stack.store.kill()
    stack.store.start()
    wait_until(lambda: ask(sentinel, token)[0] == 200, "requests")
    stack.simulators.zion.faults.clear()
    assert stack.booked(3, seconds=30)["ai_requests"] >= 3
    wait_until(lambda: nothing_waits(stack), "an empty outbox")
    assert stack.used()["ai_requests"] == 3


def test_redis_killed_while_a_batch_is_on_its_way(stack: Stack) -> None:
    """Zion takes a batch while Redis is away: it is not sent again when Redis is back."""
    sentinel = stack.sentinel()
    _, token = stack.user()
    stack.simulators.zion.faults.set(delay_seconds=1.0, path_prefix=USAGE, times=1)
    assert ask(sentinel, token)[0] == 200
    wait_until(lambda: reports(stack), "the report")
    stack.store.kill()
    assert stack.booked(1)["ai_requests"] == 1
    stack.store.start()
    wait_until(lambda: nothing_waits(stack), "an empty outbox")
    assert ask(sentinel, token)[0] == 200
    assert stack.booked(2)["ai_requests"] == 2
    wait_until(lambda: nothing_waits(stack), "an empty outbox")
    assert stack.used()["ai_requests"] == 2


def test_several_workers_tell_everything_once(stack: Stack) -> None:
    """Two workers deliver; one is killed; its place is taken; every request is told once."""
    sentinel = stack.sentinel(SENTINEL_WORKERS="2")
    users = [stack.user(f"w{number}@corp.test") for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda n: ask(sentinel, users[n % 12][1])[0], range(60))) == {200}
        (line, *_) = [line for line in sentinel.log() if line.get("event") == "sentinel is ready"]
        os.kill(line["pid"], signal.SIGKILL)
        answers = list(pool.map(lambda n: _served(sentinel, users[n % 12][1]), range(60)))
    wait_until(lambda: nothing_waits(stack), "an empty outbox")
    told = sum(stack.used(f"w{number}@corp.test")["ai_requests"] for number in range(12))
    assert 60 + sum(answers) <= told <= 120


def _served(sentinel: SentinelProcess, token: str) -> bool:
    try:
        return ask(sentinel, token)[0] == 200
    except OSError:
        return False


def command(stack: Stack, sentinel: SentinelProcess, *words: str) -> tuple[int, str]:
    """Run `sentinel ...` with the settings of a process; exit status and output."""
    done = subprocess.run(
        [sys.executable, "-m", "sentinel", *words],
        env={"PATH": "/usr/bin:/bin", **sentinel.environment},
        cwd=sentinel.folder,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("alive", [True, False], ids=["while_serving", "with_nothing_running"])
async def test_dead_letters_are_listed_and_sent_again(stack: Stack, alive: bool) -> None:
    """Usage that Zion refused three times is listed without secrets, blocks nobody, and is told once when replayed."""
    sentinel = stack.sentinel()
    _, token = stack.user()
    _, poisoned = stack.user("poison@corp.test")
    stack.simulators.zion.refused_emails.add("poison@corp.test")
    async with sdk(sentinel, poisoned) as client:
        for _ in range(2):
            await client.chat.completions.create(**chat("[[tokens=9]]"))
    assert (await asyncio.to_thread(ask, sentinel, token))[0] == 200
    assert (await asyncio.to_thread(stack.booked, 1))["ai_requests"] == 1
    await asyncio.to_thread(wait_until, lambda: nothing_waits(stack), "the burial")
    wait_until(lambda: sentinel.metric('sentinel_usage_delivered_total{result="dead_letter"}') == 2)
    status, listed = await asyncio.to_thread(command, stack, sentinel, "doctor", "--dead-letters")
    assert status == 1
    assert "user=poison" in listed
    assert "reason=refused" in listed
    assert "requests=" in listed
    assert "@" not in listed
    if not alive:
        assert await asyncio.to_thread(sentinel.stop) == 0
    # Still refused: it is back among the letters, in full.
    status, said = await asyncio.to_thread(command, stack, sentinel, "replay")
    assert status == 1, said
    stack.simulators.zion.refused_emails.clear()
    for _ in range(2):
        status, said = await asyncio.to_thread(command, stack, sentinel, "replay")
        assert status == 0, said
    assert stack.used("poison@corp.test") == {"ai_requests": 2, "ai_input_tokens": 24, "ai_output_tokens": 18}
    assert (await asyncio.to_thread(command, stack, sentinel, "doctor", "--dead-letters"))[0] == 0
