"""Many providers behind one door: who is asked, who is asked next, and in which words (DESIGN section 9).

Covers `providers.py`, `proxy/attempts.py`, `proxy/adaptation.py`, `proxy/key_pool.py`, `proxy/doors.py`,
`proxy/token_command.py`, `proxy/translated.py`, `cache/breaker_news.py`, `cache/channel.py`.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic as AnthropicSdk
from openai import OpenAI

from sentinel.dev.ports import free_port
from sentinel.dev.simulators import Provider, start_provider
from sentinel.dev.vendors.anthropic import Anthropic
from tests.support.scripted import Script, ScriptedProvider, words
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import COUNT_TOKENS, INPUT_TOKENS, RESPONSES, post, send
from tests.support.waiting import wait_until

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "served",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
OK = json.dumps(ANSWER).encode()
LIMITED = b'{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded","param":null}}'
ASK: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


GEMINI: dict[str, Any] = {"contents": [{"parts": [{"text": "hi"}]}]}


class House:
    """Two providers, and Sentinels with files that name them."""

    def __init__(self, stack: Stack, folder: Path, first: ScriptedProvider, second: ScriptedProvider) -> None:
        self.stack = stack
        self.folder = folder
        self.first, self.second = first, second

    def file(self, text: str) -> Path:
        path = self.folder / "sentinel.toml"
        path.write_text(text.format(first=self.first.url, second=self.second.url))
        return path

    def sentinel(self, text: str, **settings: str) -> SentinelProcess:
        keys = {"FIRST_KEY": "first-key-0123456789", "SECOND_KEY": "second-key-0123456789"}
        return self.stack.sentinel({"SENTINEL_CONFIG": str(self.file(text)), **keys, **settings})


TWO = """
[providers.first]
type = "openai"
url = "{first}"
api_key = "env:FIRST_KEY"

