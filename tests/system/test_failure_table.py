"""Each row of DESIGN section 9, with real processes: what happens when something is away, and that it comes back.

About: `observability/gauges.py`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import redis

from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import chat, post
from tests.support.waiting import AT_ONCE_SECONDS, wait_until

CHAT = "/v1/chat/completions"
REDIS_DEADLINE_SECONDS = 0.25


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(CACHE_TTL_SECONDS="1", JWT_CACHE_TTL_SECONDS="1", RATE_LIMITS="ai_requests=1000/60s") as stack:
        yield stack


@pytest.fixture(scope="module")
def local(stack: Stack) -> SentinelProcess:
    """One of two replicas that go on without Redis."""
    return stack.sentinel(REDIS_DOWN="local", SENTINEL_REPLICAS="2", RATE_LIMITS="ai_requests=20/60s")


@pytest.fixture(autouse=True)
def _calm(stack: Stack) -> Iterator[None]:
    """Every test leaves everything running and healthy."""
    yield
    stack.simulators.zion.faults.clear()
    stack.simulators.openai.faults.clear()
    for server in (stack.simulators.zion_server, stack.simulators.openai_server):
        if not server.running:
            server.start()
    for process in stack.sentinels:
        if process.running:
            wait_until_ready(process)


def wait_until_ready(sentinel: SentinelProcess) -> None:
    wait_until(lambda: sentinel.get("/health/ready")[0] == 200, "readiness")


@pytest.fixture(scope="module")
def token(stack: Stack, sentinel: SentinelProcess) -> str:
    """A token that Sentinel has seen."""
    _, token = stack.user()
    assert ask(sentinel, token)[0] == 200
    return token


def ask(
    sentinel: SentinelProcess, token: str, text: str = "Say hello", **fields: Any
) -> tuple[int, dict[str, str], Any]:
    """One chat request over a connection of its own."""
    status, answered, body = answer = post(sentinel, token, chat(text, **fields))
    return status, answered, answer.json if body.startswith(b"{") else body


def client(stack: Stack) -> redis.Redis:
    return redis.Redis.from_url(stack.store.url)


def booked(stack: Stack) -> int:
    """The requests that Zion has booked for the usual caller, once nothing waits any more."""
    with client(stack) as redis_client:
        wait_until(
            lambda: not any(redis_client.xlen(key) for key in redis_client.scan_iter("sentinel:{*}:outbox")),
            "an empty outbox",
        )
    return stack.used()["ai_requests"]


def timed(sentinel: SentinelProcess, token: str) -> tuple[int, float, dict[str, str]]:
    """Status, seconds, headers of a request."""
    started = time.monotonic()
    status, headers, _ = ask(sentinel, token)
    return status, time.monotonic() - started, headers


def waits_for_nothing(sentinel: SentinelProcess, token: str) -> None:
    """One answer that comes before the deadline tells it; others may be late on a busy machine."""
    wait_until(lambda: timed(sentinel, token)[1] < REDIS_DEADLINE_SECONDS, "the breaker")


class TestRedisAway:
    """REDIS_DOWN=refuse: 503 at once, and recovery without a restart."""

    def test_killed(self, stack: Stack, sentinel: SentinelProcess, token: str) -> None:
        """A dead Redis costs 503 with Retry-After at once; with it back, requests pass again."""
        stack.store.kill()
        try:
            wait_until(lambda: ask(sentinel, token)[0] == 503, "the refusal")
            status, _, headers = timed(sentinel, token)
            assert (status, headers["retry-after"]) == (503, "1")
            waits_for_nothing(sentinel, token)
            # A report stands for a second.
            wait_until(lambda: json.loads(sentinel.get("/health")[2])["status"] == "unhealthy", "the report")
            assert json.loads(sentinel.get("/health")[2])["checks"]["redis"]["status"] == "unhealthy"
            assert sentinel.get("/health")[0] == sentinel.get("/health/ready")[0] == 503
            assert sentinel.get("/health/live")[0] == 200
            wait_until(lambda: sentinel.metric("sentinel_degraded") == 1, "the metric")
        finally:
            stack.store.start()
        wait_until(lambda: ask(sentinel, token)[0] == 200, "recovery")
        wait_until(lambda: sentinel.metric("sentinel_degraded") == 0, "the metric")

    def test_hung(self, stack: Stack, sentinel: SentinelProcess, token: str) -> None:
        """A hung Redis costs a request its deadline of 250 ms, then the breaker answers at once."""
        stack.store.pause()
        try:
            status, seconds, _ = timed(sentinel, token)
            assert status == 503
            assert seconds < AT_ONCE_SECONDS
            waits_for_nothing(sentinel, token)
        finally:
            stack.store.resume()
        wait_until(lambda: ask(sentinel, token)[0] == 200, "recovery")

    def test_full(self, stack: Stack, sentinel: SentinelProcess, token: str) -> None:
        """A Redis that takes no more writes costs 503; nothing is charged, and it passes with room again."""
        before = booked(stack)
        with client(stack) as redis_client:
            redis_client.config_set("maxmemory", "1")
            try:
                assert ask(sentinel, token)[0] == 503
            finally:
                redis_client.config_set("maxmemory", "0")
        assert ask(sentinel, token)[0] == 200
        assert stack.booked(before + 1)["ai_requests"] == before + 1

    def test_restarted_empty(self, stack: Stack, sentinel: SentinelProcess, token: str) -> None:
        """A Redis that has forgotten all costs nobody anything: tokens, limits and scripts are fetched anew."""
        before = booked(stack)
        with client(stack) as redis_client:
            redis_client.flushall()
            redis_client.script_flush()
        assert ask(sentinel, token)[0] == 200
        assert stack.booked(before + 1)["ai_requests"] == before + 1

    def test_read_only(self, stack: Stack, sentinel: SentinelProcess, token: str) -> None:
        """A replica that we are left with after a failover costs 503, until it is a master."""
        with client(stack) as redis_client:
            redis_client.replicaof("127.0.0.1", 1)
            try:
                wait_until(lambda: ask(sentinel, token)[0] == 503, "the refusal")
            finally:
                redis_client.replicaof("NO", "ONE")
        wait_until(lambda: ask(sentinel, token)[0] == 200, "recovery")

    async def test_usage_of_open_streams_survives(self, stack: Stack, sentinel: SentinelProcess, token: str) -> None:
        """A stream that ends while Redis is away is charged when it is back."""
        await asyncio.to_thread(booked, stack)
        before = stack.used()
        async with sdk(sentinel, token) as api:
            stream = await api.chat.completions.create(**chat("[[tokens=20 delay=0.05]]", stream=True))
            chunks = [await anext(stream)]
            stack.store.kill()
            try:
                chunks += [chunk async for chunk in stream]
            finally:
                await asyncio.to_thread(stack.store.start)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        after = await asyncio.to_thread(stack.booked, before["ai_requests"] + 1)
        assert after["ai_output_tokens"] - before["ai_output_tokens"] == 20


class TestRedisAwayLocal:
    """REDIS_DOWN=local: each replica admits its share from memory and loses no usage."""

    def test_a_bounded_share_is_served_and_booked(self, stack: Stack, local: SentinelProcess) -> None:
        """With Redis dead, half of the limit passes with a header that says so, and Zion hears of all of it later."""
        _, token = stack.user("local@corp.test")
        answers = [ask(local, token)]
        assert answers[0][0] == 200

        def degraded() -> bool:
            answers.append(ask(local, token))
            return "x-sentinel-degraded" in answers[-1][1]

        stack.store.kill()
        try:
            wait_until(degraded, "the fallback")
            answers += [ask(local, token) for _ in range(12)]
            shared = [answer for answer in answers[1:] if answer[0] == 200]
            assert {answer[0] for answer in answers} == {200, 429}
            assert len(shared) <= 10
            assert all(headers["x-sentinel-degraded"] == "redis" for _, headers, _ in shared)
            status, _, report = local.get("/health")
            assert (status, json.loads(report)["status"]) == (200, "degraded")
            assert stack.used("local@corp.test")["ai_requests"] <= 1
        finally:
            stack.store.start()
        passed = 1 + len(shared)
        assert stack.booked(passed, "local@corp.test")["ai_requests"] == passed
        wait_until(lambda: "x-sentinel-degraded" not in ask(local, token)[1], "recovery")

    def test_what_was_spent_meanwhile_counts_when_redis_is_back(self, stack: Stack) -> None:
        """Memory goes on admitting until Redis knows of it: a subscription is not spent twice."""
        alone = stack.sentinel(REDIS_DOWN="local", RATE_LIMITS="")
        _, token = stack.user("spent@corp.test", limits={"ai_requests": 30})
        assert ask(alone, token)[0] == 200
        assert stack.booked(1, "spent@corp.test")["ai_requests"] == 1
        stack.store.kill()
        passed = [True]
        try:
            wait_until(lambda: _passes(alone, token, passed) == 429, "the end of the subscription")
        finally:
            stack.store.start()

        def admits_again() -> bool:
            assert _passes(alone, token, passed) == 429
            return any(line["event"] == "redis is back: it admits again" for line in alone.log())

        wait_until(admits_again, "Redis")
        assert _passes(alone, token, passed) == 429
        assert sum(passed) == 30
        assert stack.booked(30, "spent@corp.test")["ai_requests"] == 30

    def test_a_hung_redis_is_left_alone(self, stack: Stack, local: SentinelProcess) -> None:
        """A hung Redis costs the first request its deadline, then memory answers at once."""
        _, token = stack.user("hung@corp.test")
        assert ask(local, token)[0] == 200
        stack.store.pause()
        try:
            status, seconds, headers = timed(local, token)
            assert (status, headers.get("x-sentinel-degraded")) == (200, "redis")
            assert seconds < AT_ONCE_SECONDS
            waits_for_nothing(local, token)
        finally:
            stack.store.resume()


class TestZionAway:
    """Known tokens are served from the cache; unknown ones get 503 within 3 s."""

    @pytest.mark.parametrize("fault", ["gone", "hang", "status", "garbage"])
    def test_a_known_caller_is_served(self, stack: Stack, sentinel: SentinelProcess, token: str, fault: str) -> None:
        """Past its time to live the old answer serves, visibly."""
        assert ask(sentinel, token)[0] == 200
        before = sentinel.metric("sentinel_zion_stale_total")
        _break(stack, fault)
        wait_until(lambda: _served(sentinel, token) and sentinel.metric("sentinel_zion_stale_total") > before)
        report = json.loads(wait_until(lambda: _degraded(sentinel, "zion"), "the health report"))
        assert report["status"] == "degraded"

    @pytest.mark.parametrize("fault", ["gone", "hang", "status", "garbage", "busy"])
    def test_an_unknown_caller_is_told_to_come_back(self, stack: Stack, sentinel: SentinelProcess, fault: str) -> None:
        """Nobody is let in unchecked, nobody waits longer than 3 s, and nothing of what Zion said gets out."""
        _, stranger = stack.user(f"{fault}@corp.test")
        _break(stack, fault)
        started = time.monotonic()
        status, headers, body = ask(sentinel, stranger)
        assert (status, body["error"]["code"]) == (503, "service_unavailable")
        assert time.monotonic() - started < AT_ONCE_SECONDS
        assert headers["retry-after"] == ("7" if fault == "busy" else headers["retry-after"])
        assert "zion-db-7.internal" not in json.dumps(body)
        _mend(stack)
        wait_until(lambda: ask(sentinel, stranger)[0] == 200, "recovery")

    def test_usage_waits(self, stack: Stack, sentinel: SentinelProcess, token: str) -> None:
        """Usage that Zion does not take waits in the outbox, visibly, and is booked once when Zion is back."""
        before = booked(stack)
        stack.simulators.zion.faults.set(status=500, path_prefix="/api/v1/usage")
        for _ in range(3):
            assert ask(sentinel, token)[0] == 200
        wait_until(lambda: sentinel.metric("sentinel_outbox_depth") >= 3, "the depth")
        wait_until(lambda: sentinel.metric("sentinel_outbox_age_seconds") > 0, "the age")
        _mend(stack)
        assert stack.booked(before + 3, seconds=30)["ai_requests"] == before + 3
        wait_until(lambda: sentinel.metric("sentinel_outbox_depth") == 0, "an empty outbox")


class TestProviderAway:
    """502 and 504 in OpenAI's shape; nothing is charged; only connect errors are tried again."""

    def test_gone(self, stack: Stack, sentinel: SentinelProcess, token: str) -> None:
        """A provider that refuses connections costs 502, in health and metrics, too."""
        stack.simulators.openai_server.stop()
        status, _, body = ask(sentinel, token)
        assert (status, body["error"]["code"]) == (502, "upstream_error")
        assert json.loads(wait_until(lambda: _degraded(sentinel, "provider")))["status"] == "degraded"

    @pytest.mark.parametrize("stream", [False, True])
    def test_hung(self, stack: Stack, token: str, stream: bool) -> None:
        """A provider that never answers costs 504 after the idle time-out, and nothing is charged."""
        quick = stack.sentinel(UPSTREAM_IDLE_TIMEOUT_SECONDS="0.5")
        before = booked(stack)
        stack.simulators.openai.faults.set(hang=True)
        status, _, body = ask(quick, token, stream=stream)
        assert (status, body["error"]["code"]) == (504, "upstream_timeout")
        stack.simulators.openai.faults.clear()
        assert ask(quick, token)[0] == 200
        assert stack.booked(before + 1)["ai_requests"] == before + 1
        quick.stop()

    def test_errors_are_not_tried_again(self, stack: Stack, sentinel: SentinelProcess, token: str) -> None:
        """A 500 reaches the provider once: it may have been billed."""
        stack.simulators.openai.calls.clear()
        stack.simulators.openai.faults.set(status=500, path_prefix="/v1/chat")
        assert ask(sentinel, token)[0] == 502
        assert len([call for call in stack.simulators.openai.calls if call.path == CHAT]) == 1

    async def test_broken_midway(self, sentinel: SentinelProcess, token: str) -> None:
        """A stream that breaks ends with an error event and no [DONE]."""
        async with sdk(sentinel, token) as api:
            stream = await api.chat.completions.create(**chat("[[tokens=9 break_after=4]]", stream=True))
            with pytest.raises(openai.APIError) as caught:
                async for _ in stream:
                    pass
        assert caught.value.code == "upstream_error"


