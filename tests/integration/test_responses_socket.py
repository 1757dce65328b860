"""GET /v1/responses as a WebSocket, by a client that is not ours: what it gets, what is admitted, what is booked.

About: `proxy/responses_session.py`, `proxy/frames.py`, `routes/sockets.py`, `proxy/openai_socket.py`, `dev/sockets.py`.
"""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from sentinel.dev.generation import Billed
from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import RESPONSES as PATH
from tests.support.surface import post, send
from tests.support.talks import LAST, talk, text_of
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("no_faults")

HELLO = "Hello! I am a simulated model, and happy to help."
TOOL: Any = {
    "type": "function",
    "name": "shell",
    "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
}
CHAT_ALONE = """
[providers.chat]
type = "openai"
url = "{url}"
api_key = "env:OPENAI_API_KEY"
formats = ["chat"]
"""


TWO = """
[providers.openai]
type = "openai"
url = "{url}"
api_key = "env:OPENAI_API_KEY"

[providers.own]
type = "compatible"
url = "{own}"
api_key = "env:OPENAI_API_KEY"
formats = [{formats}]

[models."gpt-4o*"]
targets = [{{ provider = "openai" }}]

[models."gpt-4.1"]
targets = [{{ provider = "openai", model = "gpt-4.1-mini" }}]

[models."gpt-5*"]
targets = [{{ provider = "own" }}]
"""


def billed(stack: Stack) -> Billed:
    """What the provider charges for the last request."""
    return stack.simulators.openai.billed[-1]


def sent(stack: Stack) -> dict[str, Any]:
    """The last message that the provider got."""
    return dict(stack.simulators.openai.calls[-1].body)


async def status_of(sentinel: SentinelProcess, token: str | None, **options: Any) -> tuple[int, dict[str, Any]]:
    """How a handshake is refused."""
    with pytest.raises(InvalidStatus) as refused:
        async with talk(sentinel, token, **options):
            pass
    response = refused.value.response
    return response.status_code, json.loads(response.body or b"{}").get("error", {})


