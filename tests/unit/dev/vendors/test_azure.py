"""The simulated Azure, seen by OpenAI's SDK for Azure and without: as its documents and reports have it.

About: `dev/vendors/altered.py`, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from openai import AuthenticationError, AzureOpenAI, BadRequestError, NotFoundError, OpenAI, RateLimitError

from sentinel.dev.vendors.azure import Azure
from tests.support import vendors
from tests.support.vendors import KEY, VendorClient, asked

VERSION = "2024-10-21"
PATH = f"/openai/deployments/prod-1/chat/completions?api-version={VERSION}"
chat = partial(vendors.chat, model="prod-1")


@pytest.fixture
def azure() -> Iterator[VendorClient]:
    with asked(Azure({"prod-1": "gpt-4o-mini", "vectors": "text-embedding-3-small"}), api_key=KEY) as azure:
        yield azure


@pytest.fixture(params=["deployments", "v1"])
def sdk(azure: VendorClient, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    url = azure.provider.url
    if request.param == "v1":
        with OpenAI(base_url=f"{url}/openai/v1", api_key=KEY, max_retries=0) as sdk:
            yield sdk
    else:
        with AzureOpenAI(azure_endpoint=url, api_key=KEY, api_version=VERSION, max_retries=0) as sdk:
            yield sdk


def test_the_sdk_for_azure(azure: VendorClient, sdk: OpenAI) -> None:
    """Chats, whole and streamed, vectors, responses and the list; each is billed as its model."""
    whole = sdk.chat.completions.create(**chat("[[tokens=3]]"))
    assert (whole.model, whole.usage and whole.usage.completion_tokens) == ("gpt-4o-mini", 3)
    chunks = list(sdk.chat.completions.create(**chat("[[tokens=3]]"), stream=True))
    assert (chunks[0].id, chunks[0].choices) == ("", [])
    assert len("".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices).split()) == 3
    assert len(sdk.embeddings.create(model="vectors", input="hi").data) == 1
    assert sdk.responses.create(model="prod-1", input="[[tokens=3]]").usage.output_tokens == 3  # type: ignore[union-attr]
    assert {model.id for model in sdk.models.list()} == {"gpt-4o-mini", "text-embedding-3-small"}
    assert [bill.model for bill in azure.provider.simulator.billed][:3] == [
        "gpt-4o-mini", "gpt-4o-mini", "text-embedding-3-small"
    ]  # fmt: skip


def test_what_the_sdk_makes_of_errors(azure: VendorClient, sdk: OpenAI) -> None:
    """A deployment that is not there, a limit, and a prompt that the filter stops."""
    with pytest.raises(NotFoundError) as missing:
        sdk.chat.completions.create(**chat(model="gpt-4o-mini"))
    assert missing.value.code == "DeploymentNotFound"
    with pytest.raises(RateLimitError) as limited:
        sdk.chat.completions.create(**chat("[[status=429]]"))
    assert limited.value.response.headers["retry-after-ms"] == "6000"
    with pytest.raises(BadRequestError) as filtered:
        sdk.chat.completions.create(**chat("[[status=400]]"))
    assert filtered.value.code == "content_filter"
    sdk.api_key = "wrong"
    with pytest.raises(AuthenticationError) as refused:
        sdk.chat.completions.create(**chat())
    assert refused.value.code == "401"
    assert not azure.provider.simulator.billed


@pytest.mark.parametrize("path", [PATH, "/openai/v1/chat/completions"])
def test_what_the_filter_found(azure: VendorClient, path: str) -> None:
    """In a whole answer, and in a stream: before it, and beside each text."""
    whole = azure.post(path, chat()).json
    assert whole["prompt_filter_results"][0]["content_filter_results"]["jailbreak"]["detected"] is False
    assert whole["choices"][0]["content_filter_results"]["hate"] == {"filtered": False, "severity": "safe"}
    first, opened, said, *_ = azure.post(path, chat(stream=True)).events
    assert (first["object"], first["choices"], "prompt_filter_results" in first) == ("", [], True)
    assert opened["choices"][0]["content_filter_results"] == {}
    assert "hate" in said["choices"][0]["content_filter_results"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (PATH.replace(f"?api-version={VERSION}", ""), "404"),
        (PATH.replace(VERSION, "v1"), "404"),
        (PATH.replace("chat/completions", "responses"), "404"),
        (PATH.replace("/openai", ""), "404"),
        ("/openai/v1/messages", "404"),
        (PATH.replace("prod-1", "gpt-4o-mini"), "DeploymentNotFound"),
    ],
)
def test_where_nothing_is(azure: VendorClient, path: str, code: str) -> None:
    """Without a version, beside its paths, and below a deployment that is not there: 404, in a shape of its own."""
    answer = azure.post(path, chat())
    assert (answer.status, answer.json["error"]["code"]) == (404, code)
    assert answer.json["error"].keys() == {"code", "message"}


def test_its_key_has_a_header(azure: VendorClient) -> None:
    """Which is looked at first."""
    assert azure.post(PATH, chat(), headers={"Authorization": f"Bearer {KEY}"}).status == 200
    for headers in ({}, {"api-key": "wrong", "Authorization": f"Bearer {KEY}"}):
        assert azure.post(PATH, chat(), headers=headers).status == 401


def test_faults_are_in_its_words(azure: VendorClient) -> None:
    """And what the models themselves refuse is in OpenAI's."""
    faults = azure.provider.simulator.faults
    faults.set(status=429, retry_after="30")
    limited = azure.post(PATH, chat())
    assert (limited.json["error"]["code"], limited.headers["retry-after"]) == ("429", "30")
    assert "retry after 30 seconds" in limited.json["error"]["message"]
    for status, code in ((401, "401"), (404, "DeploymentNotFound"), (500, None)):
        faults.set(status=status)
        assert azure.post(PATH, chat()).json["error"]["code"] == code
    faults.clear()
    assert azure.post(PATH, chat(max_tokens=0)).error["param"] == "max_tokens"


def test_a_stream_that_fails(azure: VendorClient) -> None:
    """Ends with an error, after as much as was ordered, and no more is billed."""
    *_, last = azure.post(PATH, chat("[[tokens=9 error_after=2]]", stream=True)).events
    assert last["error"]["type"] == "server_error"
    (bill,) = azure.provider.simulator.billed
    assert (bill.completion_tokens, bill.state) == (2, "broken")
