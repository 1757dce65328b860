"""Sentinel between a client and each vendor that it knows: asked as the vendor wants it, read as the vendor answers.

The providers are simulators with the vendors' habits (`dev/vendors`), over real sockets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, APIStatusError, OpenAI

from sentinel.dev.ports import free_port
from sentinel.dev.simulators import VENDORS, Provider, start_provider
from tests.support.client import Answer
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import GENERATE, RESPONSES, post
from tests.support.vendors import KEY
from tests.support.waiting import PATIENCE_SECONDS

COMMAND = str(Path(sys.executable).parent / "sentinel")
ALIASES = ("when-limited", "when-failing", "when-refused", "when-silent", "when-cut", "when-garbled")
"""Each is served by the vendor, else by OpenAI. Each has a breaker of its own, and so have those that are `alone`."""
KEY_HEADERS = {"azure": {"api-key": KEY}}
"""How a vendor is shown our key for a chat, where that is not Bearer."""
OWN_FORMATS = [
    ("anthropic", "/v1/messages", {"max_tokens": 9}, "/v1/messages", {"x-api-key": KEY}),
    ("gemini", GENERATE, {}, "/v1beta/models/gemini-2.5-flash:generateContent", {"x-goog-api-key": KEY}),
    ("openrouter", "/v1/messages", {"max_tokens": 9}, "/api/v1/messages", {"authorization": f"Bearer {KEY}"}),
]
"""A vendor, what a client asks Sentinel, and where and how that asks the vendor."""


@dataclass
class World:
    """A vendor's provider, OpenAI for where that fails, and a Sentinel."""

    stack: Stack
    provider: Provider
    sentinel: SentinelProcess
    environment: dict[str, str]

    @property
    def name(self) -> str:
        return self.provider.vendor.name

    def ask(self, **fields: Any) -> Answer:
        """One chat of a new user, with the vendor's model."""
        _, token = self.stack.user()
        return post(self.sentinel, token, {"model": self.provider.vendor.model, **said("hi"), **fields})

    def lines(self) -> list[str]:
        """What doctor says."""
        done = subprocess.run(
            [COMMAND, "doctor"],
            env={"PATH": os.environ["PATH"], **self.environment},
            cwd=self.sentinel.folder,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_SECONDS,
            check=False,
        )
        return [line for line in done.stdout.splitlines() if "provider first" in line]


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def configuration(provider: Provider, openai: str) -> str:
    """The file that SENTINEL_CONFIG names."""
    first = f'{{ provider = "first", model = "{provider.vendor.model}" }}'
    hasty = first.replace("first", "hasty")
    aliases = "".join(
        f'\n[models."{alias}"]\ntargets = [{hasty if alias == "when-silent" else first}]\n'
        'fallback = [{ provider = "second", model = "gpt-4o-mini" }]'
        for alias in ALIASES
    )
    return f"""
[providers.first]
{provider.vendor.lines}
url = "{provider.url}"
api_key = "env:FIRST_KEY"
[providers.hasty]
{provider.vendor.lines}
url = "{provider.url}"
api_key = "env:FIRST_KEY"
idle_timeout_seconds = 1
[providers.second]
type = "openai"
url = "{openai}"
api_key = "env:SECOND_KEY"
[models."*"]
targets = [{{ provider = "first" }}]
[models."alone"]
targets = [{first}]
[models."refused-alone"]
targets = [{first}]
{aliases}
"""


@pytest.fixture(scope="module", params=VENDORS)
def world(stack: Stack, request: pytest.FixtureRequest) -> Iterator[World]:
    with start_provider(VENDORS[request.param]()) as provider:
        file = stack.folder / f"{request.param}.toml"
        file.write_text(configuration(provider, stack.simulators.openai_url))
        keys = {"FIRST_KEY": KEY, "SECOND_KEY": stack.simulators.openai_key}
        sentinel = stack.sentinel({"SENTINEL_CONFIG": str(file), **keys})
        yield World(stack, provider, sentinel, sentinel.environment)
        sentinel.stop()