[providers.second]
type = "compatible"
url = "{second}"
api_key = "env:SECOND_KEY"
"""
FALLBACK = f"""{TWO}
[models."gpt-4o*"]
targets = [{{{{ provider = "first" }}}}]
fallback = [{{{{ provider = "second", model = "other/gpt" }}}}]
"""


@pytest.fixture
def house(stack: Stack, tmp_path: Path) -> Iterator[House]:
    with ScriptedProvider() as first, ScriptedProvider() as second:
        first.says(OK)
        second.says(OK)
        yield House(stack, tmp_path, first, second)


def used(stack: Stack, email: str) -> dict[str, int]:
    return stack.simulators.zion.used(email)


class TestAttempts:
    def test_the_first_target_serves(self, house: House, token: str) -> None:
        """With its own key, and the answer says who it was."""
        sentinel = house.sentinel(FALLBACK)
        answer = post(sentinel, token, ASK)
        assert (answer.status, answer.headers["x-sentinel-provider"]) == (200, "first")
        assert house.first.posts()[0].headers["authorization"] == "Bearer first-key-0123456789"
        assert house.second.posts() == []

    @pytest.mark.parametrize("status", [401, 402, 403, 408, 429, 500, 503])
    def test_another_target_serves_where_the_first_fails(self, house: House, token: str, status: int) -> None:
        """In its own words for the model, and all other bytes as they were; billed once."""
        sentinel = house.sentinel(FALLBACK)
        _, token = house.stack.user(f"status{status}@corp.test")
        house.first.says(LIMITED, status=status)
        body = b'{ "model" : "gpt-4o",\n "messages":[{"role":"user","content":"gpt-4o"}], "x": 1.10 }'
        answer = post(sentinel, token, body)
        assert (answer.status, answer.headers["x-sentinel-provider"]) == (200, "second")
        assert house.second.posts()[0].raw == body.replace(b'"gpt-4o",\n', b'"other/gpt",\n')
        (line,) = sentinel.ended(user=f"status{status}")
        told = [(attempt["provider"], attempt["result"]) for attempt in line["attempts"]]
        assert told == [("first", str(status)), ("second", "200")]
        assert (line["model"], line["provider"]) == ("gpt-4o", "second")
        wait_until(lambda: used(house.stack, f"status{status}@corp.test")["ai_requests"], "usage")
        assert used(house.stack, f"status{status}@corp.test") == {
            "ai_requests": 1, "ai_input_tokens": 5, "ai_output_tokens": 2
        }  # fmt: skip

    def test_a_target_that_cannot_be_reached(self, house: House, token: str) -> None:
        """The next one serves, streams as well."""
        text = FALLBACK.replace("{first}", f"http://127.0.0.1:{free_port()}/v1")
        sentinel = house.sentinel(text)
        house.second.streams(*words(3), b"data: [DONE]\n\n")
        answer = post(sentinel, token, {**ASK, "stream": True})
        assert (answer.status, answer.text) == (200, " word" * 3)

    def test_what_is_wrong_with_a_request_is_its_clients(self, house: House, token: str) -> None:
        """400 passes, and nobody else is asked."""
        sentinel = house.sentinel(FALLBACK)
        house.first.says(
            b'{"error":{"message":"no","type":"invalid_request_error","code":null,"param":"x"}}', status=400
        )
        assert post(sentinel, token, ASK).status == 400
        assert house.second.posts() == []

    def test_a_stream_that_has_begun_is_nobody_elses(self, house: House, token: str) -> None:
        """It ends with an error event."""
        sentinel = house.sentinel(FALLBACK)
        house.first.streams(*words(2), cut=True)
        answer = post(sentinel, token, {**ASK, "stream": True})
        assert "error" in answer.events[-1]
        assert house.second.posts() == []

    def test_all_are_limited(self, house: House, token: str) -> None:
        """The client gets the last 429; the next one, whom all have told to wait, 503 with Retry-After."""
        sentinel = house.sentinel(FALLBACK)
        for provider in (house.first, house.second):
            provider.says(LIMITED, status=429, headers=[("retry-after", "30")])
        answer = post(sentinel, token, ASK)
        assert (answer.status, answer.json["error"]["message"]) == (429, "slow down")
        answer = post(sentinel, token, ASK)
        assert answer.is_error(503, "service_unavailable", "server_error")
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert len(house.first.posts()) == len(house.second.posts()) == 1

    def test_a_target_that_goes_on_failing_is_left_alone(self, house: House, token: str) -> None:
        """After five failures in a row nobody waits for it any more."""
        sentinel = house.sentinel(FALLBACK)
        house.first.says(b"{}", status=500)
        answers = [post(sentinel, token, ASK) for _ in range(8)]
        assert {answer.status for answer in answers} == {200}
        assert len(house.first.posts()) == 5
        assert len(house.second.posts()) == 8

    def test_one_model_that_is_limited_keeps_no_other_from_its_target(self, house: House, token: str) -> None:
        """What a provider says of one model, and in one format, says nothing of the rest."""
        sentinel = house.sentinel(FALLBACK)
        house.first.says(LIMITED, status=429, headers=[("retry-after", "30")])
        assert post(sentinel, token, ASK).headers["x-sentinel-provider"] == "second"
        house.first.says(OK)
        assert post(sentinel, token, ASK).headers["x-sentinel-provider"] == "second"
        mini = {**ASK, "model": "gpt-4o-mini"}
        assert post(sentinel, token, mini).headers["x-sentinel-provider"] == "first"
        asked = {"model": "gpt-4o", "prompt": "hi"}
        assert post(sentinel, token, asked, "/v1/completions").headers["x-sentinel-provider"] == "first"

    def test_another_key_of_a_target_with_room_for_one(self, house: House, token: str) -> None:
        """A second attempt there is no second request there."""
        text = FALLBACK.replace('"env:FIRST_KEY"', '["env:FIRST_KEY", "env:SECOND_KEY"]')
        sentinel = house.sentinel(text.replace('provider = "first" }', 'provider = "first", concurrency = 1 }'))
        house.first.refuses = {"Bearer first-key-0123456789"}
        for _ in range(2):
            assert post(sentinel, token, ASK).headers["x-sentinel-provider"] == "first"
        assert len(house.first.posts()) == 3

    def test_weights_share_out(self, house: House, token: str) -> None:
        """Nine to one, roughly."""
        text = (
            TWO
            + """
