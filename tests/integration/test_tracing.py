"""Traces, as a collector on a real socket gets them: which spans there are, what they say, and who is told.

About: `observability/tracing.py`, `observability/spans.py`, `proxy/trace.py`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sentinel.dev.ports import free_port
from tests.support.client import Answer
from tests.support.scripted import ScriptedProvider, words
from tests.support.sockets import reset
from tests.support.spans import CLIENT, SERVER, Collector, SeenSpan
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import CHAT, EMBEDDINGS, MESSAGES, RESPONSES, chat, head, post, send
from tests.support.talks import talk
from tests.support.waiting import wait_until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "a secret thing"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 50,
        "completion_tokens": 20,
        "total_tokens": 70,
        "prompt_tokens_details": {"cached_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 12},
    },
}
OK = json.dumps(ANSWER).encode()
LAST: Any = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}],
}
TWO = """
[providers.first]
type = "openai"
url = "{first}"
api_key = "env:FIRST_KEY"

[providers.second]
type = "anthropic"
url = "{second}"
api_key = "env:SECOND_KEY"

[models."gpt-4o*"]
targets = [{{ provider = "first" }}]
fallback = [{{ provider = "second", model = "claude-x" }}]

[models."claude*"]
targets = [{{ provider = "second" }}]
"""
LIMITED = b'{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded","param":null}}'


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(stack: Stack, provider: ScriptedProvider, collector: Collector) -> SentinelProcess:
    """A Sentinel with traces and a scripted provider."""
    return stack.sentinel(collector.settings(OTEL_SERVICE_NAME="edge"), OPENAI_API_URL=provider.url)


@pytest.fixture(autouse=True)
def answers(provider: ScriptedProvider) -> None:
    provider.calls.clear()
    provider.says(OK)


def spans_of(collector: Collector, answer: Answer, count: int) -> list[SeenSpan]:
    return collector.of(answer.headers["x-request-id"], count)


def line_of(sentinel: SentinelProcess, answer: Answer) -> dict[str, Any]:
    """The line that it has left in the log."""
    request_id = answer.headers["x-request-id"]

    def found() -> list[dict[str, Any]]:
        return [line for line in sentinel.log() if line.get("request_id") == request_id and line["event"] == "request"]

    return wait_until(found, "a line in the log")[0]


def is_seen(collector: Collector, answer: Answer) -> bool:
    """Whether any span of it has come."""
    request_id = answer.headers["x-request-id"]
    return any(span.attributes.get("sentinel.request_id") == request_id for span in collector.spans)


class TestARequest:
    def test_is_a_span_with_one_below_it(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, token: str
    ) -> None:
        """Ours is a trace of its own, the provider's is its child; both say what conventions ask for."""
        before = time.time_ns()
        answer = post(traced, token, chat("my prompt"))
        server, client = spans_of(collector, answer, 2)
        assert (server.name, server.kind, server.parent, server.failed) == (f"POST {CHAT}", SERVER, "", False)
        assert (client.name, client.kind, client.parent) == ("chat gpt-4o-mini", CLIENT, server.id)
        assert server.trace == client.trace
        assert before < server.start <= client.start <= client.end <= server.end < time.time_ns()
        address, port = provider.url.removeprefix("http://").removesuffix("/v1").split(":")
        assert client.attributes == {
            "http.request.method": "POST",
            "http.response.status_code": 200,
            "server.address": address,
            "server.port": int(port),
            "sentinel.provider": "openai",
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4o-mini",
            "gen_ai.response.finish_reasons": ["stop"],
            "gen_ai.usage.input_tokens": 50,
            "gen_ai.usage.output_tokens": 20,
            "gen_ai.usage.cache_read.input_tokens": 30,
            "gen_ai.usage.reasoning.output_tokens": 12,
        }
        line = line_of(traced, answer)
        assert (line["trace_id"], line["span_id"]) == (server.trace, server.id)
        assert server["sentinel.overhead_ms"] > 0
        assert {**server.attributes, "sentinel.overhead_ms": 0, "sentinel.request_id": ""} == {
            "http.request.method": "POST",
            "http.route": CHAT,
            "url.path": CHAT,
            "url.scheme": "http",
            "http.response.status_code": 200,
            "client.address": "127.0.0.1",
            "user.id": "ana",
            "sentinel.request_id": "",
            "sentinel.outcome": "ok",
            "sentinel.provider": "openai",
            "sentinel.model": "gpt-4o-mini",
            "sentinel.tokens_from": "provider",
            "sentinel.overhead_ms": 0,
            "sentinel.input_tokens": 50,
            "sentinel.output_tokens": 20,
        }

    def test_says_who_has_sent_it(self, traced: SentinelProcess, collector: Collector, token: str) -> None:
        """The service by its own name, and each process as an instance of it."""
        server, _ = spans_of(collector, post(traced, token, chat()), 2)
        assert server.resource["service.name"] == "edge"
        assert server.resource["service.version"]
        assert server.resource["service.instance.id"]
        assert server.resource["telemetry.sdk.language"] == "python"

    def test_as_a_stream(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, token: str
    ) -> None:
        """The provider's span lasts until its last event, and tells when the first one came."""
        usage = {**LAST, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}
        end = [b"data: %b\n\n" % json.dumps(each).encode() for each in (LAST, usage)]
        provider.streams(*words(3), *end, b"data: [DONE]\n\n")
        server, client = spans_of(collector, post(traced, token, chat(stream=True)), 2)
        assert client["gen_ai.request.stream"] is True
        lasted = (client.end - client.start) / 1e9
        assert 0 < client["gen_ai.response.time_to_first_chunk"] < lasted
        assert client["gen_ai.response.finish_reasons"] == ["length"]
        assert (client["gen_ai.usage.input_tokens"], client["gen_ai.usage.output_tokens"]) == (9, 3)
        # Five writes with two milliseconds between them.
        assert lasted > 0.008
        assert not server.failed

    def test_that_breaks_midway(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, token: str
    ) -> None:
        """Both have failed, though the status was 200."""
        provider.streams(*words(3), cut=True)
        server, client = spans_of(collector, post(traced, token, chat(stream=True)), 2)
        assert (server.failed, client.failed) == (True, True)
        assert (server["http.response.status_code"], client["http.response.status_code"]) == (200, 200)
        assert server["sentinel.outcome"] == "broken"
        assert client["error.type"] == server["error.type"] == "upstream_error"

    def test_that_is_refused(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, token: str
    ) -> None:
        """Before anything was sent on: one span, which is no error of ours."""
        (server,) = spans_of(collector, post(traced, "unknown-token", chat()), 1)
        assert (server["http.response.status_code"], server["sentinel.error"], server.failed) == (
            401,
            "invalid_api_key",
            False,
        )
        assert "error.type" not in server.attributes
        assert "user.id" not in server.attributes
        (unread,) = spans_of(collector, post(traced, token, b"{"), 1)
        assert (unread["sentinel.outcome"], unread["user.id"]) == ("refused", "ana")
        assert provider.posts() == []

    def test_that_the_provider_refuses(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, token: str
    ) -> None:
        """A 400 is the provider's error, and not ours; where it cannot be answered, it is ours, too."""
        provider.says(b'{"error":{"message":"no","type":"invalid_request_error"}}', status=400)
        server, client = spans_of(collector, post(traced, token, chat()), 2)
        assert (server.failed, client.failed, client["error.type"]) == (False, True, "400")
        provider.says(LIMITED, status=500)
        server, client = spans_of(collector, post(traced, token, chat()), 2)
        assert (server.failed, server["error.type"], client["error.type"]) == (True, "upstream_error", "500")
        assert server["http.response.status_code"] == 502

    def test_is_sent_twice_where_our_own_addition_is_refused(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, token: str
    ) -> None:
        """Each has a span, and the provider was told each by its own id."""
        provider.says(b'{"error":{"message":"Unknown parameter: stream_options"}}', status=400)
        server, first, second = spans_of(collector, post(traced, token, chat(stream=True)), 3)
        assert (first["http.response.status_code"], second["http.request.resend_count"]) == (400, 1)
        told = [call.headers["traceparent"] for call in provider.posts()]
        assert told == [f"00-{server.trace}-{each.id}-03" for each in (first, second)]

    def test_whose_client_leaves(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, token: str
    ) -> None:
        """No error of anybody's; what was delivered is told as spent."""
        gate = threading.Event()
        provider.streams(*words(3), gate=gate)
        count = len(collector.spans)
        with raw_connection(traced) as connection:
            body = json.dumps(chat(stream=True)).encode()
            given = (f"Authorization: Bearer {token}", f"Content-Length: {len(body)}")
            connection.sendall(head(headers=given) + body)
            got = b""
            while b" word" not in got:
                got += connection.recv(65536)
            reset(connection)
        gate.set()
        wait_until(lambda: len(collector.spans) >= count + 2, "spans")
        server, client = sorted(collector.spans[count:], key=lambda span: span.kind)
        assert (server["sentinel.outcome"], server.failed, client.failed) == ("client_gone", False, False)
        assert client["gen_ai.usage.output_tokens"] == 1

    def test_of_other_routes(self, traced: SentinelProcess, collector: Collector, token: str) -> None:
        """By the route's form and never by its path, which may name what it likes; those of machines have none."""
        (models,) = spans_of(collector, send(traced, "GET", "/v1/models/gpt-4o-mini", token), 1)
        assert (models.name, models["url.path"]) == ("GET /v1/models/{model}", "/v1/models/{model}")
        (unknown,) = spans_of(collector, send(traced, "GET", "/nobody@corp.test", token), 1)
        assert (unknown.name, unknown["url.path"]) == ("GET", "/*")
        (odd,) = spans_of(collector, send(traced, "PROPFIND", "/v1/models", token), 1)
        assert (odd.name, odd["http.request.method"]) == ("HTTP /v1/models", "_OTHER")
        assert all(
            span.attributes.get("http.route") != "/health/ready" for span in collector.spans if span.kind == SERVER
        )

    def test_that_is_passed_through(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, token: str
    ) -> None:
        """It is no work of a model: the provider's span has its method for a name."""
        provider.says(b'{"id":"thread_1","object":"thread"}')
        server, client = spans_of(collector, send(traced, "POST", "/v1/threads", token, {}), 2)
        assert (server.name, server["url.path"]) == ("POST /v1/{path}", "/v1/threads")
        assert (client.name, client["http.response.status_code"]) == ("POST", 200)
        assert not [name for name in client.attributes if name.startswith("gen_ai.")]
        assert provider.calls[-1].headers["traceparent"] == f"00-{server.trace}-{client.id}-03"

    def test_of_another_operation(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, token: str
    ) -> None:
        """Each by the conventions' name."""
        vector = {"object": "embedding", "index": 0, "embedding": [0.1]}
        usage = {"prompt_tokens": 3, "total_tokens": 3}
        provider.says(json.dumps({"object": "list", "data": [vector], "model": "e", "usage": usage}).encode())
        body = {"model": "text-embedding-3-small", "input": "hi"}
        _, client = spans_of(collector, post(traced, token, body, EMBEDDINGS), 2)
        assert client.name == "embeddings text-embedding-3-small"

    def test_tells_no_secret(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, stack: Stack
    ) -> None:
        """No prompt, answer, token, key or address is in what the collector gets, nor how the client calls itself."""
        _, token = stack.user("eve@corp.test", external_id="eve@corp.test")
        given = {"user_agent": "app (eve@corp.test)", "baggage": "user=eve", "cookie": "a=b", "tracestate": "x=1"}
        answer = post(traced, token, chat("my prompt"), traceparent=SAMPLED, **given)
        server, _ = spans_of(collector, answer, 2)
        assert re.fullmatch(r"sha256:[0-9a-f]{16}", server["user.id"])
        assert server["user_agent.original"] == "app *"
        seen = b"".join(call.raw for call in collector.calls)
        for secret in (b"my prompt", b"secret thing", token.encode(), b"@corp.test", b"sk-", b"user=eve", b"a=b"):
            assert secret not in seen
        assert "baggage" not in provider.posts()[0].headers


