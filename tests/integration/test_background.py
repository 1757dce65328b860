"""What goes on after the answer, over HTTP: responses in the background and batches, with OpenAI's SDK."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import openai
import pytest

from sentinel.dev.generation import Billed
from tests.support.client import Answer
from tests.support.metering import other_zion
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import send
from tests.support.waiting import until

MODEL = "gpt-4o-mini"


def client(sentinel: SentinelProcess, token: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{sentinel.url}/v1", api_key=token)


def told(stack: Stack, email: str) -> tuple[int, int, int]:
    """What Zion was told of a user: requests, input, output."""
    used = stack.simulators.zion.used(email)
    return used["ai_requests"], used["ai_input_tokens"], used["ai_output_tokens"]


def bills(stack: Stack) -> list[Billed]:
    return [bill for bill in stack.simulators.openai.billed if bill.path == "/v1/responses"]


async def finished(of: openai.AsyncOpenAI, id_: str) -> Any:
    """The response, once it has ended."""

    async def response() -> Any:
        found = await of.responses.retrieve(id_)
        return found if found.status == "completed" else None

    return await until(response)


async def test_a_response_in_the_background(stack: Stack, sentinel: SentinelProcess) -> None:
    """Its user asks for it until it has ended; it is billed once, as the provider bills it."""
    user, token = stack.user("background@corp.test")
    async with client(sentinel, token) as of:
        begun = await of.responses.create(model=MODEL, input="[[tokens=7]] Write", background=True)
        assert begun.status == "queued"
        ended = await finished(of, begun.id)
        assert ended.output_text
        (bill,) = bills(stack)[-1:]
        expected = (1 + 0, bill.prompt_tokens, bill.completion_tokens)
        await until(lambda: told(stack, user.email)[1:] == expected[1:])
        again = [await of.responses.retrieve(begun.id) for _ in range(3)]
        assert {response.status for response in again} == {"completed"}
    await until(lambda: quiet(sentinel))
    requests, *tokens = told(stack, user.email)
    assert tokens == [bill.prompt_tokens, bill.completion_tokens]
    # Each retrieval is a request.
    assert requests >= 5


async def test_nobody_asks_for_it(stack: Stack, sentinel: SentinelProcess) -> None:
    """It is billed all the same."""
    user, token = stack.user("forgetful@corp.test")
    async with client(sentinel, token) as of:
        await of.responses.create(model=MODEL, input="[[tokens=9]] Write", background=True)
    bill = bills(stack)[-1]
    await until(lambda: told(stack, user.email) == (1, bill.prompt_tokens, bill.completion_tokens))


async def test_the_process_is_killed(stack: Stack) -> None:
    """Another one bills what it had begun."""
    first, second = stack.sentinel(), stack.sentinel()
    user, token = stack.user("orphan@corp.test")
    async with client(first, token) as of:
        await of.responses.create(model=MODEL, input="[[tokens=9 delay=0.2]] Write", background=True)
    first.kill()
    bill = bills(stack)[-1]
    await until(lambda: told(stack, user.email) == (1, bill.prompt_tokens, bill.completion_tokens))
    second.kill()


async def test_its_reservation_counts(stack: Stack, sentinel: SentinelProcess) -> None:
    """Until it has ended nobody has what it may cost."""
    _, token = stack.user("held@corp.test", limits={"ai_output_tokens": 100})
    async with client(sentinel, token) as of:
        begun = await of.responses.create(
            model=MODEL, input="[[tokens=5 delay=0.5]] Write", background=True, max_output_tokens=90
        )
        assert remaining(send(sentinel, "GET", "/sentinel/quota", token)) == 10
        await finished(of, begun.id)
        await until(lambda: remaining(send(sentinel, "GET", "/sentinel/quota", token)) == 95)


def remaining(answer: Answer) -> int:
    return int(answer.json["quota"]["ai_output_tokens"]["remaining"])


async def test_another_user_cannot_see_it(stack: Stack, sentinel: SentinelProcess) -> None:
    """Nor cancel it."""
    (_, token), (_, other) = stack.user("mine@corp.test"), stack.user("theirs@corp.test")
    async with client(sentinel, token) as of, client(sentinel, other) as they:
        begun = await of.responses.create(model=MODEL, input="[[tokens=9 delay=0.2]] Write", background=True)
        for asked in (they.responses.retrieve(begun.id), they.responses.cancel(begun.id)):
            with pytest.raises(openai.NotFoundError):
                await asked
        assert (await of.responses.cancel(begun.id)).status == "cancelled"


async def test_a_batch(stack: Stack, sentinel: SentinelProcess) -> None:
    """Its tokens and its other requests are billed when it has ended, under its model, whoever sees that."""
    user, token = stack.user("batch@corp.test")
    async with client(sentinel, token) as of:
        line = (
            b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o","messages":[]}}\n'
        )
        file = await of.files.create(file=("a.jsonl", line), purpose="batch")
        batch = await of.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        before = told(stack, user.email)[0]
        usage = {"input_tokens": 700, "output_tokens": 70, "total_tokens": 770}
        counts = {"total": 9, "completed": 7, "failed": 2}
        kept = stack.simulators.openai.objects.kept[batch.id]
        kept.body |= {"status": "completed", "model": "gpt-4o", "usage": usage, "request_counts": counts}
        for _ in range(2):
            assert (await of.batches.retrieve(batch.id)).status == "completed"
    await until(lambda: told(stack, user.email)[1:] == (700, 70))
    await until(lambda: quiet(sentinel))
    models: Counter[str | None] = Counter()
    for applied in stack.simulators.zion.applied:
        if applied.email == user.email:
            models[applied.model] += applied.ai_input_tokens
    assert models == Counter({None: 0, "gpt-4o": 700})
    assert told(stack, user.email)[0] >= before + 6


class AnthropicBatches:
    """A provider of message batches, as Anthropic's is: what each request has cost is told in its results alone."""

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.kept: dict[str, Any] = {}

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        while (await receive()).get("more_body"):
            pass
        status, body = self._answer(scope["method"], scope["path"].removeprefix("/v1/messages/batches"))
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, method: str, path: str) -> tuple[int, bytes]:
        if method == "POST":
            self.kept = {"id": self.id, "type": "message_batch", "processing_status": "in_progress"}
        elif path == f"/{self.id}/results" and self.kept:
            message = {"usage": {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 7}}
            line = {"custom_id": "c", "result": {"type": "succeeded", "message": message}}
            return 200, b"\n".join([json.dumps(line).encode()] * 3)
        elif not path:
            return 200, json.dumps({"data": [self.kept] if self.kept else [], "has_more": False}).encode()
        elif not self.kept:
            return 404, b"{}"
        told = json.dumps(self.kept).encode()
        if method == "DELETE":
            self.kept = {}
        return 200, told

    def end(self) -> None:
        """All that was asked is answered."""
        self.kept |= {"processing_status": "ended", "request_counts": {"succeeded": 3}}