[models."*"]
targets = [{{ provider = "first", weight = 9 }}, {{ provider = "second", weight = 1 }}]
"""
        )
        sentinel = house.sentinel(text)
        for _ in range(60):
            assert post(sentinel, token, ASK).status == 200
        assert len(house.first.posts()) > 3 * len(house.second.posts())

    def test_no_more_than_a_target_may_have(self, house: House, token: str) -> None:
        """Who comes beyond that goes to the next one."""
        text = (
            TWO
            + """
[models."*"]
targets = [{{ provider = "first", concurrency = 1 }}]
fallback = [{{ provider = "second" }}]
"""
        )
        sentinel = house.sentinel(text)
        gate = threading.Event()
        house.first.streams(*words(2), b"data: [DONE]\n\n", gate=gate)
        slow = threading.Thread(target=post, args=(sentinel, token, {**ASK, "stream": True}))
        slow.start()
        try:
            wait_until(house.first.posts, "the first target is busy")
            assert post(sentinel, token, ASK).headers["x-sentinel-provider"] == "second"
        finally:
            gate.set()
            slow.join(30)
        house.first.says(OK)
        wait_until(lambda: post(sentinel, token, ASK).headers["x-sentinel-provider"] == "first", "room again")


class TestObjects:
    TEXT = (
        TWO.replace('type = "compatible"', 'type = "openai"')
        + """
[models."*"]
targets = [{{ provider = "first" }}]
[models."other"]
targets = [{{ provider = "second" }}]
fallback = [{{ provider = "first" }}]
"""
    )

    def test_what_goes_on_from_a_response_goes_where_that_is(self, house: House, token: str) -> None:
        """Whatever model it asks for; nobody else has it."""
        sentinel = house.sentinel(self.TEXT)
        told = {
            "object": "response",
            "status": "completed",
            "output": [],
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
        for provider, name in ((house.first, "resp_first"), (house.second, "resp_second")):
            provider.says(json.dumps({"id": name, **told}).encode())
        ask = {"model": "other", "input": "hi"}
        assert post(sentinel, token, ask, RESPONSES).json["id"] == "resp_second"
        more = {"model": "gpt-4o", "input": "more", "previous_response_id": "resp_second"}
        assert post(sentinel, token, more, RESPONSES).headers["x-sentinel-provider"] == "second"
        assert send(sentinel, "GET", "/v1/responses/resp_second", token).status == 200
        assert house.second.calls[-1].path == "/v1/responses/resp_second"
        assert post(sentinel, token, {"model": "gpt-4o", "input": "hi"}, RESPONSES).json["id"] == "resp_first"

    def test_what_has_no_model_goes_to_the_first_that_takes_such(self, house: House, token: str) -> None:
        """As files do, and what names them goes there, too."""
        sentinel = house.sentinel(self.TEXT)
        house.first.says(b'{"id":"vs_1","object":"vector_store"}')
        assert post(sentinel, token, {"name": "x"}, "/v1/vector_stores").json["id"] == "vs_1"
        assert house.second.posts() == []


class TestModels:
    def test_a_model_that_no_entry_names(self, house: House, token: str) -> None:
        """404, where there are several providers."""
        answer = post(house.sentinel(FALLBACK), token, {**ASK, "model": "nobody"})
        assert answer.is_error(404, "model_not_found", param="model")

    def test_a_format_that_no_target_speaks(self, house: House, token: str) -> None:
        """404 that says which formats the model has."""
        sentinel = house.sentinel(FALLBACK)
        answer = post(sentinel, token, GEMINI, "/v1beta/models/gpt-4o:generateContent")
        assert answer.status == 404
        assert "chat" in answer.error["message"]

    def test_the_list_is_what_can_be_reached(self, house: House, token: str) -> None:
        """Exact names, and what providers list that a prefix fits; nothing else of what they list."""
        text = (
            TWO
            + """