class TestContext:
    def test_of_the_client_is_gone_on_with(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, token: str
    ) -> None:
        """Our span is below the client's, and the provider is told of ours for it."""
        answer = post(traced, token, chat(), traceparent=SAMPLED, tracestate="vendor=1,other=2")
        server, client = spans_of(collector, answer, 2)
        assert (server.trace, server.parent, server.state) == (TRACE, SPAN, "vendor=1,other=2")
        headers = provider.posts()[0].headers
        assert headers["traceparent"] == f"00-{TRACE}-{client.id}-01"
        assert headers["tracestate"] == "vendor=1,other=2"

    @pytest.mark.parametrize("wrong", ["00-0-0-01", f"00-{TRACE}-{SPAN}-01-x", f"ff-{TRACE}-{SPAN}-01", "nonsense"])
    def test_that_is_wrong_is_none(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, token: str, wrong: str
    ) -> None:
        """A trace begins here, and what came with the wrong one is forgotten."""
        answer = post(traced, token, chat(), traceparent=wrong, tracestate="vendor=1")
        server, client = spans_of(collector, answer, 2)
        assert (server.parent, server.trace != TRACE, server.state) == ("", True, "")
        assert provider.posts()[0].headers["traceparent"] == f"00-{server.trace}-{client.id}-03"
        assert "tracestate" not in provider.posts()[0].headers

    def test_whose_state_is_wrong(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, token: str
    ) -> None:
        """That is forgotten, and the rest holds; what it says is in no log."""
        answer = post(traced, token, chat(), traceparent=SAMPLED, tracestate="a secret word")
        server, _ = spans_of(collector, answer, 2)
        assert (server.trace, server.parent, server.state) == (TRACE, SPAN, "")
        assert "tracestate" not in provider.posts()[0].headers
        line_of(traced, answer)
        assert "secret word" not in json.dumps(traced.log())

    def test_that_is_not_sampled_is_passed_on(
        self, traced: SentinelProcess, collector: Collector, provider: ScriptedProvider, token: str
    ) -> None:
        """By default we record what the client records; the provider learns of it, and so does the log."""
        answer = post(traced, token, chat(), traceparent=UNSAMPLED)
        told = re.fullmatch(f"00-{TRACE}-([0-9a-f]{{16}})-00", provider.posts()[0].headers["traceparent"])
        assert told is not None
        assert told[1] != SPAN
        spans_of(collector, post(traced, token, chat()), 2)
        assert not is_seen(collector, answer)
        line = line_of(traced, answer)
        assert line["trace_id"] == TRACE

    def test_is_not_passed_on_without_tracing(
        self, stack: Stack, scripted: SentinelProcess, provider: ScriptedProvider, token: str
    ) -> None:
        """The provider gets nothing of it, and the log has no ids."""
        answer = post(scripted, token, chat(), traceparent=SAMPLED, tracestate="vendor=1")
        assert answer.status == 200
        assert not {"traceparent", "tracestate"} & set(provider.posts()[0].headers)
        assert "trace_id" not in line_of(scripted, answer)