@pytest.fixture(autouse=True)
def _no_faults(world: World) -> Iterator[None]:
    yield
    world.provider.simulator.faults.clear()
    world.provider.simulator.api_key = KEY


@pytest.fixture
def sdk(world: World) -> Iterator[OpenAI]:
    _, token = world.stack.user()
    with OpenAI(base_url=f"{world.sentinel.url}/v1", api_key=token, max_retries=0, timeout=PATIENCE_SECONDS) as sdk:
        yield sdk


def test_chats_are_booked_once(world: World) -> None:
    """Whole and streamed, asked for usage and not: what the vendor bills is what is booked."""
    email = f"{world.name}@corp.test"
    _, token = world.stack.user(email)
    before = len(world.provider.simulator.billed)
    ask: dict[str, Any] = {"model": world.provider.vendor.model, **said("[[tokens=7]]")}
    with OpenAI(base_url=f"{world.sentinel.url}/v1", api_key=token, max_retries=0) as sdk:
        whole = sdk.chat.completions.create(**ask, max_completion_tokens=50)
        assert len((whole.choices[0].message.content or "").split()) == 7
        for streamed in (ask, {**ask, "stream_options": {"include_usage": True}}):
            chunks = list(sdk.chat.completions.create(**streamed, stream=True))
            text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
            assert len(text.split()) == 7
            assert any(chunk.usage for chunk in chunks) or streamed == ask
    bills = list(world.provider.simulator.billed)[before:]
    assert [(bill.completion_tokens, bill.state) for bill in bills] == [(7, "complete")] * 3
    assert world.stack.booked(3, email) == {
        "ai_requests": 3,
        "ai_input_tokens": sum(bill.prompt_tokens for bill in bills),
        "ai_output_tokens": 21,
    }


@pytest.mark.parametrize(("world", "path", "more", "asked", "key"), OWN_FORMATS, indirect=["world"])
def test_another_format_of_its_own(
    world: World, path: str, more: dict[str, Any], asked: str, key: dict[str, str]
) -> None:
    """With its path, the key in its header, and the vendor's name for the model; booked as it bills."""
    email = f"{world.name}-own@corp.test"
    _, token = world.stack.user(email)
    body = {"model": "alone", **said("[[tokens=3]]"), **more}
    if path == GENERATE:
        body = {"contents": [{"parts": [{"text": "[[tokens=3]]"}]}]}
    # Without a version of Anthropic's, which that insists on.
    headers = {"Authorization": f"Bearer {token}"}
    path = path.replace("gpt-4o-mini", "alone")
    version = {"anthropic-version": "2023-06-01"} if world.name == "openrouter" else {}
    answer = world.sentinel.request("POST", path, json.dumps(body).encode(), headers | version)
    assert answer.status == 200
    call, bill = world.provider.simulator.calls[-1], world.provider.simulator.billed[-1]
    assert (call.path, {name: value for name, value in call.headers.items() if KEY in value}) == (asked, key)
    assert bill.model == world.provider.vendor.model
    assert world.stack.booked(1, email) == {
        "ai_requests": 1, "ai_input_tokens": bill.prompt_tokens, "ai_output_tokens": 3
    }  # fmt: skip


def test_the_key_is_shown_as_it_wants_it(world: World) -> None:
    """And in no other header."""
    assert world.ask().status == 200
    headers = world.provider.simulator.calls[-1].headers
    keys = {name: value for name, value in headers.items() if KEY in value}
    assert keys == KEY_HEADERS.get(world.name, {"authorization": f"Bearer {KEY}"})