def _break(stack: Stack, fault: str) -> None:
    faults = stack.simulators.zion.faults
    match fault:
        case "gone":
            stack.simulators.zion_server.stop()
        case "hang":
            faults.set(hang=True)
        case "status":
            faults.set(status=500)
        case "garbage":
            faults.set(body=b"<html>zion-db-7.internal</html>")
        case "busy":
            faults.set(status=429, retry_after="7")


def _mend(stack: Stack) -> None:
    stack.simulators.zion.faults.clear()
    if not stack.simulators.zion_server.running:
        stack.simulators.zion_server.start()


def _passes(sentinel: SentinelProcess, token: str, passed: list[bool]) -> int:
    status, _, _ = ask(sentinel, token)
    passed.append(status == 200)
    return status


def _served(sentinel: SentinelProcess, token: str) -> bool:
    assert ask(sentinel, token)[0] == 200
    return True


def _degraded(sentinel: SentinelProcess, check: str) -> bytes | None:
    status, _, body = sentinel.get("/health")
    return body if status == 200 and json.loads(body)["checks"][check]["status"] == "unhealthy" else None


def test_a_background_task_that_fails_is_named_and_comes_back(stack: Stack) -> None:
    """What all deliveries need cannot be read: health says which task fails, requests are served, and it heals."""
    sentinel = stack.sentinel()
    owners = "sentinel:{delivery}:owners"
    user, token = stack.user("tasks@corp.test")
    with redis.Redis.from_url(stack.store.url) as client:
        client.delete(owners)
        client.set(owners, "x")

        def failing() -> Any:
            report = json.loads(sentinel.get("/health")[2])
            return report["status"] == "degraded" and report["checks"]["tasks"]["failing"]

        names = wait_until(failing, "a failing task")
        assert set(names) <= {"heartbeat", "outbox"}
        assert ask(sentinel, token)[0] == 200
        client.delete(owners)
    assert stack.booked(1, user.email, 40)["ai_requests"] == 1
    assert sentinel.metric("sentinel_task_failures_total") >= 1
    sentinel.kill()
