"""What providers send to /v1/responses: read, charged and ended as it should be.

Each test says what arrives, what must leave, and what is charged.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response, ResponseErrorEvent, ResponseIncompleteEvent

from sentinel.cache.redis import Store
from sentinel.clock import monotonic
from sentinel.endpoints.responses import RESPONSES
from sentinel.error import UpstreamError
from sentinel.proxy.sse import COMMENT
from tests.exchange.driver import DONE, INPUT_TOKENS, KEEP_ALIVE_SECONDS, PROMPT, Client, Gate, Stage

BROKEN = UpstreamError("x")
KEEP_ALIVE = b": keep-alive\n\n"
JSON = b"content-type: application/json\r\n"


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    return Stage(store, tmp_path)


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def usage(input_tokens: int, output_tokens: int, **more: Any) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        **more,
    }


def ended(status: str = "completed", **fields: Any) -> bytes:
    return event(f"response.{status}", response={"id": "resp_1", "object": "response", "status": status, **fields})


def said(text: str) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


CREATED = event(
    "response.created",
    sequence_number=0,
    response={
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": "in_progress",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    },
)
ADDED = event("response.output_item.added", sequence_number=1, output_index=0, item={**said(""), "content": []})
PART = event(
    "response.content_part.added", sequence_number=2, part={"type": "output_text", "text": "", "annotations": []}
)
START = [CREATED, ADDED, PART]
WORDS = [
    event("response.output_text.delta", sequence_number=number, output_index=0, content_index=0, delta=f" {word}")
    for number, word in enumerate(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], 3)
]
USAGE = ended(usage=usage(21, 17))


def asks(*, stream: bool = True, slow: bool = True, **fields: Any) -> Client:
    """A client of this format."""
    client = Client(slow=slow)
    client.body = json.dumps({"model": "gpt-4o-mini", "input": PROMPT, "stream": stream, **fields}).encode()
    return client


async def run(
    stage: Stage, client: Client, *pieces: bytes | Exception | Gate, **provider: Any
) -> tuple[int, int] | None:
    """Input and output tokens that an exchange was charged with, None = nothing at all."""
    stage.provider.pieces = list(pieces)
    for name, value in provider.items():
        setattr(stage.provider, name, value)
    await stage.exchange(client, RESPONSES).run()
    records = await stage.settled()
    return next(((i, o) for _, i, o in records.values()), None)


def last_event(got: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(got.removesuffix(b"\n\n").rpartition(b"data: ")[2])
    return found


class TestUsage:
    """In the last event, put together from its pieces."""

    @pytest.mark.parametrize("status", ["completed", "incomplete"])
    async def test_it_is_told_last(self, stage: Stage, status: str) -> None:
        """And told more than that."""
        details = {"input_tokens_details": {"cached_tokens": 8}, "output_tokens_details": {"reasoning_tokens": 6}}
        client = asks()
        pieces = [*START, *WORDS[:2], ended(status, usage=usage(21, 17, **details))]
        assert await run(stage, client, *pieces) == (21, 17)
        assert client.got == b"".join(pieces)
        context = stage.ended[0]
        assert (context.cached_tokens, context.reasoning_tokens, context.finish_reason) == (8, 6, status)
        assert (context.tokens_from, context.outcome) == ("provider", "ok")

    @pytest.mark.parametrize(
        ("told", "charged"),
        [
            (None, (INPUT_TOKENS, 2)),
            ({}, (INPUT_TOKENS, 2)),
            (usage(21, 0), (21, 2)),
            ({"input_tokens": "21", "output_tokens": -17}, (INPUT_TOKENS, 2)),
            ({"input_tokens": 32, "output_tokens": 9, "total_tokens": 135}, (32, 103)),
            ({"prompt_tokens": 21, "completion_tokens": 17}, (21, 17)),
            ({"input_tokens": 21.0, "output_tokens": 17, "output_tokens_details": "odd"}, (21, 17)),
            ([21, 17], (INPUT_TOKENS, 2)),
        ],
    )
    async def test_odd_usage(self, stage: Stage, told: Any, charged: tuple[int, int]) -> None:
        """It is read around; where it tells nothing our own count does."""
        assert await run(stage, asks(), *START, *WORDS[:2], ended(usage=told)) == charged

    async def test_pieces(self, stage: Stage) -> None:
        """Larger numbers win, zeros tell nothing."""
        early = event("response.in_progress", response={"usage": usage(21, 0)})
        assert await run(stage, asks(), CREATED, early, *WORDS[:2], ended(usage=usage(0, 17))) == (21, 17)


class TestText:
    """It counts, whatever its event, and once."""

    @pytest.mark.parametrize(
        "delta",
        [
            event("response.refusal.delta", delta=" one two"),
            event("response.reasoning_text.delta", delta=" one two"),
            event("response.reasoning_summary_text.delta", delta=" one two"),
            event("response.function_call_arguments.delta", delta=" one two"),
            event("response.custom_tool_call_input.delta", delta=" one two"),
            event("response.mcp_call_arguments.delta", delta=" one two"),
            event("response.code_interpreter_call_code.delta", delta=" one two"),
            event("response.audio.transcript.delta", delta=" one two"),
            event("response.a_new_kind.delta", delta=[" one", {"a": " two"}]),
            event("response.output_text.delta", delta=" one", logprobs="odd", a_new_field=" two"),
            event("response.output_text.done", text=" one two"),
            event("response.output_item.done", item=said(" one two")),
        ],
    )
    @pytest.mark.parametrize("repeated", [False, True])
    async def test_kinds(self, stage: Stage, delta: bytes, repeated: bool) -> None:
        """Without usage, and said again by the last event."""
        last = ended(output=[said(" one two")]) if repeated else ended()
        assert await run(stage, asks(), CREATED, delta, last) == (INPUT_TOKENS, 2)

    async def test_all_in_the_last_event(self, stage: Stage) -> None:
        """Where nothing came before it."""
        assert await run(stage, asks(), CREATED, ended(output=[said(" one two three")])) == (INPUT_TOKENS, 3)

    async def test_a_large_event(self, stage: Stage) -> None:
        """One of 350 KB is counted, though not on the loop."""
        delta = event("response.output_text.delta", delta=" word" * 70_000)
        assert await run(stage, asks(), CREATED, delta, ended()) == (INPUT_TOKENS, 70_000)


class TestErrors:
    """An error costs no tokens, unless something was generated before."""

    @pytest.mark.parametrize(
        "pieces",
        [
            [KEEP_ALIVE] * 3 + [BROKEN],
            [CREATED, BROKEN],
            [CREATED],
            [],
            [event("error", code="x", message="overloaded", param=None)],
            [CREATED, event("error", error={"message": "overloaded"})],
            [CREATED, ended("failed", error={"code": "server_error", "message": "x"}, usage=None)],
            [CREATED, ended("failed", error={"code": "server_error"}, usage=usage(21, 0))],
            [CREATED, event("error", code="x"), ended("failed", error={"code": "x"})],
            [b'data: {"error":{"message":"overloaded"}}\n\n', DONE],
            [b'data: {"type":"resp'],
        ],
    )
    async def test_before_anything_was_generated(self, stage: Stage, pieces: list[bytes | Exception]) -> None:
        """Free; and all that came reaches the client."""
        client = asks()
        assert await run(stage, client, *pieces) is None
        whole = b"".join(piece for piece in pieces if isinstance(piece, bytes) and piece.endswith(b"\n\n"))
        assert client.got.startswith(whole)
        assert b"error" in client.got
        assert stage.ended[0].outcome == "broken"

    async def test_after_some_text(self, stage: Stage) -> None:
        """What was delivered is billed; the error passes as it is."""
        client, failed = asks(), ended("failed", error={"code": "server_error"})
        assert await run(stage, client, *START, *WORDS[:2], failed) == (INPUT_TOKENS, 2)
        assert client.got == b"".join([*START, *WORDS[:2], failed])
        assert stage.ended[0].outcome == "broken"

    async def test_an_end_without_a_last_event(self, stage: Stage) -> None:
        """The stream broke off: what was delivered is billed, and an error event with the next number says so."""
        client = asks()
        assert await run(stage, client, *START, *WORDS[:2]) == (INPUT_TOKENS, 2)
        last = last_event(client.got)
        assert ResponseErrorEvent.model_validate(last).sequence_number == 5
        assert (last["code"], last["error"]["code"]) == ("upstream_error", "upstream_error")
        assert stage.ended[0].outcome == "broken"

    @pytest.mark.parametrize("status", [200, 400])
    async def test_an_answer_that_is_no_stream(self, stage: Stage, status: int) -> None:
        """It passes as it is, where no comment has told of a stream."""
        body = json.dumps({"error": {"message": "no"}}).encode()
        client = asks()
        assert await run(stage, client, body, status=status, body=body, header_lines=JSON) is None
        assert (client.status, client.got) == (status, body)


class TestWholeAnswers:
    """Read in the same way."""

    @pytest.mark.parametrize(
        ("answer", "charged"),
        [
            ({"status": "completed", "output": [said(" one two")], "usage": usage(21, 17)}, (21, 17)),
            ({"status": "completed", "output": [said(" one two")]}, (INPUT_TOKENS, 2)),
            ({"status": "incomplete", "output": [], "usage": usage(21, 17)}, (21, 17)),
            ({"status": "failed", "output": [], "error": {"code": "x"}, "usage": usage(21, 0)}, None),
            ({"status": "failed", "output": [said(" one")], "error": {"code": "x"}}, (INPUT_TOKENS, 1)),
            ({"error": {"message": "no"}}, None),
            ({"choices": [{"message": {"content": " one two"}}]}, (INPUT_TOKENS, 2)),
        ],
    )
    async def test_what_it_costs(self, stage: Stage, answer: dict[str, Any], charged: tuple[int, int] | None) -> None:
        """And passes byte for byte."""
        body = json.dumps({"id": "resp_1", "object": "response", **answer}).encode()
        client = asks(stream=False)
        assert await run(stage, client, body=body) == charged
        assert (client.status, client.got) == (200, body)

    async def test_to_who_was_told_to_expect_a_stream(self, stage: Stage) -> None:
        """It becomes one."""
        body = json.dumps({"status": "completed", "output": [said(" one two")], "usage": usage(21, 17)}).encode()
        client, gate = asks(slow=False), Gate()
        stage.provider.gate = gate
        stage.provider.pieces, stage.provider.body, stage.provider.header_lines = [body], body, JSON
        task = asyncio.create_task(stage.exchange(client, RESPONSES).run())
        await gate.reached.wait()
        now = monotonic()
        for moment in (now, now + KEEP_ALIVE_SECONDS):
            stage.keepalive.look(list(stage.keepalive.open), moment)
        gate.opened.set()
        await task
        assert client.got.startswith(COMMENT + b"event: response.created")
        assert b"event: response.output_text.delta" in client.got
        assert last_event(client.got)["type"] == "response.completed"
        assert list((await stage.settled()).values()) == [(1, 21, 17)]


class TestTheEndAtALimit:
    """In the format of the stream, with what is charged."""

    @pytest.mark.parametrize("at_once", [False, True])
    @pytest.mark.parametrize("left", [1, 6])
    async def test_what_is_open_is_done(self, stage: Stage, left: int, at_once: bool) -> None:
        """However the provider cuts its events; numbers go on."""
        await stage.limit(left)
        client = asks()
        pieces = [*START, *WORDS, USAGE]
        # Where usage has come, too, it tells the input.
        spent = (21 if at_once else INPUT_TOKENS, left)
        assert await run(stage, client, *([b"".join(pieces)] if at_once else pieces)) == spent
        assert client.got.startswith(b"".join([*START, *WORDS[:left]]) + b"event: response.output_text.done")
        last = ResponseIncompleteEvent.model_validate(last_event(client.got))
        assert last.sequence_number == 2 + left + 4
        assert isinstance(last.response, Response)
        assert (last.response.id, last.response.status) == ("resp_1", "incomplete")
        assert last.response.output_text == " one two three four five six"[: len(last.response.output_text)]
        assert last.response.usage is not None
        assert (last.response.usage.input_tokens, last.response.usage.output_tokens) == spent
        assert json.loads(stage.provider.bodies[0])["max_output_tokens"] == 16
        assert stage.ended[0].outcome == "limit"

    async def test_one_event_that_says_too_much(self, stage: Stage) -> None:
        """It is not delivered, nor numbered."""
        await stage.limit(6)
        client = asks()
        delta = event("response.output_text.delta", sequence_number=3, delta=" word" * 10_000)
        await run(stage, client, *START, delta, USAGE)
        assert client.got.startswith(b"".join(START) + b"event: response.output_text.done")
        assert last_event(client.got)["sequence_number"] == 6
        assert last_event(client.got)["response"]["output"][0]["content"][0]["text"] == ""

    async def test_a_last_event_that_says_too_much(self, stage: Stage) -> None:
        """Neither."""
        await stage.limit(2)
        client = asks()
        await run(stage, client, CREATED, ended(output=[said(" one two three")], usage=usage(21, 3)))
        assert client.got.startswith(CREATED + b"event: response.incomplete")
        assert (await stage.account())["held"] == [0, 0, 0]


class TestAfterTheEnd:
    """What follows the last event passes, where it comes at once."""

    @pytest.mark.parametrize("after", [[], [DONE], [DONE[:7], DONE[7:]]])
    async def test_a_done(self, stage: Stage, after: list[bytes]) -> None:
        """Though none is needed."""
        for pieces in ([*START, USAGE, *after], [b"".join([*START, USAGE, *after])], [*START, USAGE + b"".join(after)]):
            client = asks()
            stage.provider.pieces = list(pieces)
            await stage.exchange(client, RESPONSES).run()
            assert client.got == b"".join([*START, USAGE, *after])
        assert list((await stage.settled()).values()) == [(1, 21, 17)] * 3

    async def test_rubbish_without_end(self, stage: Stage) -> None:
        """No more than an end may have."""
        client = asks()
        assert await run(stage, client, *START, USAGE, *[b"x" * 4000] * 9) == (21, 17)
        assert len(client.got) < len(b"".join([*START, USAGE])) + 5000


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
async def test_line_ends(stage: Stage, end: bytes) -> None:
    """LF, CR and CRLF."""
    pieces = [piece.replace(b"\n", end) for piece in (*START, *WORDS[:2], USAGE)]
    client = asks()
    assert await run(stage, client, *pieces) == (21, 17)
    assert client.got == b"".join(pieces)


async def test_who_leaves_after_the_last_event_pays_what_it_tells(stage: Stage) -> None:
    """Also while nobody knows yet whether anything follows it, and of a model that thinks unseen."""
    gate, client = Gate(), asks(model="o3")
    stage.provider.pieces = [*START, WORDS[0], USAGE, gate]
    task = asyncio.create_task(stage.exchange(client, RESPONSES).run())
    await gate.reached.wait()
    client.connection.gone = True
    client.connection.tell()
    await task
    assert list((await stage.settled()).values()) == [(1, 21, 17)]
