"""No callback holds the event loop for more than 5 ms of CPU time, whatever is sent (docs/guarantees.md, P6)."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bench import messages
from tests.support import stopwatch
from tests.support.crowd import post
from tests.support.metering import other_zion
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import EDITS, GENERATIONS, chat, form
from tests.support.talks import talk
from tests.support.waiting import until
from tests.unit.proxy.test_content_coding import ENCODERS

ROUNDS = 3
MOST_MS = 5.0
CLIENTS = 6
ENDED = "a job has ended"
LEAST_SMALL = 300

# Just small enough to be read and counted in the loop's own thread: what is slowest there.
SMALL = {
    "dashes": messages.chat("-" * 5_700),
    "properties": messages.chat(
        tools=[{"function": {"name": "f", "parameters": {"properties": {f"p{n}": {} for n in range(400)}}}}]
    ),
    "roles": b'{"model":"gpt-4o-mini","messages":[%b]}' % b",".join([b'{"role":"u"}'] * 450),
}
REFUSED = {
    "500,000 levels": b'{"model":"gpt-4o-mini","messages":[],"x":%b}' % (b"[" * 500_000 + b"]" * 500_000),
    "wrong at its end": b'{"model":"gpt-4o-mini","messages":[%b,1]}' % b",".join([b'{"role":"u"}'] * 77_000),
    "333,000 tools": messages.chat(tools=[{}] * 333_000),
    "no end": messages.chat("A" * 1_000_000)[:-9],
}


class Watched:
    """A Sentinel whose long callbacks are written down."""

    def __init__(self, stack: Stack, **settings: str) -> None:
        windows = "ai_output_tokens=1000000000/60s"
        self.sentinel: SentinelProcess = stack.sentinel(settings, start=False, RATE_LIMITS=windows)
        self._file = self.sentinel.folder / "callbacks"
        self._file.touch()
        self.sentinel.command = [sys.executable, str(Path(stopwatch.__file__)), str(self._file)]
        self.sentinel.start()

    def callbacks(self, since: float) -> list[tuple[float, str]]:
        """CPU time in ms and name of the callbacks that were noted since this moment, longest first."""
        lines = [json.loads(line) for line in self._file.read_text().splitlines()]
        return sorted(((line["ms"], line["what"]) for line in lines if line["at"] >= since), reverse=True)


@pytest.fixture(scope="module")
def watched(stack: Stack) -> Watched:
    return Watched(stack)


async def within_bounds(watched: Watched, load: Callable[[], Awaitable[None]]) -> None:
    """No callback takes too long under this load, at one of a few times.

    A virtual machine counts as ours what its host has taken from it; what is really too long is so each time.
    """
    for _ in range(ROUNDS):
        since = time.monotonic()
        await load()
        longest = watched.callbacks(since)[:5]
        if not longest or longest[0][0] <= MOST_MS:
            return
    raise AssertionError(longest)


async def test_hostile_megabytes_hold_nobody_up(stack: Stack, watched: Watched) -> None:
    """Beside small answers and streams come large prompts of every costly shape and coding: no callback over 5 ms."""
    _, token = stack.user("hostile@corp.test")
    _, other = stack.user("small@corp.test")
    # The first text that a thread counts takes it 9 ms more, once in the life of a process (docs/guarantees.md, P6).
    assert (await post(watched.sentinel, other, chat("[[tokens=5]]"))).status == 200
    await within_bounds(watched, lambda: _hostile(watched, token, other))


async def _hostile(watched: Watched, token: str, other: str) -> None:
    ended = asyncio.Event()

    async def beside(stream: bool) -> int:
        answers = 0
        while not ended.is_set() or answers < LEAST_SMALL // CLIENTS:
            answer = await post(watched.sentinel, other, chat("[[tokens=50]]", stream=stream))
            # On a busy machine Redis may be late for once; what is tested is who holds up whom.
            assert answer.status in (200, 503)
            answers += answer.status == 200
        return answers

    small = [asyncio.create_task(beside(client % 2 == 0)) for client in range(CLIENTS)]
    statuses: dict[str, int] = {}
    for name, body in {**messages.hostile(), **SMALL, **REFUSED}.items():
        statuses[name] = (await _send(watched, token, body))[0]
    for coding, encode in ENCODERS.values():
        for name, text in {"bomb": b"\0" * (40 << 20), "prompt": messages.chat("word " * 200_000)}.items():
            headers = {"Content-Encoding": coding}
            statuses[f"{name}, {coding}"] = (await _send(watched, token, encode(text), headers))[0]
    ended.set()
    assert sum(await asyncio.gather(*small)) >= LEAST_SMALL
    assert {name for name, status in statuses.items() if status == 400} >= set(REFUSED)
    assert all(status in (200, 400, 413) for status in statuses.values()), statuses
    assert {name.partition(",")[0] for name, status in statuses.items() if status == 413} == {"bomb"}


async def test_a_burst_of_the_provider_holds_nobody_up(stack: Stack) -> None:
    """Thousands of events that come at once are relayed and metered a few at a time."""
    event = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": " word"}}]}
    burst = b"data: %b\n\n" % json.dumps(event).encode() * 20_000 + b"data: [DONE]\n\n"

    async def provider(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        kind = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        await send({"type": "http.response.body", "body": burst})

    _, token = stack.user("burst@corp.test")
    with other_zion(provider) as url:
        watched = Watched(stack, OPENAI_API_URL=f"{url}/v1")
        # As above: the first text that is counted takes longer.
        await post(watched.sentinel, token, chat("hi", stream=True))
        passed = 1

        async def bursts() -> None:
            nonlocal passed
            answers = await asyncio.gather(*(post(watched.sentinel, token, chat("hi", stream=True)) for _ in range(4)))
            assert [len(answer.events) for answer in answers] == [20_001] * 4
            passed += 4

        await within_bounds(watched, bursts)
    assert stack.booked(passed, "burst@corp.test")["ai_output_tokens"] == 20_000 * passed


async def test_uploads_and_images_hold_nobody_up(stack: Stack, watched: Watched) -> None:
    """Forms of 2 MB, images of 10 MB as one event, of 2 MB in a whole answer: read beside the loop, or in passing."""
    _, token = stack.user("images@corp.test")
    given = {"model": "gpt-image-2", "prompt": "[[big_event=2000000]] a boat", "quality": "low"}
    large = {**given, "prompt": "[[big_event=10000000]] a boat", "stream": "true"}

    async def send(path: str, body: bytes, kind: str) -> None:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
        answer = await asyncio.to_thread(watched.sentinel.request, "POST", path, body, headers)
        assert (answer.status, len(answer.body) > 2_000_000) == (200, True)

    async def load() -> None:
        form_, kind = form(given.items(), "image", bytes(range(256)) * 8_000)
        streamed, _ = form(large.items(), "image", b"\r\n--" * 500_000)
        await asyncio.gather(
            send(EDITS, form_, kind),
            send(EDITS, streamed, kind),
            send(GENERATIONS, json.dumps(given).encode(), "application/json"),
            send(GENERATIONS, json.dumps({**large, "stream": True}).encode(), "application/json"),
        )

    await within_bounds(watched, load)


async def test_large_messages_of_websockets_hold_nobody_up(stack: Stack, watched: Watched) -> None:
    """Of either side: a prompt of megabytes, sound in one piece, a large event, a burst of small ones."""
    _, token = stack.user("websockets@corp.test")
    sound = base64.b64encode(bytes(9_000_000)).decode()

    async def load() -> None:
        async with talk(watched.sentinel, token) as one:
            await one.ask("Write [[tokens=3]]")
            last = (await one.ask("word " * 1_000_000 + "[[tokens=3000 big_event=3000000]]"))[-1]
            assert last["type"] == "response.completed"
        async with talk(watched.sentinel, token, "/v1/realtime?model=gpt-realtime") as one:
            await one.say(type="session.update", session={"instructions": "word " * 100_000})
            await one.say(type="input_audio_buffer.append", audio=sound)
            await one.say(type="input_audio_buffer.commit")
            await one.say(type="response.create", response={"instructions": "[[tokens=500]]"})
            await one.hear_until("response.done")

    await within_bounds(watched, load)


async def test_what_is_passed_through_holds_nobody_up(stack: Stack) -> None:
    """Forms of thousands of parts, JSON full of ids, bursts of events, and lists of thousands."""
    parts = b"".join(b'--x\r\nContent-Disposition: form-data; name="a_id"\r\n\r\n%d\r\n' % n for n in range(3_000))
    bodies = {
        "multipart/form-data; boundary=x": parts + b"--x--\r\n",
        "application/json": json.dumps(
            {"a": [{"b_id": n} for n in range(900)] + [{"b": n} for n in range(40_000)]}
        ).encode(),
        "application/x-www-form-urlencoded": b"&".join(b"a_id=%d" % n for n in range(6_000)),
    }
    events = b"".join(b'data: {"id":"e%d","usage":{"input_tokens":1}}\n\n' % (n % 50) for n in range(20_000))
    listed = json.dumps({"data": [{"id": f"l{n}"} for n in range(10_000)], "has_more": False}).encode()

    async def provider(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        is_stream = scope["path"] == "/v1/decisions"
        kind = b"text/event-stream" if is_stream else b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": events if is_stream else listed})

    _, token = stack.user("passing@corp.test")
    with other_zion(provider) as url:
        watched = Watched(stack, OPENAI_API_URL=f"{url}/v1")

        async def load() -> None:
            asked = [("POST", "/v1/decisions", body, kind) for kind, body in bodies.items()]
            asked += [("GET", "/v1/files", b"", "text/plain"), ("GET", "/v1/widgets", b"", "text/plain")]
            for method, path, body, kind in asked:
                headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
                answer = await asyncio.to_thread(watched.sentinel.request, method, path, body or None, headers)
                assert answer.status == 200, answer.body

        await load()
        await within_bounds(watched, load)


async def test_jobs_hold_nobody_up() -> None:
    """A response in the background that repeats long instructions, and ends with a long text and no usage."""
    job = {"id": "resp_1", "object": "response", "status": "queued", "instructions": "Be brief. " * 100_000}
    said = {"type": "message", "content": [{"type": "output_text", "text": "word " * 200_000}]}
    ended = json.dumps({**job, "status": "completed", "output": [said] * 3}).encode()

    async def provider(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        is_asked = scope["method"] == "POST"
        await send({"type": "http.response.body", "body": json.dumps(job).encode() if is_asked else ended})

    # A Redis of its own: a Sentinel whose provider does not know the job would look for it in vain, and keep it.
    with Stack() as stack, other_zion(provider) as url:
        _, token = stack.user("jobs@corp.test")
        watched = Watched(stack, OPENAI_API_URL=f"{url}/v1")
        authorization = {"Authorization": f"Bearer {token}"}
        body = json.dumps({"model": "gpt-4o-mini", "input": "Write", "background": True}).encode()
        begun: list[int] = []

        async def load() -> None:
            answer = await asyncio.to_thread(watched.sentinel.request, "POST", "/v1/responses", body, authorization)
            assert answer.status == 200, answer.body
            begun.append(1)
            await until(lambda: len([line for line in watched.sentinel.log() if line["event"] == ENDED]) == len(begun))

        await load()
        await within_bounds(watched, load)


def test_the_stopwatch_runs(watched: Watched) -> None:
    """It has noted the long callbacks of the start, so it would note those of a request."""
    assert watched.callbacks(0.0)


async def _send(watched: Watched, token: str, body: bytes, more: dict[str, str] | None = None) -> Any:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **(more or {})}
    return await asyncio.to_thread(watched.sentinel.request, "POST", "/v1/chat/completions", body, headers)