class TestSampling:
    def test_is_the_operators(self, stack: Stack, collector: Collector, provider: ScriptedProvider, token: str) -> None:
        """What a client samples is then of no interest."""
        settings = collector.settings(OTEL_TRACES_SAMPLER="always_off")
        sentinel = stack.sentinel(settings, OPENAI_API_URL=provider.url)
        answer = post(sentinel, token, chat(), traceparent=SAMPLED)
        assert provider.posts()[0].headers["traceparent"].endswith("-00")
        assert sentinel.stop() == 0
        assert not is_seen(collector, answer)

    def test_by_a_ratio(self, stack: Stack, collector: Collector, provider: ScriptedProvider, token: str) -> None:
        """Traces are whole or not at all."""
        settings = collector.settings(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0.5")
        sentinel = stack.sentinel(settings, OPENAI_API_URL=provider.url)
        count = len(collector.spans)
        for _ in range(40):
            assert post(sentinel, token, chat()).status == 200
        assert sentinel.stop() == 0
        spans = collector.spans[count:]
        told = {call.headers["traceparent"] for call in provider.posts()}
        sampled = {each.split("-")[1] for each in told if each.endswith("-03")}
        assert 0 < len(sampled) < 40
        assert {span.trace for span in spans} == sampled
        assert len(spans) == 2 * len(sampled)


class TestSeveralProviders:
    @pytest.fixture
    def second(self) -> Iterator[ScriptedProvider]:
        with ScriptedProvider() as second:
            yield second

    @pytest.fixture
    def house(
        self, stack: Stack, provider: ScriptedProvider, second: ScriptedProvider, collector: Collector, tmp_path: Path
    ) -> SentinelProcess:
        path = tmp_path / "sentinel.toml"
        path.write_text(TWO.format(first=provider.url, second=second.url.removesuffix("/v1")))
        keys = {"FIRST_KEY": "first-key-0123456789", "SECOND_KEY": "second-key-0123456789"}
        opt_in = "http,gen_ai/dup"
        return stack.sentinel(
            {**collector.settings(OTEL_SEMCONV_STABILITY_OPT_IN=opt_in), **keys, "SENTINEL_CONFIG": str(path)}
        )

    def test_each_attempt_is_a_span(
        self,
        house: SentinelProcess,
        collector: Collector,
        provider: ScriptedProvider,
        second: ScriptedProvider,
        token: str,
    ) -> None:
        """Two below one: who was asked, what came of it, what that cost; one after the other."""
        provider.says(LIMITED, status=429, headers=[("retry-after", "7")])
        second.says(OK)
        answer = post(house, token, chat())
        assert answer.status == 200
        server, first, other = spans_of(collector, answer, 3)
        assert (first.parent, other.parent) == (server.id, server.id)
        assert first.end <= other.start
        assert (first.name, other.name) == ("chat gpt-4o-mini", "chat claude-x")
        assert (first["gen_ai.provider.name"], other["gen_ai.provider.name"]) == ("openai", "anthropic")
        assert (first["error.type"], first["sentinel.retry_after_seconds"], first.failed) == ("429", 7.0, True)
        assert (other["http.request.resend_count"], other["sentinel.provider"]) == (1, "second")
        assert "gen_ai.usage.input_tokens" not in first.attributes
        assert other["gen_ai.usage.input_tokens"] == 50
        assert (server["sentinel.provider"], server["sentinel.model"]) == ("second", "gpt-4o-mini")
        told = [each.posts()[0].headers["traceparent"].split("-")[2] for each in (provider, second)]
        assert told == [first.id, other.id]

    def test_old_names_where_they_are_asked_for(
        self, house: SentinelProcess, collector: Collector, second: ScriptedProvider, token: str
    ) -> None:
        """Beside the new ones, for dashboards that read those."""
        _, client = spans_of(collector, post(house, token, chat()), 2)
        assert client["gen_ai.system"] == client["gen_ai.provider.name"] == "openai"
        assert (client["gen_ai.usage.prompt_tokens"], client["gen_ai.usage.completion_tokens"]) == (50, 20)

    def test_a_provider_that_is_away(self, stack: Stack, collector: Collector, token: str, tmp_path: Path) -> None:
        """Its span has the code of our error, and no status."""
        url = f"http://127.0.0.1:{free_port()}/v1"
        sentinel = stack.sentinel(collector.settings(), OPENAI_API_URL=url)
        server, client = spans_of(collector, post(sentinel, token, chat()), 2)
        assert (client["error.type"], client.failed) == ("upstream_error", True)
        assert "http.response.status_code" not in client.attributes
        assert server["http.response.status_code"] == 502

    def test_what_is_translated_says_so(
        self, house: SentinelProcess, collector: Collector, second: ScriptedProvider, token: str
    ) -> None:
        """The operation is the client's, the provider the one that was asked."""
        usage = {"input_tokens": 11, "output_tokens": 3}
        text = {"type": "text", "text": "hi"}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [text]}
        second.says(OK)
        answer = post(house, token, {"model": "claude-x", "input": "hi"}, RESPONSES)
        _, client = spans_of(collector, answer, 2)
        assert (client["sentinel.translated"], client["gen_ai.provider.name"]) == (True, "anthropic")
        second.says(json.dumps({**message, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}).encode())
        answer = post(house, token, {**chat(), "model": "claude-x", "max_tokens": 9}, MESSAGES)
        _, client = spans_of(collector, answer, 2)
        assert "sentinel.translated" not in client.attributes