[models."gpt-4o*"]
targets = [{{ provider = "first" }}]
[models."my-model"]
targets = [{{ provider = "second", model = "b" }}]
"""
        )
        listing = {"data": [{"id": name, "object": "model"} for name in ("gpt-4o-mini", "o3")]}
        house.first.models = Script([json.dumps(listing).encode()])
        sentinel = house.sentinel(text)
        models = send(sentinel, "GET", "/v1/models", token).json["data"]
        assert sorted(model["id"] for model in models) == ["gpt-4o-mini", "my-model"]
        assert send(sentinel, "GET", "/v1/models/my-model", token).json["id"] == "my-model"
        assert send(sentinel, "GET", "/v1/models/o3", token).status == 404


class TestWords:
    def test_the_field_of_the_maximum(self, house: House, token: str) -> None:
        """Another name for the client's own; `stream_options` is not asked of who does not know it."""
        text = """
[providers.first]
type = "compatible"
url = "{first}"
max_tokens_field = "max_tokens"
stream_usage = false
"""
        sentinel = house.sentinel(text)
        house.first.streams(*words(1), b"data: [DONE]\n\n")
        post(sentinel, token, {**ASK, "stream": True, "max_completion_tokens": 7})
        body = house.first.posts()[0].body
        assert body == {**ASK, "stream": True, "max_tokens": 7}

    def test_usage_that_a_client_asks_a_stream_for(self, house: House, token: str) -> None:
        """Nor is it asked of who does not know it where a client has asked; the client gets what was counted."""
        text = """
[providers.first]
type = "compatible"
url = "{first}"
stream_usage = false
"""
        sentinel = house.sentinel(text)
        house.first.streams(*words(1), b"data: [DONE]\n\n")
        asked = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
        answer = post(sentinel, token, asked)
        assert answer.status == 200
        assert house.first.posts()[0].body == {**ASK, "stream": True}

    NAMES = """
[providers.first]
type = "{type}"
url = "{first}"
api_key = "env:FIRST_KEY"

[models."mine"]
targets = [{{ provider = "first", model = "theirs" }}]
"""

    @pytest.mark.parametrize(
        ("type_", "path", "body"),
        [
            (
                "gemini",
                "/v1beta/models/mine:batchEmbedContents",
                b'{"requests": [{"model":"models/mine", "content":{"parts":[{"text":"models/mine"}]}}]}',
            ),
            (
                "gemini",
                "/v1beta/models/mine:countTokens",
                b'{"generateContentRequest": {"model":"models/mine", "contents":[{"parts":[{"text":"hi"}]}]}}',
            ),
            ("openai", "/v1/realtime/client_secrets", b'{"session": {"type":"realtime","model":"mine"}}'),
        ],
    )
    def test_another_name_of_a_model_inside_of_a_body(
        self, house: House, token: str, type_: str, path: str, body: bytes
    ) -> None:
        """Is the provider's there, too; no other byte changes."""
        text = self.NAMES.replace("{type}", type_)
        url = house.first.url if type_ == "openai" else house.first.url.removesuffix("/v1")
        sentinel = house.sentinel(text.replace("{first}", url))
        post(sentinel, token, body, path)
        (call,) = house.first.posts()
        assert call.path.endswith(path.replace("mine", "theirs"))
        assert call.raw == body.replace(b'"models/mine", ', b'"models/theirs", ').replace(b'"mine"', b'"theirs"')