@pytest.mark.parametrize("seen", ["GET /v1/messages/batches", "DELETE /v1/messages/batches/deleted", ""])
async def test_a_batch_of_messages(stack: Stack, seen: str) -> None:
    """Billed by its results, whoever sees its end: a client that lists it, or deletes it at once, or nobody."""
    user, token = stack.user(f"messages-{len(seen)}@corp.test")
    batches = AnthropicBatches(seen.rpartition("/")[2] or "forgotten")
    with other_zion(batches.app) as url:
        sentinel = stack.sentinel(OPENAI_API_URL=f"{url}/v1")
        requests = [{"custom_id": str(number), "params": {"model": "claude-haiku-5-5"}} for number in range(1_500)]
        body = json.dumps({"requests": requests}).encode()
        assert send(sentinel, "POST", "/v1/messages/batches", token, body).status == 200
        batches.end()
        if seen:
            method, path = seen.split(" ")
            assert send(sentinel, method, path, token).status == 200
        await until(lambda: told(stack, user.email)[1:] == (300, 21))
        await until(lambda: quiet(sentinel))
        assert told(stack, user.email)[0] == 1 + 2 + bool(seen)


def quiet(sentinel: SentinelProcess) -> bool:
    """Nothing waits for Zion, and nothing is followed."""
    return sentinel.metric("sentinel_outbox_depth") == 0 and sentinel.metric("sentinel_jobs") == 0
