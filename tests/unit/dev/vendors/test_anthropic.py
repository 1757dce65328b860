"""The simulated Anthropic, seen by its SDK, by OpenAI's, and without."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import anthropic
import openai
import pytest

from sentinel.dev.vendors.anthropic import Anthropic
from tests.support import vendors
from tests.support.vendors import KEY, VendorClient, asked

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
MODEL = Anthropic.model
BEARER = {"authorization": f"Bearer {KEY}"}
chat = partial(vendors.chat, model=MODEL)


@pytest.fixture
def claude() -> Iterator[VendorClient]:
    with asked(Anthropic(), x_api_key=KEY, anthropic_version="2023-06-01") as claude:
        yield claude


def test_its_own_sdk(claude: VendorClient) -> None:
    """Messages, whole and streamed with pings, the count and the list; its errors, 529 among them."""
    with anthropic.Anthropic(base_url=claude.provider.url, api_key=KEY, max_retries=0) as sdk:
        asks: Any = {**chat("[[tokens=3]]"), "max_tokens": 9}
        assert sdk.messages.create(**asks).usage.output_tokens == 3
        with sdk.messages.stream(**asks) as stream:
            assert len(stream.get_final_text().split()) == 3
        assert sdk.messages.count_tokens(model=MODEL, messages=asks["messages"]).input_tokens > 0
        assert MODEL in {model.id for model in sdk.models.list()}
        assert sdk.models.retrieve(MODEL).display_name == MODEL
        claude.provider.simulator.faults.set(status=529, times=1)
        with pytest.raises(anthropic.APIStatusError) as overloaded:
            sdk.messages.create(**asks)
        assert (overloaded.value.status_code, overloaded.value.type) == (529, "overloaded_error")
        with (
            pytest.raises(anthropic.APIStatusError, match="Overloaded"),
            sdk.messages.stream(**{**asks, "messages": [{"role": "user", "content": "[[error_after=2]]"}]}) as stream,
        ):
            stream.get_final_text()
    assert claude.provider.simulator.billed[-1].state == "broken"
    assert b"event: ping" in claude.post(MESSAGES, {**asks, "stream": True}).body


def test_its_door_for_openais_sdk(claude: VendorClient) -> None:
    """Whole and streamed; what it ignores, and what it leaves out."""
    with openai.OpenAI(base_url=f"{claude.provider.url}/v1", api_key=KEY, max_retries=0) as sdk:
        form: Any = {"type": "json_object"}
        whole = sdk.chat.completions.create(
            **chat("[[tokens=3]]"), response_format=form, logprobs=True, seed=1, temperature=1.5, user="me"
        )
        assert len((whole.choices[0].message.content or "").split()) == 3
        assert whole.choices[0].logprobs is whole.system_fingerprint is whole.service_tier is None
        assert whole.usage
        assert (whole.usage.completion_tokens, whole.usage.completion_tokens_details) == (3, None)
        streamed = chat("[[tokens=3]]", stream_options={"include_usage": True})
        *_, last = sdk.chat.completions.create(**streamed, stream=True)
        assert last.usage
        assert last.usage.completion_tokens == 3
        with pytest.raises(openai.BadRequestError, match="must be exactly 1"):
            sdk.chat.completions.create(**chat(), n=2)


@pytest.mark.parametrize(
    ("path", "headers", "status", "kind"),
    [
        (MESSAGES, {"anthropic-version": "2023-06-01"}, 401, "authentication_error"),
        (MESSAGES, {"anthropic-version": "2023-06-01", "x-api-key": "wrong", **BEARER}, 401, "authentication_error"),
        (MESSAGES, {"x-api-key": KEY}, 400, "invalid_request_error"),
        ("/v1/responses", {"x-api-key": KEY}, 404, "not_found_error"),
    ],
)
def test_what_it_refuses(claude: VendorClient, path: str, headers: dict[str, str], status: int, kind: str) -> None:
    """In its shape: without its key or its version, and where nothing is."""
    answer = claude.post(path, {**chat(), "max_tokens": 9}, headers)
    assert (answer.status, answer.json["type"], answer.json["error"]["type"]) == (status, "error", kind)


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (chat(), {"x-api-key": KEY}, 401, "authentication_error"),
        (chat(model="gpt-4o"), BEARER, 404, "not_found_error"),
        (chat(max_tokens=0), BEARER, 400, "invalid_request_error"),
    ],
)
def test_what_the_door_refuses(
    claude: VendorClient, body: dict[str, Any], headers: dict[str, str], status: int, code: str
) -> None:
    """In OpenAI's fields, of which the kind is always the same."""
    answer = claude.post(CHAT, body, headers)
    assert (answer.status, answer.error["code"], answer.error["type"]) == (status, code, "invalid_request_error")


def test_faults_are_in_its_words(claude: VendorClient) -> None:
    """At either door."""
    claude.provider.simulator.faults.set(status=429, retry_after="7")
    own, door = claude.post(MESSAGES, {}), claude.post(CHAT, {})
    assert own.json["error"]["type"] == door.json["error"]["code"] == "rate_limit_error"
    assert own.headers["retry-after"] == door.headers["retry-after"] == "7"
    assert claude.get("/v1/models", {"x-api-key": KEY}).status == 429
    claude.provider.simulator.faults.clear()
    assert claude.get("/v1/models", {"x-api-key": KEY}).status == 400
