"""Another ASGI server: granian serves the same application, without the bounds that ours adds to uvicorn."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.proxy.sse import COMMENT
from tests.support.client import events
from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import CHAT, chat, post, send
from tests.support.waiting import PATIENCE_SECONDS, wait_until
from tests.unit.proxy.test_content_coding import ENCODERS

SILENCE_SECONDS = 0.2


@pytest.fixture(scope="module")
def sentinel(stack: Stack) -> Iterator[SentinelProcess]:
    sentinel = stack.sentinel(start=False, STREAM_KEEPALIVE_SECONDS=str(SILENCE_SECONDS))
    environment = {"PATH": os.environ["PATH"], "HOME": str(sentinel.folder), **sentinel.environment}
    arguments = ["--interface", "asgi", "--factory", "--host", "127.0.0.1", "--port", str(sentinel.port)]
    with (sentinel.folder / "stdout").open("wb") as out, (sentinel.folder / "stderr").open("wb") as err:
        sentinel.process = subprocess.Popen(
            [str(Path(sys.executable).parent / "granian"), *arguments, "sentinel.app:from_environment"],
            env=environment,
            cwd=sentinel.folder,
            stdout=out,
            stderr=err,
        )

    def ready() -> bool:
        try:
            return sentinel.get("/health/ready")[0] == 200
        except OSError:
            return False

    wait_until(ready, "granian")
    yield sentinel
    assert sentinel.stop() == 0
    assert [line["event"] for line in sentinel.log()][-1] == "sentinel has stopped"


async def test_granian_serves_answers_and_streams(stack: Stack, sentinel: SentinelProcess) -> None:
    """The SDK gets whole and streamed answers, and usage is reported once."""
    _, token = stack.user("granian@corp.test")
    async with sdk(sentinel, token) as client:
        answer = await client.chat.completions.create(**chat("[[tokens=4]]"))
        stream = await client.chat.completions.create(**chat("[[tokens=9 delay=0.01]]", stream=True))
        text = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert len("".join(text).split()) == 9
    assert stack.booked(2, "granian@corp.test")["ai_output_tokens"] == 13


def test_granian_serves_errors_and_operators(stack: Stack, sentinel: SentinelProcess) -> None:
    """Errors, large and coded bodies, health and metrics are the same."""
    _, token = stack.user("granian2@corp.test")
    assert post(sentinel, None, chat()).is_error(401, "missing_api_key")
    assert post(sentinel, token, b"{").is_error(400, "invalid_json")
    assert send(sentinel, "GET", "/v1/organization", token).is_error(404, "unknown_url")
    assert post(sentinel, token, chat("word " * 300_000)).status == 200
    for coding, encode in ENCODERS.values():
        assert post(sentinel, token, encode(json.dumps(chat()).encode()), Content_Encoding=coding).status == 200
    assert post(sentinel, token, b"{}", Content_Encoding="br").is_error(400, "invalid_json", param="content-encoding")
    assert post(sentinel, token, b"{}", Content_Encoding="foo").status == 415
    assert send(sentinel, "GET", "/health").json["status"] == "healthy"
    assert b"sentinel_requests_total" in send(sentinel, "GET", "/metrics").body
    assert send(sentinel, "OPTIONS", CHAT, Origin="https://a.test").status == 200


def test_granian_keeps_silent_streams_alive(stack: Stack, sentinel: SentinelProcess) -> None:
    """Before the provider's head, and between its events; a failure is an event then."""
    _, token = stack.user("granian4@corp.test")
    faults = stack.simulators.openai.faults
    for directive, last in (("tokens=2 delay=0.7", "[DONE]"), ("status=400", None)):
        faults.set(hang=True, path_prefix=CHAT)
        connection = http.client.HTTPConnection("127.0.0.1", sentinel.port, timeout=PATIENCE_SECONDS)
        body = json.dumps(chat(f"[[{directive}]]", stream=True))
        connection.request("POST", CHAT, body, {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert [answer.readline() for _ in range(3)] == [COMMENT] * 3
        faults.clear()
        rest = answer.read()
        assert (COMMENT in rest) is (last is not None)
        told = events(rest.replace(COMMENT, b""))
        assert told[-1] == last if last else list(json.loads(told[-1])) == ["error"]
        connection.close()
    assert stack.booked(1, "granian4@corp.test")["ai_output_tokens"] == 2


def test_granian_tells_of_a_client_that_leaves(stack: Stack, sentinel: SentinelProcess) -> None:
    """An abandoned stream ends at the provider, and is charged what was delivered."""
    _, token = stack.user("granian3@corp.test")
    connection = http.client.HTTPConnection("127.0.0.1", sentinel.port, timeout=PATIENCE_SECONDS)
    body = json.dumps(chat("[[tokens=900 delay=0.05]]", stream=True))
    connection.request("POST", CHAT, body, {"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data: ")
    answer.close()
    connection.close()
    wait_until(lambda: stack.simulators.openai.billed[-1].state == "cancelled", "the end at the provider")
    assert stack.booked(1, "granian3@corp.test")["ai_output_tokens"] < 200
