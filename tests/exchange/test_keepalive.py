"""What a client gets while its provider says nothing; the clock is the test's."""

from __future__ import annotations

import asyncio
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from sentinel.cache.redis import Store
from sentinel.clock import monotonic
from sentinel.error import UpstreamError, UpstreamTimeout
from sentinel.proxy.client import ClientSide
from sentinel.proxy.keepalive import StreamKeepAlive
from sentinel.proxy.sse import COMMENT
from sentinel.tasks import Tasks
from tests.exchange.driver import DONE, INPUT_TOKENS, KEEP_ALIVE_SECONDS, Client, Gate, Stage, event, usage
from tests.support.waiting import PATIENCE_SECONDS

HELLO, WORLD = event("Hello"), event(" world")
WHOLE = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "one two"}, "finish_reason": "stop"}],
        "usage": usage(9, 2),
    },
    indent=1,
).encode()

_PARTS = 2**20


class Scene:
    """One stream, and the time that passes in it."""

    def __init__(self, stage: Stage, client: Client | None = None) -> None:
        self.stage = stage
        self.client = client or Client(slow=False, stream=True)
        self.task: asyncio.Task[None] | None = None
        self._now = 0.0

    async def until(self, reached: asyncio.Event) -> None:
        """Run until then."""
        if self.task is None:
            self.task = asyncio.create_task(self.stage.exchange(self.client).run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await reached.wait()
        # In whole parts of a second, so that what is added to it is exact: 14 and then 1 are 15.
        self._now = max(self._now, math.ceil(monotonic() * _PARTS) / _PARTS)
        self.passes(0)

    def passes(self, seconds: float) -> None:
        """The ticker looks after so many seconds."""
        self._now += seconds
        self.stage.keepalive.look(list(self.stage.keepalive.open), self._now)

    async def to_the_end(self) -> tuple[int, int, int] | None:
        """Run to the end; what was charged."""
        assert self.task is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.task
        before = self.client.got
        self.passes(10 * KEEP_ALIVE_SECONDS)
        assert self.client.got == before
        assert not self.stage.keepalive.open
        records = await self.stage.settled()
        return next(iter(records.values()), None)


def without_comments(got: bytes) -> bytes:
    """What came beside comments, none of which stands inside of an event."""
    for comment in re.finditer(re.escape(COMMENT), got):
        assert re.search(rb"(^|\n\n|\r\n\r\n|\n: keep-alive\n|^: keep-alive\n)$", got[: comment.start()]), got
    return got.replace(COMMENT, b"")


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    return Stage(store, tmp_path)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.mark.parametrize("first", [HELLO, b"id: 7\n" + HELLO, HELLO.replace(b"\n\n", b"\r\n\r\n"), b": waits\n\n"])
async def test_a_silence_between_two_events(stage: Stage, gate: Gate, first: bytes) -> None:
    """Each time that the provider is silent for so long its client gets one line, without a blank one; it is free."""
    stage.provider.pieces = [first, gate, WORLD, event(usage=usage(11, 40)), DONE]
    scene = Scene(stage)
    await scene.until(gate.reached)
    scene.passes(KEEP_ALIVE_SECONDS - 1)
    assert scene.client.got == first
    scene.passes(1)
    assert scene.client.got == first + COMMENT
    scene.passes(KEEP_ALIVE_SECONDS - 1)
    assert scene.client.got == first + COMMENT
    scene.passes(1)
    gate.opened.set()
    assert await scene.to_the_end() == (1, 11, 40)
    assert scene.client.got == first + COMMENT + COMMENT + WORLD + DONE
    assert stage.ended[0].outcome == "ok"


async def test_a_provider_that_talks_is_not_silent(stage: Stage) -> None:
    """Also where it says only that it is still there: each comment of its own starts the time anew."""
    gates = [Gate() for _ in range(5)]
    own = b": OPENROUTER PROCESSING\n\n"
    stage.provider.pieces = [HELLO, *(part for gate in gates for part in (gate, own)), DONE]
    scene = Scene(stage)
    for gate in gates:
        await scene.until(gate.reached)
        scene.passes(KEEP_ALIVE_SECONDS - 1)
        gate.opened.set()
    assert await scene.to_the_end() == (1, INPUT_TOKENS, 1)
    assert scene.client.got == HELLO + own * 5 + DONE


@pytest.mark.parametrize("half", [b"d", b'data: {"choices":', HELLO[:-1], b'data: {"x":"' + b"y" * 300_000])
async def test_no_event_is_cut_in_two(stage: Stage, half: bytes) -> None:
    """An event that has come in part: the line goes before it, or not at all where that part has been passed on."""
    gate, rest = Gate(), WORLD if half == b"d" else b'"}\n\n'
    stage.provider.pieces = [HELLO, half, gate, rest, DONE]
    scene = Scene(stage)
    await scene.until(gate.reached)
    for _ in range(3):
        scene.passes(KEEP_ALIVE_SECONDS)
    passed_on = scene.client.got.replace(COMMENT, b"") != HELLO
    assert scene.client.got.endswith(COMMENT) is not passed_on
    gate.opened.set()
    await scene.to_the_end()
    assert without_comments(scene.client.got) == HELLO + half + rest + DONE


async def test_a_silence_before_the_head(stage: Stage, gate: Gate) -> None:
    """The client is told 200, and then gets the stream as it is."""
    stage.provider.gate = gate
    stage.provider.pieces = [HELLO, WORLD, DONE]
    scene = Scene(stage)
    await scene.until(gate.reached)
    scene.passes(KEEP_ALIVE_SECONDS - 1)
    assert scene.client.told() == (None, b"")
    scene.passes(1)
    assert scene.client.told() == (200, COMMENT)
    scene.passes(KEEP_ALIVE_SECONDS)
    gate.opened.set()
    assert await scene.to_the_end() == (1, INPUT_TOKENS, 2)
    assert scene.client.got == COMMENT + COMMENT + HELLO + WORLD + DONE
    assert stage.ended[0].outcome == "ok"


def told(scene: Scene) -> dict[str, Any]:
    """The error that came as the last event of a stream without an end."""
    got = scene.client.got
    assert got.startswith(COMMENT + b"data: {")
    assert got.endswith(b"}\n\n")
    assert got.count(b"\n") == 3
    assert scene.client.complete
    error: dict[str, Any] = json.loads(got.partition(b"data: ")[2])["error"]
    return error


@pytest.mark.parametrize(
    ("failure", "code"), [(UpstreamError("x"), "upstream_error"), (UpstreamTimeout("x"), "upstream_timeout")]
)
async def test_a_failure_after_the_client_was_told_200(stage: Stage, gate: Gate, failure: Any, code: str) -> None:
    """No connection, no answer in time: an error event, free; the log says what the client has got."""
    stage.provider.gate, stage.provider.failure = gate, failure
    scene = Scene(stage)
    await scene.until(gate.reached)
    scene.passes(KEEP_ALIVE_SECONDS)
    gate.opened.set()
    assert await scene.to_the_end() is None
    assert told(scene)["code"] == code
    (context,) = stage.ended
    assert (context.status, context.outcome, context.error_code) == (200, "upstream_error", code)
    assert (context.tokens_from, context.output_tokens) == ("none", 0)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, b'{\n "error": {\n  "message": "no",\n  "code": "x"\n }\n}\n', "no"),
        (429, b'{"error": {"message": "later", "type": "requests"}}', "later"),
        (422, b'{"detail": "no such field"}', '{"detail": "no such field"}'),
        (404, b"<html>\r\nnot here", "<html>\r\nnot here"),
        (413, b"", "The model provider refused the request."),
        (500, b'{"error": {"message": "inside"}}', "The model provider failed to process the request."),
        (401, b'{"error": {"message": "your key"}}', "The model provider failed to process the request."),
    ],
)
async def test_a_refusal_after_the_client_was_told_200(
    stage: Stage, gate: Gate, status: int, body: bytes, message: str
) -> None:
    """An error event with the provider's own error, where it may be told; free."""
    stage.provider.gate, stage.provider.status, stage.provider.body = gate, status, body
    scene = Scene(stage)
    await scene.until(gate.reached)
    scene.passes(KEEP_ALIVE_SECONDS)
    gate.opened.set()
    assert await scene.to_the_end() is None
    assert told(scene)["message"] == message
    assert (stage.ended[0].status, stage.ended[0].outcome) == (200, "upstream_error")