@pytest.mark.parametrize(
    ("alias", "fault", "result"),
    [
        ("when-limited", {"status": 429, "retry_after": "1"}, "429"),
        ("when-failing", {"status": 503}, "503"),
        ("when-silent", {"hang": True}, "upstream_timeout"),
        ("when-cut", {"drop": True}, "upstream_error"),
        ("when-garbled", {"body": b"<html>busy</html>", "status": 502}, "502"),
    ],
)
def test_another_one_serves_where_it_fails(world: World, alias: str, fault: dict[str, Any], result: str) -> None:
    """Limited, broken, silent, cut off, garbled: the log has what it was, and the next target is asked."""
    world.provider.simulator.faults.set(**fault)
    email = f"{world.name}-{alias}@corp.test"
    _, token = world.stack.user(email)
    answer = post(world.sentinel, token, {"model": alias, **said("[[tokens=3]]")})
    assert (answer.status, answer.headers["x-sentinel-provider"]) == (200, "second")
    (line,) = world.sentinel.ended(user=email.partition("@")[0])
    assert [attempt["result"] for attempt in line["attempts"]] == [result, "200"]
    assert world.stack.booked(1, email)["ai_output_tokens"] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_another_one_serves_where_our_key_is_refused(world: World, stream: bool) -> None:
    """Whatever the status that it refuses one with; where nobody else serves, that is no affair of the client's."""
    world.provider.simulator.api_key = "sk-another-key"
    answer = world.ask(model="when-refused", stream=stream)
    assert (answer.status, answer.headers["x-sentinel-provider"]) == (200, "second")
    alone = world.ask(model="refused-alone", stream=stream)
    assert alone.is_error(502, "upstream_error", "server_error")


def test_its_limit_is_the_clients_where_nobody_else_serves(world: World, sdk: OpenAI) -> None:
    """With its own words, so that an SDK knows what to do."""
    world.provider.simulator.faults.set(status=429, retry_after="1", times=1)
    with pytest.raises(APIStatusError) as limited:
        sdk.chat.completions.create(model="alone", **said("hi"))
    own, _ = world.provider.vendor.trouble(world.provider.simulator.calls[-1].path, 429, "1")
    assert (limited.value.status_code, limited.value.response.content) == (429, own)


def test_a_stream_that_fails_midway(world: World) -> None:
    """Reaches the client as an error; what was delivered is booked, once."""
    email = f"{world.name}-midway@corp.test"
    _, token = world.stack.user(email)
    ask: dict[str, Any] = {"model": world.provider.vendor.model, **said("[[tokens=9 error_after=4]]")}
    with OpenAI(base_url=f"{world.sentinel.url}/v1", api_key=token, max_retries=0) as sdk:
        chunks = iter(sdk.chat.completions.create(**ask, stream=True))
        texts = list[str]()
        with pytest.raises(APIError):
            texts.extend(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    booked = world.stack.booked(1, email)
    assert (booked["ai_requests"], booked["ai_output_tokens"]) == (1, 4)


def test_doctor_asks_it(world: World) -> None:
    """It is content, and knows a key that is not taken."""
    (line,) = world.lines()
    assert line.startswith("ok"), line
    if world.name != "openrouter":  # Its list is there for everybody.
        world.provider.simulator.api_key = "sk-another-key"
        (line,) = world.lines()
        assert "does not take our key" in line


@pytest.mark.parametrize("world", ["azure"], indirect=True)
def test_deployments_with_a_version(world: World, tmp_path: Path) -> None:
    """The same resource, asked as its older API wants it."""
    file = tmp_path / "sentinel.toml"
    text = configuration(world.provider, world.stack.simulators.openai_url)
    dated = 'api_version = "2024-10-21"\nformats = ["chat", "responses"]'
    file.write_text(text.replace("[providers.hasty]", f"{dated}\n[providers.hasty]"))
    sentinel = world.stack.sentinel({**world.environment, "SENTINEL_CONFIG": str(file)}, SENTINEL_PORT=str(free_port()))
    _, token = world.stack.user()
    answer = post(sentinel, token, {"model": "alone", "stream": True, **said("[[tokens=3]]")})
    assert answer.finish_reasons == ["stop"]
    call = world.provider.simulator.calls[-1]
    assert (call.path, call.query) == ("/openai/deployments/gpt-4o-mini/chat/completions", "api-version=2024-10-21")
    asked = {"model": "alone", "input": "[[tokens=3]]"}
    assert post(sentinel, token, asked, RESPONSES).json["usage"]["output_tokens"] == 3
    call = world.provider.simulator.calls[-1]
    assert (call.path, call.query) == ("/openai/responses", "api-version=2024-10-21")
    sentinel.stop()
