"""The simulated Google, seen by its SDK, by OpenAI's, and without."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import openai
import pytest
from google import genai
from google.genai import errors, types

from sentinel.dev.vendors.gemini import Gemini
from tests.support import vendors
from tests.support.vendors import KEY, VendorClient, asked

DOOR = "/v1beta/openai/chat/completions"
MODEL = Gemini.model
OWN = f"/v1beta/models/{MODEL}:generateContent"
BEARER = {"authorization": f"Bearer {KEY}"}
HI = {"contents": [{"parts": [{"text": "hi"}]}]}
chat = partial(vendors.chat, model=MODEL)


@pytest.fixture
def google() -> Iterator[VendorClient]:
    with asked(Gemini(), x_goog_api_key=KEY) as google:
        yield google


def test_its_own_sdk(google: VendorClient) -> None:
    """Whole and streamed; a limit says in its body when to come again."""
    options = types.HttpOptions(base_url=google.provider.url)
    with genai.Client(api_key=KEY, http_options=options) as sdk:
        whole = sdk.models.generate_content(model=MODEL, contents="[[tokens=3]]")
        assert len((whole.text or "").split()) == 3
        streamed = list(sdk.models.generate_content_stream(model=MODEL, contents="[[tokens=3]]"))
        assert len("".join(each.text or "" for each in streamed).split()) == 3
        google.provider.simulator.faults.set(status=429, times=1)
        with pytest.raises(errors.ClientError) as limited:
            sdk.models.generate_content(model=MODEL, contents="hi")
    assert (limited.value.code, limited.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert limited.value.details["error"]["details"][-1]["retryDelay"] == "37s"


def test_its_door_for_openais_sdk(google: VendorClient) -> None:
    """Whole, streamed with usage in each chunk, vectors, and a list whose names have a prefix."""
    with openai.OpenAI(base_url=f"{google.provider.url}/v1beta/openai/", api_key=KEY, max_retries=0) as sdk:
        whole = sdk.chat.completions.create(**chat("[[tokens=3]]", model=f"models/{MODEL}"))
        assert whole.usage
        assert (whole.model, whole.usage.completion_tokens) == (MODEL, 3)
        chunks = list(sdk.chat.completions.create(**chat("[[tokens=3]]"), stream=True))
        assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [0, 1, 2, 3, 3]
        assert all(chunk.choices for chunk in chunks)
        assert sdk.embeddings.create(model="gemini-embedding-001", input="hi").data[0].embedding
        assert f"models/{MODEL}" in {model.id for model in sdk.models.list()}
        assert sdk.models.retrieve(MODEL).owned_by == sdk.models.retrieve(f"models/{MODEL}").owned_by == "google"
        with pytest.raises(openai.BadRequestError):
            sdk.chat.completions.create(**chat(), store=False)


def test_a_stream_that_fails(google: VendorClient) -> None:
    """In its format, as events and as an array, and at its door."""
    body: dict[str, Any] = {"contents": [{"parts": [{"text": "[[tokens=9 error_after=2]]"}]}]}
    stream = OWN.replace(":generate", ":streamGenerate")
    assert google.post(f"{stream}?alt=sse", body).events[-1]["error"]["status"] == "UNAVAILABLE"
    assert google.post(stream, body).json[-1]["error"]["status"] == "UNAVAILABLE"
    told = google.post(DOOR, chat("[[error_after=2]]", stream=True), BEARER).events
    assert "error" in told[-1]
    assert [bill.completion_tokens for bill in google.provider.simulator.billed] == [2, 2, 2]


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (chat(), {"x-goog-api-key": KEY}, 400, "Missing or invalid Authorization header."),
        (chat(), {"authorization": "Bearer wrong"}, 400, "API key not valid"),
        (chat(store=True), BEARER, 400, 'Unknown name "store"'),
        (chat(model="gpt-4o"), BEARER, 404, "is not found"),
        (chat(max_tokens=0), BEARER, 400, "below minimum"),
    ],
)
def test_what_its_door_refuses(
    google: VendorClient, body: dict[str, Any], headers: dict[str, str], status: int, message: str
) -> None:
    """In a list of one error."""
    answer = google.post(DOOR, body, headers)
    (told,) = answer.json
    assert (answer.status, told["error"]["code"]) == (status, status)
    assert message in told["error"]["message"]


def test_keys_and_faults_of_its_own_format(google: VendorClient) -> None:
    """In a header or in the address; the reason that a key is refused for is among the details."""
    assert google.post(f"{OWN}?key={KEY}", HI, {}).status == 200
    refused = google.post(OWN, HI, {"x-goog-api-key": "wrong"})
    assert (refused.status, refused.error["code"]) == (400, "api_key_invalid")
    google.provider.simulator.faults.set(status=429, retry_after="7")
    own, (door,) = google.post(OWN, HI), google.post(DOOR, chat(), BEARER).json
    assert own.error["by_type"]["RetryInfo"]["retryDelay"] == door["error"]["details"][-1]["retryDelay"] == "7s"
    assert "retry-after" not in own.headers
    google.provider.simulator.faults.clear()
    assert google.post("/v1beta/openai/files", {}, BEARER).status == 404