class TestAResponse:
    """It is what the same request is as a stream."""

    async def test_has_the_same_events(self, stack: Stack, sentinel: SentinelProcess, token: str) -> None:
        """Each a message of its own, in the provider's bytes but for ids and times."""
        async with talk(sentinel, token) as one:
            messages = await one.ask()
        streamed = post(sentinel, token, {"model": "gpt-4o-mini", "input": "Say hello", "stream": True}, PATH)
        events = [json.loads(line[6:]) for line in streamed.body.decode().split("\n") if line.startswith("data: ")]
        assert [message["type"] for message in messages] == [event["type"] for event in events]
        assert [message["sequence_number"] for message in messages] == list(range(len(messages)))
        assert text_of(messages) == HELLO
        assert stack.simulators.openai.calls[-2].headers["authorization"] == f"Bearer {stack.simulators.openai_key}"

    async def test_is_booked_before_its_last_message(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """So that a process that is killed right then has lost nothing."""
        _, token = stack.user("socket-durable@corp.test")
        victim = stack.sentinel()
        async with talk(victim, token) as one:
            messages = await one.ask()
            victim.kill()
        usage = messages[-1]["response"]["usage"]
        assert stack.booked(1, "socket-durable@corp.test") == {
            "ai_requests": 1,
            "ai_input_tokens": usage["input_tokens"],
            "ai_output_tokens": usage["output_tokens"],
        }

    async def test_goes_on_from_one_that_is_not_stored(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """As Codex does: a tool is called, and its output is all that the next message has."""
        _, token = stack.user("socket-tools@corp.test")
        async with talk(sentinel, token, additional_headers={"OpenAI-Beta": "responses_websockets=2026-02-06"}) as one:
            first = (await one.ask("List files [[tool]]", tools=[TOOL], store=False))[-1]["response"]
            call = first["output"][0]
            assert (call["type"], call["name"]) == ("function_call", "shell")
            output = {"type": "function_call_output", "call_id": call["call_id"], "output": "README.md"}
            second = await one.ask([output], tools=[TOOL], store=False, previous_response_id=first["id"])
        assert text_of(second) == HELLO
        used = stack.booked(2, "socket-tools@corp.test")
        assert used["ai_input_tokens"] == sum(of["usage"]["input_tokens"] for of in (first, second[-1]["response"]))
        assert stack.simulators.openai.calls[-1].headers["openai-beta"] == "responses_websockets=2026-02-06"

    async def test_of_another_user_is_not_gone_on_from(
        self, stack: Stack, sentinel: SentinelProcess, token: str
    ) -> None:
        """A 404, which the provider does not hear of; the connection stays."""
        _, other = stack.user("socket-other@corp.test")
        async with talk(sentinel, token) as one, talk(sentinel, other) as two:
            id_ = (await one.ask())[-1]["response"]["id"]
            calls = len(stack.simulators.openai.calls)
            refused = (await two.ask(previous_response_id=id_))[-1]
            assert (refused["status"], refused["error"]["code"]) == (404, "not_found")
            assert len(stack.simulators.openai.calls) == calls
            assert (await one.ask(previous_response_id=id_))[-1]["type"] == "response.completed"
            assert (await two.ask())[-1]["type"] == "response.completed"

    async def test_that_only_makes_ready_costs_nothing(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """It says nothing, and the next one goes on from it."""
        _, token = stack.user("socket-ready@corp.test")
        async with talk(sentinel, token) as one:
            ready = (await one.ask(generate=False, store=False))[-1]["response"]
            assert ready["output"] == []
            await one.ask(previous_response_id=ready["id"], store=False)
        assert stack.booked(1, "socket-ready@corp.test")["ai_requests"] == 1

    async def test_is_refused_where_another_is_in_flight(
        self, stack: Stack, sentinel: SentinelProcess, token: str
    ) -> None:
        """That one goes on."""
        async with talk(sentinel, token) as one:
            await one.create("Write [[tokens=50 delay=0.02]]")
            await one.hear()
            await one.create()
            heard = await one.hear_until("error", *LAST)
            assert (heard[-1]["status"], heard[-1]["error"]["code"]) == (409, "response_in_progress")
            assert (await one.hear_until(*LAST))[-1]["type"] == "response.completed"
            assert (await one.ask())[-1]["type"] == "response.completed"

    @pytest.mark.parametrize(
        ("fields", "code", "param"),
        [
            ({"type": "response.steer"}, "unsupported_parameter", "type"),
            ({"response": {"model": "gpt-4o"}}, "unsupported_parameter", "response"),
            ({"generate": "no"}, "invalid_type", "generate"),
            ({"background": True}, "unsupported_parameter", "background"),
            ({"input": None}, "missing_required_parameter", "input"),
        ],
    )
    async def test_that_cannot_be_judged_is_refused(
        self, sentinel: SentinelProcess, token: str, fields: dict[str, Any], code: str, param: str
    ) -> None:
        """The error names the field."""
        async with talk(sentinel, token) as one:
            refused = (await one.ask(**fields))[-1]
            assert (refused["status"], refused["error"]["code"], refused["error"]["param"]) == (400, code, param)
            await one.socket.send("{")
            assert (await one.hear())["error"]["code"] == "invalid_json"
            assert (await one.ask())[-1]["type"] == "response.completed"

    async def test_in_pieces_and_large(self, sentinel: SentinelProcess, token: str) -> None:
        """A message may come in fragments, and be longer than what is read at once."""
        async with talk(sentinel, token) as one:
            text = json.dumps({"type": "response.create", "model": "gpt-4o-mini", "input": "word " * 60_000})
            await one.socket.send([text[:10], text[10:100_000], text[100_000:]])
            usage = (await one.hear_until(*LAST))[-1]["response"]["usage"]
            assert usage["input_tokens"] > 60_000

    async def test_too_large(self, stack: Stack, token: str) -> None:
        """Beyond MAX_BODY_BYTES the connection is closed, as WebSockets have it."""
        async with talk(stack.sentinel(MAX_BODY_BYTES="10000"), token) as one:
            await one.create("word " * 5_000)
            assert (await one.ended())[0] == 1009


class TestLimits:
    async def test_a_response_ends_at_the_limit(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """In good order, although the provider knows no maximum; it goes on for nobody, and the next is refused."""
        _, token = stack.user("socket-limit@corp.test", limits={"ai_output_tokens": 40})
        async with talk(sentinel, token) as one:
            messages = await one.ask("Write [[tokens=400 delay=0.005 ignores_max]]")
            last = messages[-1]
            assert (last["type"], last["response"]["usage"]["output_tokens"]) == ("response.incomplete", 40)
            assert [message["sequence_number"] for message in messages] == list(range(len(messages)))
            await until(lambda: billed(stack).state == "cancelled", "the end of the response at the provider")
            refused = (await one.ask())[-1]
            assert (refused["status"], refused["error"]["code"]) == (429, "insufficient_quota")
            assert refused["headers"]["x-should-retry"] == "false"
        assert stack.booked(1, "socket-limit@corp.test")["ai_output_tokens"] == 40

    async def test_the_provider_is_told_what_is_left(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """All other bytes of the message stay."""
        _, token = stack.user("socket-told@corp.test", limits={"ai_output_tokens": 40})
        async with talk(sentinel, token) as one:
            assert (await one.ask("Write [[tokens=400]]", max_output_tokens=900))[-1]["type"] == "response.incomplete"
        assert sent(stack)["max_output_tokens"] == 40

    async def test_a_crowd_gets_no_more_than_the_limit(self, stack: Stack) -> None:
        """Over many connections, and two replicas."""
        _, token = stack.user("socket-crowd@corp.test", limits={"ai_requests": 7})
        replicas = [stack.sentinel(), stack.sentinel()]

        async def one_of(number: int) -> str:
            async with talk(replicas[number % 2], token) as one:
                return str((await one.ask())[-1]["type"])

        ends = await asyncio.gather(*map(one_of, range(30)))
        assert (ends.count("response.completed"), ends.count("error")) == (7, 23)
        assert stack.booked(7, "socket-crowd@corp.test")["ai_requests"] == 7


class TestLeaving:
    async def test_a_client_pays_for_what_it_got(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """And the provider goes on for nobody."""
        _, token = stack.user("socket-leaves@corp.test")
        async with talk(sentinel, token) as one:
            await one.create("Write [[tokens=2000 delay=0.01]]")
            while "delta" not in (message := await one.hear()):
                pass
            assert message["type"] == "response.output_text.delta"
        await until(lambda: billed(stack).state == "cancelled", "the end of the response at the provider")
        assert 1 <= stack.booked(1, "socket-leaves@corp.test")["ai_output_tokens"] < 2000

    async def test_a_provider_that_drops_is_told_and_replaced(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """What came is paid, and the next message goes over a new connection."""
        _, token = stack.user("socket-drops@corp.test")
        async with talk(sentinel, token) as one:
            last = (await one.ask("Write [[tokens=50 break_after=20]]"))[-1]
            assert (last["type"], last["status"], last["code"]) == ("error", 502, "upstream_error")
            assert (await one.ask())[-1]["type"] == "response.completed"
        assert stack.booked(2, "socket-drops@corp.test")["ai_output_tokens"] == 20 + 13

    async def test_a_provider_that_is_silent_is_given_up(self, stack: Stack) -> None:
        """After UPSTREAM_IDLE_TIMEOUT_SECONDS."""
        _, token = stack.user("socket-silent@corp.test")
        async with talk(stack.sentinel(UPSTREAM_IDLE_TIMEOUT_SECONDS="0.5"), token) as one:
            last = (await one.ask("Write [[tokens=50 hang_after=20]]"))[-1]
            assert (last["type"], last["status"], last["code"]) == ("error", 504, "upstream_timeout")

    async def test_a_provider_that_closes_closes_the_client(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """Between two responses."""
        _, token = stack.user("socket-closes@corp.test")
        async with talk(sentinel, token) as one:
            await one.ask()
            stack.simulators.openai_server.stop()
            try:
                assert (await one.ended())[0] in (1011, 1012, 1001)
                assert (await status_of(sentinel, token))[0] == 502
            finally:
                stack.simulators.openai_server.start()

    async def test_a_shutdown_waits_for_a_response(self, stack: Stack) -> None:
        """Then the connection is closed; one that rests, at once."""
        _, token = stack.user("socket-shutdown@corp.test")
        leaving = stack.sentinel()
        async with talk(leaving, token) as busy, talk(leaving, token) as resting:
            await busy.create("Write [[tokens=60 delay=0.02]]")
            await busy.hear()
            leaving.signal(signal.SIGTERM)
            assert (await resting.ended())[0] == 1001
            assert (await busy.hear_until(*LAST))[-1]["type"] == "response.completed"
            assert (await busy.ended())[0] == 1001
        assert leaving.stop() == 0
        assert stack.booked(1, "socket-shutdown@corp.test")["ai_output_tokens"] == 60

    async def test_at_the_end_of_the_grace_a_response_ends_with_an_error(self, stack: Stack) -> None:
        """And what was delivered is booked."""
        _, token = stack.user("socket-grace@corp.test")
        leaving = stack.sentinel(SHUTDOWN_GRACE_SECONDS="1")
        async with talk(leaving, token) as one:
            await one.create("Write [[tokens=2000 delay=0.05]]")
            while "delta" not in await one.hear():
                pass
            leaving.signal(signal.SIGTERM)
            last = (await one.hear_until(*LAST))[-1]
            assert (last["type"], last["status"]) == ("error", 503)
            assert (await one.ended())[0] == 1001
        assert leaving.stop() == 0
        assert 1 <= stack.booked(1, "socket-grace@corp.test")["ai_output_tokens"] < 2000

    async def test_a_killed_process_has_noted_what_it_delivered(self, stack: Stack) -> None:
        """Its lease ends, and another process bills the last checkpoint."""
        _, token = stack.user("socket-killed@corp.test")
        victim = stack.sentinel(LEASE_SECONDS="2")
        async with talk(victim, token) as one:
            await one.create("Write [[tokens=3000 delay=0.01]]")
            heard = 0
            while heard < 150:
                heard += "delta" in await one.hear()
            victim.kill()
        stack.sentinel(LEASE_SECONDS="2")
        assert 1 <= stack.booked(1, "socket-killed@corp.test")["ai_output_tokens"] <= 3000


class TestBackPressure:
    async def test_a_slow_reader_holds_up_the_provider(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """What is in memory stays bounded; once it reads on it gets all."""
        _, token = stack.user("socket-slow@corp.test")
        # Of 200 bytes each: the kernel holds up to 12 MB of them on the two ways.
        tokens = 100_000
        async with talk(sentinel, token, max_queue=1) as one:
            await one.create(f"Write [[tokens={tokens}]]")
            await one.hear()
            one.socket.transport.pause_reading()
            seen = -1

            def rests() -> bool:
                nonlocal seen
                before, seen = seen, billed(stack).completion_tokens
                return 0 < seen == before

            await until(rests, "the provider to be held up")
            assert seen < tokens * 0.8
            one.socket.transport.resume_reading()
            assert (await one.hear_until(*LAST))[-1]["response"]["usage"]["output_tokens"] == tokens

    async def test_silence_is_kept_alive(self, stack: Stack, token: str) -> None:
        """By pings, to either side; a client's are answered."""
        impatient = stack.sentinel(STREAM_KEEPALIVE_SECONDS="0.2")
        async with talk(impatient, token, ping_interval=None) as one:
            async with asyncio.timeout(10):
                await (await one.socket.ping())
            last = (await one.ask("Write [[tokens=3 first_delay=3]]"))[-1]
            assert last["type"] == "response.completed"


@pytest.mark.parametrize("formats", ['"chat"', '"responses"'])
async def test_a_model_that_is_elsewhere_is_refused(stack: Stack, tmp_path: Path, formats: str) -> None:
    """426, as Codex goes on over HTTP then: whose socket it is sees nothing of what is asked, and nothing is spent.

    So is one with another name there, for a message goes as it is.
    """
    email = f"elsewhere-{len(formats)}@corp.test"
    _, token = stack.user(email)
    with ScriptedProvider() as own:
        file = tmp_path / "sentinel.toml"
        file.write_text(TWO.format(url=stack.simulators.openai_url, own=own.url, formats=formats))
        sentinel = stack.sentinel(SENTINEL_CONFIG=str(file))
        async with talk(sentinel, token) as one:
            for model, status in (("gpt-5", 426), ("gpt-4.1", 426), ("o3", 404)):
                (error,) = await one.ask("My secret is 42", model=model)
                assert error["status"] == status
            assert (await one.ask())[-1]["type"] == "response.completed"
    assert "secret is" not in str(list(stack.simulators.openai.calls))
    assert stack.booked(1, email)["ai_requests"] == 1


class TestHandshake:
    async def test_needs_a_token(self, sentinel: SentinelProcess) -> None:
        """Refused in plain HTTP."""
        assert (await status_of(sentinel, None))[0] == 401
        status, error = await status_of(sentinel, "sk-nobodys")
        assert (status, error["code"]) == (401, "invalid_api_key")

    async def test_needs_an_offer(self, sentinel: SentinelProcess, token: str) -> None:
        """Codex goes on over HTTP at once."""
        answer = send(sentinel, "GET", PATH, token)
        assert answer.is_error(426, "upgrade_required")
        assert answer.headers["upgrade"] == "websocket"

    @pytest.mark.parametrize(
        ("lines", "status"),
        [
            ({"Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"}, 400),
            ({"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version": "8"}, 426),
        ],
    )
    async def test_must_be_one(self, sentinel: SentinelProcess, token: str, lines: dict[str, str], status: int) -> None:
        """RFC 6455, 4.2.1."""
        answer = sentinel.get(
            PATH, {"Authorization": f"Bearer {token}", "Upgrade": "websocket", "Connection": "Upgrade", **lines}
        )
        assert answer.status == status

    @pytest.mark.parametrize(("theirs", "ours"), [(404, 426), (405, 426), (429, 429), (500, 502), (401, 502)])
    async def test_at_the_provider_is_told_by_its_status(
        self, stack: Stack, sentinel: SentinelProcess, token: str, theirs: int, ours: int
    ) -> None:
        """One that does not speak WebSockets is 426, so that clients go on over HTTP."""
        stack.simulators.openai.faults.set(status=theirs)
        assert (await status_of(sentinel, token))[0] == ours

    async def test_where_no_provider_speaks_responses_is_told_by_its_status(
        self, stack: Stack, token: str, tmp_path: Path
    ) -> None:
        """426 as well: over HTTP they are translated."""
        file = tmp_path / "sentinel.toml"
        file.write_text(CHAT_ALONE.format(url=stack.simulators.openai_url))
        sentinel = stack.sentinel(SENTINEL_CONFIG=str(file))
        status, error = await status_of(sentinel, token)
        assert (status, error["code"]) == (426, "upgrade_required")
        answer = send(sentinel, "POST", PATH, token, {"model": "gpt-4o-mini", "input": "hi"})
        assert (answer.status, answer.headers["x-sentinel-translated"]) == (200, "responses->chat")

    async def test_leaves_one_line_in_the_log(self, stack: Stack) -> None:
        """And each response one of its own."""
        fresh = stack.sentinel()
        _, token = stack.user("socket-log@corp.test")
        async with talk(fresh, token) as one:
            await one.ask("My secret is 42")
            await one.ask()
        lines = [line for line in fresh.ended(3) if line["route"] == PATH]
        assert sorted(line["status"] for line in lines) == [101, 200, 200]
        assert all(line["outcome"] == "ok" and line["user_id"] for line in lines)
        log = (fresh.folder / "stdout").read_text()
        assert token not in log
        assert "secret is" not in log

    async def test_of_an_origin_that_may_not_call_is_refused(self, stack: Stack, token: str) -> None:
        """CORS_ORIGINS holds, although browsers do not ask before."""
        strict = stack.sentinel(CORS_ORIGINS="https://a.test")
        status, error = await status_of(strict, token, origin="https://b.test")
        assert (status, error["code"]) == (403, "access_denied")
        async with talk(strict, token, origin="https://a.test") as one:
            assert (await one.ask())[-1]["type"] == "response.completed"