class TestKeys:
    POOL = """
[providers.first]
type = "openai"
url = "{first}"
api_key = ["env:FIRST_KEY", "env:SECOND_KEY"]
"""

    def test_a_pool_in_turns(self, house: House, token: str) -> None:
        """A key that is refused rests."""
        sentinel = house.sentinel(self.POOL)
        for _ in range(4):
            post(sentinel, token, ASK)
        keys = [call.headers["authorization"] for call in house.first.posts()]
        assert keys[:2] == keys[2:]
        assert len(set(keys)) == 2

    def test_a_key_that_is_refused_rests(self, house: House, token: str) -> None:
        """The request is served with another one, and so are those that follow."""
        sentinel = house.sentinel(self.POOL)
        house.first.refuses = {"Bearer first-key-0123456789"}
        answers = [post(sentinel, token, ASK) for _ in range(3)]
        assert {answer.status for answer in answers} == {200}
        keys = [call.headers["authorization"].split("-")[0] for call in house.first.posts()]
        assert sorted(keys) == ["Bearer first", "Bearer second", "Bearer second", "Bearer second"]

    def test_a_key_in_a_file_is_read_anew(self, house: House, token: str) -> None:
        """Without a restart."""
        key = house.folder / "key"
        key.write_text("key-before-0123456789\n")
        text = f"""
[providers.first]
type = "openai"
url = "{{first}}"
api_key = "file:{key}"
"""
        sentinel = house.sentinel(text)
        assert post(sentinel, token, ASK).status == 200
        key.write_text("key-after-0123456789\n")

        def shown() -> bool:
            post(sentinel, token, ASK)
            return house.first.posts()[-1].headers["authorization"] == "Bearer key-after-0123456789"

        wait_until(shown, "the new key")

    def test_a_token_of_a_command(self, house: House, token: str) -> None:
        """Shown as Azure wants it, instead of a key."""
        text = """
[providers.azure]
type = "azure"
url = "{first}"
token_command = ["echo", "entra-token-0123456789"]
"""
        sentinel = house.sentinel(text.replace("{first}", house.first.url.removesuffix("/v1")))
        assert post(sentinel, token, ASK).status == 200
        (call,) = house.first.posts()
        assert call.headers["authorization"] == "Bearer entra-token-0123456789"
        assert "api-key" not in call.headers


class TestReload:
    def test_a_new_file_serves_after_sighup(self, house: House, token: str) -> None:
        """A faulty one changes nothing, and the log tells each mistake with its line."""
        sentinel = house.sentinel(FALLBACK)
        assert post(sentinel, token, ASK).headers["x-sentinel-provider"] == "first"
        house.file(FALLBACK.replace('targets = [{{ provider = "first" }}]', 'targets = [{{ provider = "third" }}]'))
        sentinel.signal(signal.SIGHUP)
        faults = wait_until(lambda: [line for line in sentinel.log() if "mistakes" in line], "the mistakes")
        assert "line 13" in faults[0]["mistakes"][0]
        assert post(sentinel, token, ASK).headers["x-sentinel-provider"] == "first"
        house.file(FALLBACK.replace('targets = [{{ provider = "first" }}]', 'targets = [{{ provider = "second" }}]'))
        sentinel.signal(signal.SIGHUP)
        wait_until(lambda: post(sentinel, token, ASK).headers["x-sentinel-provider"] == "second", "the new file serves")

    def test_a_command_that_is_new_has_run_before_anybody_is_served_by_it(self, house: House, token: str) -> None:
        """And one that is as it was goes on with the token that it has."""
        azure = """
[providers.azure]
type = "azure"
url = "{first}"
token_command = ["echo", "{token}"]
{more}
"""
        url = house.first.url.removesuffix("/v1")
        sentinel = house.sentinel(FALLBACK)

        def shows(key: str) -> bool:
            answer = post(sentinel, token, ASK)
            told = answer.headers["x-sentinel-provider"], house.first.posts()[-1].headers["authorization"]
            return told == ("azure", f"Bearer {key}")

        for key, more in (("token-1", ""), ("token-1", "idle_timeout_seconds = 99"), ("token-2", "")):
            house.folder.joinpath("sentinel.toml").write_text(azure.format(first=url, token=key, more=more))
            sentinel.signal(signal.SIGHUP)
            wait_until(partial(shows, key), "the new file serves")
        keys = {call.headers.get("authorization", "none") for call in house.first.posts()}
        assert keys == {"Bearer first-key-0123456789", "Bearer token-1", "Bearer token-2"}

    def test_a_faulty_file_is_no_start(self, house: House) -> None:
        """All its mistakes at once, with their lines; a key that is not there is one."""
        text = TWO.replace("compatible", "compatibel").replace("FIRST_KEY", "NO_SUCH_KEY")
        sentinel = house.stack.sentinel(SENTINEL_CONFIG=str(house.file(text)), SECOND_KEY="k", start=False)
        with pytest.raises(AssertionError) as ended:
            sentinel.start(ready=False)
        assert "line 8: providers.second.type" in str(ended.value)


