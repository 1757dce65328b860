"""What goes on after the answer, over HTTP: responses in the background and batches, with OpenAI's SDK."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

import openai
import pytest

from sentinel.dev.generation import Billed
from tests.support.client import Answer
from tests.support.metering import other_zion
from tests.support.scripted import Script, ScriptedProvider
from tests.support.sockets import reset
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import RESPONSES, head, send
from tests.support.waiting import until, wait_until

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


def test_who_leaves_before_the_answer() -> None:
    """The provider goes on all the same, so it is billed when it ends: whole, or as a stream."""
    told = {"id": "resp_left", "object": "response", "status": "queued"}
    usage = {"input_tokens": 21, "output_tokens": 17, "total_tokens": 38}
    ended = json.dumps({**told, "status": "completed", "output": [], "usage": usage}).encode()
    event = json.dumps({"type": "response.created", "response": {**told, "id": "resp_streamed"}}).encode()
    # A Redis of its own, for no other Sentinel's provider knows these.
    with Stack() as stack, ScriptedProvider() as provider:
        sentinel = stack.sentinel(OPENAI_API_URL=provider.url)
        provider.models = Script([ended])
        callers = [stack.user(f"left-{kind}@corp.test") for kind in ("whole", "stream")]
        for stream, (_, token) in enumerate(callers):
            late = threading.Event()
            if stream:
                provider.streams(b"data: %b\n\n" % event, late=late, gate=threading.Event())
            else:
                provider.says(json.dumps(told).encode(), late=late)
            body = json.dumps({"model": MODEL, "input": "Write", "background": True, "stream": stream == 1}).encode()
            lines = [f"authorization: Bearer {token}", f"content-length: {len(body)}"]
            with raw_connection(sentinel) as connection:
                connection.sendall(head(RESPONSES, headers=lines) + body)
                wait_until(provider.posts, "it at the provider")
                reset(connection)
            # Whoever answers this has seen the end of that connection.
            send(sentinel, "GET", "/health/live")
            late.set()
            wait_until(lambda: sentinel.metric("sentinel_requests_in_flight") == 0, "the end of the request")
            provider.calls.clear()
        for user, _ in callers:
            assert stack.booked(1, user.email) == {"ai_requests": 1, "ai_input_tokens": 21, "ai_output_tokens": 17}


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
async def test_a_batch_of_messages(seen: str) -> None:
    """Billed by its results, whoever sees its end: a client that lists it, or deletes it at once, or nobody."""
    batches = AnthropicBatches(seen.rpartition("/")[2] or "forgotten")
    # A Redis of its own: a Sentinel whose provider does not know the batch would look for it in vain, and keep it.
    with Stack() as stack, other_zion(batches.app) as url:
        user, token = stack.user("messages@corp.test")
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


class Assistants:
    """A provider of threads and their runs: one run, which goes on until the test ends it. usage: of it all, then."""

    def __init__(self, run: str) -> None:
        self.run: dict[str, Any] = {"id": run, "object": "thread.run", "thread_id": f"thread_{run}", "model": "gpt-4o"}
        self.run |= {"assistant_id": "asst_1", "status": "", "usage": None, "created_at": 1}
        self.asked: list[tuple[str, str]] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        body = b""
        while (message := await receive()).get("more_body") or message.get("body"):
            body += message["body"]
            if not message.get("more_body"):
                break
        headers = dict(scope["headers"])
        self.asked.append((scope["path"], headers.get(b"openai-beta", b"").decode()))
        is_stream = b'"stream":true' in body.replace(b" ", b"")
        status, told = self._answer(scope["method"], scope["path"].removeprefix("/v1/threads"), is_stream=is_stream)
        kind = b"text/event-stream" if is_stream else b"application/json"
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": told})

    def _answer(self, method: str, path: str, *, is_stream: bool) -> tuple[int, bytes]:
        if method == "DELETE":
            self.run["status"] = "deleted"
            return 200, json.dumps({"id": self.run["thread_id"], "deleted": True}).encode()
        if self.run["status"] == "deleted":
            return 404, b"{}"
        if not path:
            return 200, json.dumps({"id": self.run["thread_id"], "object": "thread"}).encode()
        if path.endswith("runs"):
            self.run["status"] = "queued"
        if not is_stream:
            if path.endswith("submit_tool_outputs"):
                self.run["status"] = "in_progress"
            return 200, json.dumps(self.run).encode()
        step: dict[str, Any] = {"id": "step_1", "object": "thread.run.step", "thread_id": "t", "status": "completed"}
        step["usage"] = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        events = [("thread.created", {"id": self.run["thread_id"], "object": "thread"})]
        events += [("thread.run.queued", dict(self.run)), ("thread.run.step.completed", step)]
        self.end()
        events.append(("thread.run.completed", self.run))
        return 200, b"".join(b"event: %b\ndata: %b\n\n" % (n.encode(), json.dumps(o).encode()) for n, o in events)

    def end(self) -> None:
        """The run has ended, and what it has cost is told."""
        usage = {"prompt_tokens": 300, "completion_tokens": 21, "total_tokens": 321}
        self.run |= {"status": "completed", "usage": usage}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seen", ["poll", "nobody", "stream", "tools", "thread deleted"])
async def test_a_run(stack: Stack, seen: str) -> None:
    """Billed once when it has ended, whoever sees that: its user, a stream, nobody, or one who deletes its thread."""
    name = seen.replace(" ", "-")
    user, token = stack.user(f"run-{name}@corp.test")
    assistants = Assistants(f"run_{name}")
    with other_zion(assistants.app) as url:
        sentinel = stack.sentinel(OPENAI_API_URL=f"{url}/v1", SHARED_OBJECTS="assistants")
        async with client(sentinel, token) as of:
            threads, requests = of.beta.threads, 2
            if seen == "stream":
                stream = await threads.create_and_run(assistant_id="asst_1", stream=True)
                assert [event.event async for event in stream][-1] == "thread.run.completed"
                requests = 1
            else:
                thread = (await threads.create()).id
                run = (await threads.runs.create(thread, assistant_id="asst_1")).id
                if seen == "tools":
                    assistants.run["status"] = "requires_action"
                    assert (await threads.runs.retrieve(run, thread_id=thread)).status == "requires_action"
                    output: Any = {"tool_call_id": "call_1", "output": "it rains"}
                    again = await threads.runs.submit_tool_outputs(run, thread_id=thread, tool_outputs=[output])
                    assert again.status == "in_progress"
                    requests += 2
                assert told(stack, user.email)[1:] == (0, 0)
                assistants.end()
                if seen in ("poll", "tools"):
                    for _ in range(2):
                        assert (await threads.runs.retrieve(run, thread_id=thread)).usage is not None
                    requests += 2
                if seen == "thread deleted":
                    await threads.delete(thread)
                    requests += 1
        await until(lambda: told(stack, user.email)[1:] == (300, 21))
        await until(lambda: quiet(sentinel))
        assert told(stack, user.email) == (requests, 300, 21)
        assert {version for path, version in assistants.asked if "/threads" in path} == {"assistants=v2"}


def quiet(sentinel: SentinelProcess) -> bool:
    """Nothing waits for Zion, and nothing is followed."""
    return sentinel.metric("sentinel_outbox_depth") == 0 and sentinel.metric("sentinel_jobs") == 0