async def test_a_whole_answer_after_the_client_was_told_200(stage: Stage, gate: Gate) -> None:
    """It is told as a stream of one chunk, which is all that an SDK would read of it; charged as it says."""
    stage.provider.gate, stage.provider.body = gate, WHOLE
    stage.provider.header_lines = b"content-type: application/json\r\n"
    scene = Scene(stage)
    await scene.until(gate.reached)
    scene.passes(KEEP_ALIVE_SECONDS)
    gate.opened.set()
    assert await scene.to_the_end() == (1, 9, 2)
    start, chunk, end = scene.client.got.split(b"data: ")
    assert (start, end) == (COMMENT, b"[DONE]\n\n")
    assert json.loads(chunk) == {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": "one two"}, "finish_reason": "stop"}],
        "usage": usage(9, 2),
    }


async def test_a_stream_that_waits_for_redis(
    store: Store, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To be extended, or to be settled: what is held back meanwhile stays in order."""
    stage = Stage(store, tmp_path, default_output=1)
    await stage.limit(100_000)
    extend, settle, last = stage.ledger.extend, stage.ledger.settle, Gate()

    async def slowly_extended(*call: Any) -> int | None:
        await gate.pass_through()
        return await extend(*call)

    async def slowly_settled(*call: Any, **more: Any) -> bool | None:
        await last.pass_through()
        return await settle(*call, **more)

    monkeypatch.setattr(stage.ledger, "extend", slowly_extended)
    monkeypatch.setattr(stage.ledger, "settle", slowly_settled)
    stage.provider.pieces = [HELLO, WORLD, DONE]
    scene = Scene(stage)
    await scene.until(gate.reached)
    scene.passes(KEEP_ALIVE_SECONDS)
    assert scene.client.got == HELLO + COMMENT
    gate.opened.set()
    await scene.until(last.reached)
    scene.passes(KEEP_ALIVE_SECONDS)
    last.opened.set()
    assert await scene.to_the_end() == (1, INPUT_TOKENS, 2)
    assert scene.client.got == HELLO + COMMENT + WORLD + COMMENT + DONE


async def test_nothing_follows_the_end(stage: Stage, gate: Gate) -> None:
    """Not while the rest of the provider's answer is read, either."""
    stage.provider.pieces = [HELLO, DONE, gate]
    scene = Scene(stage)
    await scene.until(gate.reached)
    scene.passes(KEEP_ALIVE_SECONDS)
    gate.opened.set()
    await scene.to_the_end()
    assert scene.client.got == HELLO + DONE


async def test_a_client_that_does_not_read_is_not_written_to(stage: Stage, gate: Gate) -> None:
    """What waits for it is enough."""
    stage.provider.pieces = [HELLO, gate, DONE]
    scene = Scene(stage, Client(slow=True, stream=True))
    await scene.until(gate.reached)
    scene.passes(KEEP_ALIVE_SECONDS)
    gate.opened.set()
    await scene.to_the_end()
    assert scene.client.got == HELLO + DONE


async def test_leaving_after_200_and_before_the_answer(stage: Stage, gate: Gate) -> None:
    """What was sent on is charged with its input, as without the comment."""
    stage.provider.gate = gate
    scene = Scene(stage)
    await scene.until(gate.reached)
    scene.passes(KEEP_ALIVE_SECONDS)
    assert scene.task is not None
    scene.client.connection.gone = scene.client.side.gone = True
    scene.task.cancel()
    assert await scene.to_the_end() == (1, INPUT_TOKENS, 0)
    assert (stage.ended[0].status, stage.ended[0].outcome) == (200, "client_gone")


async def test_no_time_means_never() -> None:
    """With 0 seconds nobody looks."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await StreamKeepAlive(0, Tasks()).run()


class TestBlanks:
    """White space that comes before a whole answer."""

    async def test_it_reaches_the_client_at_once(self, stage: Stage, gate: Gate) -> None:
        """With the head of the answer; the answer follows, charged before its last byte."""
        stage.provider.blanks, stage.provider.body = [b"\n", b"\r\n", gate], WHOLE
        scene = Scene(stage, Client(slow=False))
        await scene.until(gate.reached)
        assert (scene.client.status, scene.client.got, scene.client.complete) == (200, b"\n\r\n", False)
        gate.opened.set()
        assert await scene.to_the_end() == (1, 9, 2)
        assert scene.client.got == b"\n\r\n" + WHOLE
        assert scene.client.complete
        assert (stage.ended[0].status, stage.ended[0].outcome) == (200, "ok")
        assert stage.ended[0].upstream_request_id == "up_1"

    @pytest.mark.parametrize("body", [b"", b"   ", b"<html>", b'{"choices":'])
    async def test_a_broken_answer_after_it(self, stage: Stage, body: bytes) -> None:
        """Free, and left unfinished: an error in its place would be taken for an answer."""
        stage.provider.blanks, stage.provider.body = [b"\n"], body
        client = Client(slow=False)
        await stage.exchange(client).run()
        assert not await stage.settled()
        assert (client.status, client.got, client.complete) == (200, b"\n", False)
        assert (stage.ended[0].status, stage.ended[0].outcome) == (200, "broken")

    async def test_a_break_after_it(self, stage: Stage) -> None:
        """The same."""
        stage.provider.blanks = [b"\n", UpstreamError("x")]
        client = Client(slow=False)
        await stage.exchange(client).run()
        assert not await stage.settled()
        assert (client.got, client.complete) == (b"\n", False)
        assert (stage.ended[0].outcome, stage.ended[0].error_code) == ("broken", "upstream_error")


class Asgi:
    """A server that speaks ASGI alone, and takes a message when the test lets it."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.gate: Gate | None = None
        self.side = ClientSide(None, self._receive, self._send, {}, b"x-request-id: r\r\n")

    async def _receive(self) -> dict[str, Any]:
        raise AssertionError("nothing is asked for")

    async def _send(self, message: Any) -> None:
        if self.gate is not None:
            await self.gate.pass_through()
        self.messages.append(message)

    @property
    def bodies(self) -> list[bytes]:
        """What came after the one head."""
        assert [message["type"] for message in self.messages].index("http.response.start") == 0
        return [message["body"] for message in self.messages[1:]]


class TestOverAsgi:
    """Under another server than ours a write is a call that takes its time."""

    async def test_a_comment_and_writes_keep_their_order(self, gate: Gate) -> None:
        """A comment that is on its way is waited for, and there is none while a write is on its way."""
        server, tasks = Asgi(), Tasks()
        server.gate = gate
        server.side.comment(COMMENT, lambda: b"a: b\r\n", tasks)
        assert server.side.started
        ending = asyncio.create_task(server.side.end(DONE))
        await gate.reached.wait()
        server.side.comment(COMMENT, lambda: b"", tasks)
        gate.opened.set()
        await ending
        server.side.comment(COMMENT, lambda: b"", tasks)
        await tasks.finish(1)
        assert server.messages[0]["headers"] == [(b"x-request-id", b"r"), (b"a", b"b")]
        assert server.bodies == [COMMENT, DONE]
        assert [message["more_body"] for message in server.messages[1:]] == [True, False]

    async def test_no_comment_within_a_write(self, gate: Gate) -> None:
        """The head, and a piece that the client has not taken yet, are not interrupted."""
        server, tasks = Asgi(), Tasks()
        server.gate = gate
        starting = asyncio.create_task(server.side.start(200, b""))
        await gate.reached.wait()
        server.side.comment(COMMENT, lambda: b"", tasks)
        gate.opened.set()
        await starting
        server.side.comment(COMMENT, lambda: b"", tasks)
        await server.side.write(HELLO)
        assert server.bodies == [b"", COMMENT, HELLO]
        await tasks.finish(1)
