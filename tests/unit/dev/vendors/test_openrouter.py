"""The simulated OpenRouter, seen by OpenAI's SDK and without."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from openai import APIError, OpenAI

from sentinel.dev.vendors.openrouter import OpenRouter
from tests.support import vendors
from tests.support.vendors import KEY, VendorClient, asked

PATH = "/api/v1/chat/completions"
BEARER = f"Bearer {KEY}"
chat = partial(vendors.chat, model="openai/gpt-4o-mini")


@pytest.fixture
def router() -> Iterator[VendorClient]:
    with asked(OpenRouter(), authorization=BEARER) as router:
        yield router


def test_the_sdk_reads_it(router: VendorClient) -> None:
    """Whole and streamed, with usage that nobody has asked for, and its list."""
    with OpenAI(base_url=router.provider.url, api_key=KEY, max_retries=0) as sdk:
        whole = sdk.chat.completions.create(**chat("[[tokens=3 reasoning=2]]"))
        assert whole.usage
        assert whole.usage.completion_tokens == 5
        chunks = list(sdk.chat.completions.create(**chat("[[tokens=3]]"), stream=True))
        assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [3]
        assert all(len(chunk.choices) == 1 for chunk in chunks)
        assert "openai/gpt-4o-mini" in {model.id for model in sdk.models.list()}


def test_what_it_adds(router: VendorClient) -> None:
    """Who answered, why that ended, what it cost, what was thought; a comment before a stream."""
    whole = router.post(PATH, chat("[[reasoning=2]]")).json
    assert (whole["provider"], whole["choices"][0]["native_finish_reason"]) == ("OpenAI", "stop")
    assert whole["usage"]["cost"] > 0
    assert len(whole["choices"][0]["message"]["reasoning"].split()) == 2
    streamed = router.post(PATH, chat("[[reasoning=2]]", stream=True))
    assert streamed.body.startswith(b": OPENROUTER PROCESSING\n\ndata: ")
    assert streamed.headers["x-generation-id"].startswith("gen-")
    *chunks, last, done = streamed.events
    assert {chunk["id"] for chunk in chunks} == {last["id"]}
    assert last["usage"]["cost"] == whole["usage"]["cost"]
    assert done == "[DONE]"
    assert sum("reasoning" in chunk["choices"][0]["delta"] for chunk in chunks) == 2


def test_a_stream_that_fails(router: VendorClient) -> None:
    """Ends with an error and a reason in one chunk, and without its end."""
    answer = router.post(PATH, chat("[[tokens=9 error_after=2]]", stream=True))
    last = answer.events[-1]
    assert (last["error"]["code"], last["choices"][0]["finish_reason"]) == (502, "error")
    assert router.provider.simulator.billed[-1].completion_tokens == 2
    with (
        OpenAI(base_url=router.provider.url, api_key=KEY, max_retries=0) as sdk,
        pytest.raises(APIError, match="Provider disconnected"),
    ):
        list(sdk.chat.completions.create(**chat("[[error_after=2]]"), stream=True))


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (chat(), {}, 401, "No auth credentials found"),
        (chat(), {"authorization": "Bearer wrong"}, 401, "User not found."),
        (chat(model="gpt-4o-mini"), None, 400, "gpt-4o-mini is not a valid model ID"),
        (chat(max_tokens=0), None, 400, "below minimum"),
    ],
)
def test_what_it_refuses(
    router: VendorClient, body: dict[str, Any], headers: dict[str, str] | None, status: int, message: str
) -> None:
    """With the status as a number."""
    answer = router.post(PATH, body, headers)
    assert (answer.status, answer.json["error"]["code"]) == (status, status)
    assert message in answer.json["error"]["message"]
    assert answer.json["user_id"]


def test_credits() -> None:
    """A maximum that these do not pay for is refused, and so is the one that goes without saying."""
    with asked(OpenRouter(credits=100), authorization=BEARER) as router:
        assert router.post(PATH, chat(max_tokens=100)).status == 200
        for body, asked_for in ((chat(max_tokens=101), 101), (chat(), 65_536)):
            answer = router.post(PATH, body)
            assert (answer.status, answer.json["error"]["metadata"]) == (402, {"provider_name": None})
            assert f"requested up to {asked_for} tokens, but can only afford 100" in answer.json["error"]["message"]


def test_faults_are_in_its_words(router: VendorClient) -> None:
    """Those behind it are named; our own key and bill are not theirs. Other formats keep their shape."""
    faults = router.provider.simulator.faults
    faults.set(status=429, retry_after="7")
    limited = router.post(PATH, chat())
    assert (limited.headers["retry-after"], limited.json["error"]["metadata"]["provider_name"]) == ("7", "OpenAI")
    faults.set(status=402)
    assert "more credits" in router.post(PATH, chat()).json["error"]["message"]
    faults.set(status=401)
    assert router.post(PATH, chat()).json["error"]["message"] == "User not found."
    faults.set(status=529)
    assert router.post("/api/v1/messages", chat()).json["error"]["type"] == "overloaded_error"


def test_its_list_is_for_everybody(router: VendorClient) -> None:
    """Also without a key; elsewhere is nothing."""
    assert router.get("/api/v1/models", {}).json["data"][0]["context_length"] == 128_000
    assert router.get("/api/v1/models/openai/gpt-4o", {}).json["data"]["id"] == "openai/gpt-4o"
    assert router.get("/v1/models").status == 404