@pytest.fixture(scope="module")
def simulated(stack: Stack, collector: Collector) -> SentinelProcess:
    """A Sentinel with traces and the simulated provider."""
    return stack.sentinel(collector.settings())


class TestOverASocket:
    async def test_each_response_is_below_the_session(
        self, stack: Stack, simulated: SentinelProcess, collector: Collector, token: str
    ) -> None:
        """The handshake is told of to the provider; each response is a span of its own below it."""
        calls = len(stack.simulators.openai.calls)
        async with talk(simulated, token, additional_headers={"traceparent": SAMPLED}) as one:
            assert (await one.ask())[-1]["type"] == "response.completed"
        found = _session(collector, "GET /v1/responses", 2)
        session, response = found
        assert (session.parent, session["http.response.status_code"]) == (SPAN, 101)
        assert response.parent == session.id
        (handshake,) = collector.of(session["sentinel.request_id"], 2)[1:]
        assert (handshake["http.response.status_code"], handshake["server.address"]) == (101, "127.0.0.1")
        (client,) = collector.of(response["sentinel.request_id"], 2)[1:]
        assert (client.name, client["gen_ai.usage.output_tokens"] > 0) == ("chat gpt-4o-mini", True)
        asked = [call.headers.get("traceparent") for call in list(stack.simulators.openai.calls)[calls:]]
        assert f"00-{TRACE}-{handshake.id}-01" in asked

    async def test_so_is_one_of_a_realtime_session(
        self, simulated: SentinelProcess, collector: Collector, token: str
    ) -> None:
        """It has no request of its own to the provider, and a span all the same."""
        count = len(collector.spans)
        async with talk(simulated, token, "/v1/realtime?model=gpt-realtime") as one:
            said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say hello"}]}
            await one.say(type="session.update", session={"type": "realtime", "output_modalities": ["text"]})
            await one.say(type="conversation.item.create", item=said)
            await one.say(type="response.create")
            await one.hear_until("response.done", "error")
        session, response = _session(collector, "GET /v1/realtime", 2, count)
        assert response.parent == session.id
        (client,) = collector.of(response["sentinel.request_id"], 2)[1:]
        assert (client.name, client["gen_ai.provider.name"]) == ("chat gpt-realtime", "openai")
        assert client["gen_ai.usage.output_tokens"] > 0
        assert client["server.address"] == "127.0.0.1"


def _session(collector: Collector, name: str, count: int, after: int = 0) -> list[SeenSpan]:
    """The server spans of this name, the session's first."""

    def found() -> list[SeenSpan] | None:
        spans = [span for span in collector.spans[after:] if span.name == name]
        return sorted(spans, key=lambda span: span.start) if len(spans) >= count else None

    return wait_until(found, f"{count} spans of {name}")