def test_processes_tell_one_another_whom_they_leave_alone(house: House, token: str) -> None:
    """What one has found out, another need not; the metrics say who is left alone."""
    one, other = house.sentinel(FALLBACK), house.sentinel(FALLBACK)
    house.first.says(LIMITED, status=429, headers=[("retry-after", "60")])
    assert post(one, token, ASK).headers["x-sentinel-provider"] == "second"

    def is_told() -> bool:
        text = other.request("GET", "/metrics").body.decode()
        return 'sentinel_targets_left_alone{provider="first"} 1.0' in text

    wait_until(is_told, "the other one knows")
    assert post(other, token, ASK).headers["x-sentinel-provider"] == "second"
    assert len(house.first.posts()) == 1
    assert (
        'sentinel_provider_attempts_total{provider="first",result="429"} 1.0'
        in one.request("GET", "/metrics").body.decode()
    )


class TestTranslation:
    TEXT = """
[providers.claude]
type = "anthropic"
url = "{claude}"
api_key = "env:FIRST_KEY"
formats = ["messages"]

[providers.gpt]
type = "openai"
url = "{gpt}"
api_key = "env:SECOND_KEY"

[models."claude-*"]
targets = [{ provider = "claude" }]
[models."gpt-*"]
targets = [{ provider = "gpt" }]
"""

    GPT = """
[providers.gpt]
type = "openai"
url = "{first}"
api_key = "env:FIRST_KEY"
"""

    @pytest.fixture
    def claude(self) -> Iterator[Provider]:
        with start_provider(Anthropic()) as provider:
            yield provider

    @pytest.fixture
    def sentinel(self, stack: Stack, claude: Provider, tmp_path: Path) -> SentinelProcess:
        file = tmp_path / "sentinel.toml"
        gpt = stack.simulators.openai_url
        file.write_text(self.TEXT.replace("{claude}", claude.url).replace("{gpt}", gpt))
        key = stack.simulators.openai_key
        return stack.sentinel(SENTINEL_CONFIG=str(file), FIRST_KEY=claude.simulator.api_key, SECOND_KEY=key)

    def test_a_claude_model_through_chat(self, stack: Stack, claude: Provider, sentinel: SentinelProcess) -> None:
        """As OpenAI's SDK asks, whole and streamed; billed what the provider says."""
        _, token = stack.user("claude@corp.test")
        ask: dict[str, Any] = claude_chat("[[tokens=3]]")
        with OpenAI(base_url=f"{sentinel.url}/v1", api_key=token, max_retries=0) as client:
            raw = client.chat.completions.with_raw_response.create(**ask)
            answer = raw.parse()
            assert raw.headers["x-sentinel-translated"] == "chat->messages"
            assert answer.choices[0].finish_reason == "stop"
            chunks = list(client.chat.completions.create(**ask, stream=True))
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            assert text == answer.choices[0].message.content
        whole, streamed = claude.simulator.billed
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == whole.prompt_tokens == streamed.prompt_tokens
        assert answer.usage.completion_tokens == whole.completion_tokens == streamed.completion_tokens == 3
        assert stack.booked(2, "claude@corp.test") == {
            "ai_requests": 2, "ai_input_tokens": 2 * whole.prompt_tokens, "ai_output_tokens": 6
        }  # fmt: skip

    def test_a_gpt_model_through_messages(self, sentinel: SentinelProcess, token: str) -> None:
        """As Anthropic's SDK asks, whole and streamed."""
        with AnthropicSdk(base_url=sentinel.url, api_key=token, max_retries=0) as client:
            ask: dict[str, Any] = {**claude_chat("[[tokens=3]]"), "model": "gpt-4o-mini", "max_tokens": 50}
            answer = client.messages.create(**ask)
            assert (len(answer.content[0].to_dict()["text"].split()), answer.stop_reason) == (3, "end_turn")
            with client.messages.stream(**ask) as stream:
                assert stream.get_final_text() == answer.content[0].to_dict()["text"]

    @pytest.mark.parametrize(
        ("path", "ask", "answer"),
        [
            (COUNT_TOKENS, ASK, {"input_tokens": 8}),
            (INPUT_TOKENS, {"model": "gpt-4o", "input": "hi"}, {"object": "response.input_tokens", "input_tokens": 8}),
        ],
    )
    def test_a_count_of_what_would_be_translated(
        self, house: House, path: str, ask: dict[str, Any], answer: dict[str, Any]
    ) -> None:
        """Is our own, for nobody has such a path; the log says what it is, and a window is all it takes."""
        sentinel = house.sentinel(f'{self.GPT}formats = ["chat"]', RATE_LIMITS="ai_requests=3/60s")
        name = "counts" + path.rpartition("/")[2].replace("_", "")
        _, token = house.stack.user(f"{name}@corp.test")
        counted = post(sentinel, token, ask, path)
        assert (counted.status, counted.json) == (200, answer)
        assert counted.headers["x-sentinel-translated"].endswith("->chat")
        assert post(sentinel, token, {**ask, "model": "claude-x"}, path).status == 200
        assert house.first.posts() == []
        lines = sentinel.ended(2, user=name)
        assert [(line["tokens_from"], line["input_tokens"], line["provider"]) for line in lines] == [
            ("count", 0, None), ("estimate", 0, None)
        ]  # fmt: skip
        assert post(sentinel, "nobody", ask, path).status == 401
        assert [post(sentinel, token, ask, path).status for _ in range(2)] == [200, 429]
        assert used(house.stack, f"{name}@corp.test")["ai_requests"] == 0

    def test_a_count_that_a_provider_has_no_path_for_under_its_own_name_of_the_model(
        self, house: House, token: str
    ) -> None:
        """What it says of that name is about the model, and stands."""
        sentinel = house.sentinel(f"""{self.GPT}
[models."mine"]
targets = [{{{{ provider = "gpt", model = "gpt-4o-2024" }}}}]
""")
        ask = {"model": "mine", "input": "hi"}
        house.first.says(b'{"error":{"message":"The model gpt-4o-2024 does not exist"}}', status=404)
        assert post(sentinel, token, ask, INPUT_TOKENS).status == 404
        house.first.says(b'{"error":{"message":"Invalid URL"}}', status=404)
        assert post(sentinel, token, ask, INPUT_TOKENS).status == 200

    def test_what_cannot_be_translated_is_refused(
        self, claude: Provider, sentinel: SentinelProcess, token: str
    ) -> None:
        """With the name of the field, in the client's own format; nobody is asked, nothing is spent."""
        answer = post(sentinel, token, {**claude_chat("hi"), "seed": 7})
        assert answer.is_error(400, "unsupported_parameter", param="seed")
        assert [call for call in claude.simulator.calls if call.method == "POST"] == []

    def test_a_limit_ends_a_translated_stream_in_the_clients_format(
        self, stack: Stack, sentinel: SentinelProcess
    ) -> None:
        """`length`, and what was delivered is charged."""
        _, token = stack.user("little@corp.test", limits={"ai_output_tokens": 4})
        answer = post(sentinel, token, {**claude_chat("[[tokens=20 ignores_max]]"), "stream": True})
        assert answer.finish_reasons == ["length"]
        assert answer.events[-1] == "[DONE]"

    def test_a_refusal_of_the_provider_is_in_the_clients_format(self, sentinel: SentinelProcess, token: str) -> None:
        """As OpenAI's clients read one."""
        answer = post(sentinel, token, claude_chat("[[status=400]]"))
        assert (answer.status, "told to refuse" in answer.error["message"]) == (400, True)


def claude_chat(text: str) -> dict[str, Any]:
    return {"model": "claude-haiku-5-5", "messages": [{"role": "user", "content": text}]}
