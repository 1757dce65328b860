"""The simulated vLLM, seen by OpenAI's SDK and without."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from openai import APIError, OpenAI

from sentinel.dev.vendors.vllm import Vllm
from tests.support import vendors
from tests.support.vendors import KEY, VendorClient, asked

PATH = "/v1/chat/completions"
BEARER = f"Bearer {KEY}"
MODEL = Vllm.model
chat = partial(vendors.chat, model=MODEL)


@pytest.fixture
def vllm() -> Iterator[VendorClient]:
    with asked(Vllm(context=500), authorization=BEARER) as vllm:
        yield vllm


def test_the_sdk_reads_it(vllm: VendorClient) -> None:
    """Whole and streamed; both names of the maximum at once."""
    with OpenAI(base_url=vllm.provider.url, api_key=KEY, max_retries=0) as sdk:
        whole = sdk.chat.completions.create(**chat("[[tokens=9]]"), max_tokens=5, max_completion_tokens=3)
        assert (whole.choices[0].finish_reason, whole.usage and whole.usage.completion_tokens) == ("length", 3)
        streamed = chat("[[tokens=3]]", stream_options={"include_usage": True})
        *chunks, last = sdk.chat.completions.create(**streamed, stream=True)
        assert (last.choices, last.usage and last.usage.completion_tokens) == ([], 3)
        assert not any(chunk.usage for chunk in chunks)
        assert [model.id for model in sdk.models.list()] == [MODEL]
        with pytest.raises(APIError, match="had an error"):
            list(sdk.chat.completions.create(**chat("[[error_after=2]]"), stream=True))


def test_its_own_fields(vllm: VendorClient) -> None:
    """All of a whole answer, those that are set of a chunk; what is thought is `reasoning`."""
    whole = vllm.post(PATH, chat("[[tokens=3 reasoning=2]]")).json
    assert whole["prompt_logprobs"] is whole["kv_transfer_params"] is whole["choices"][0]["stop_reason"] is None
    assert len(whole["choices"][0]["message"]["reasoning"].split()) == 2
    assert whole["usage"].keys() == {"prompt_tokens", "total_tokens", "completion_tokens", "prompt_tokens_details"}
    *chunks, done = vllm.post(PATH, chat("[[tokens=3 reasoning=2]]", stream=True)).events
    assert not any({"usage", "obfuscation", "system_fingerprint"} & chunk.keys() for chunk in chunks)
    assert ["stop_reason" in chunk["choices"][0] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [len(chunk["choices"][0]["delta"].get("reasoning", "").split()) for chunk in chunks][:4] == [0, 1, 1, 0]
    assert done == "[DONE]"


def test_usage_all_along(vllm: VendorClient) -> None:
    """Grows with each chunk, up to what the last one tells."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last, _ = vllm.post(PATH, chat("[[tokens=3]]", stream=True, stream_options=options)).events
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3, 3]
    assert last["usage"] == chunks[-1]["usage"]


@pytest.mark.parametrize(
    ("body", "status", "kind", "message"),
    [
        (chat(model="gpt-4o"), 404, "NotFoundError", "does not exist"),
        (chat(max_tokens=1000), 400, "BadRequestError", "maximum context length is 500 tokens"),
        (chat("many words " * 300), 400, "BadRequestError", "Please reduce the length"),
        ({**chat(), "messages": [{"role": "SYSTEM", "content": "hi"}]}, 400, "BadRequestError", "Unknown role: SYSTEM"),
        (chat(max_tokens=0), 400, "BadRequestError", "below minimum"),
    ],
)
def test_what_it_refuses(vllm: VendorClient, body: dict[str, Any], status: int, kind: str, message: str) -> None:
    """With a number for its code; older versions without a shell."""
    answer = vllm.post(PATH, body)
    error = answer.json["error"]
    assert (answer.status, error["type"], error["code"]) == (status, kind, status)
    assert message in error["message"]
    with asked(Vllm(context=500, is_old=True), authorization=BEARER) as old:
        assert old.post(PATH, body).json == {"object": "error", **error}


def test_older_versions_think_elsewhere() -> None:
    """In `reasoning_content`."""
    with asked(Vllm(is_old=True), authorization=BEARER) as old:
        message = old.post(PATH, chat("[[reasoning=2]]")).json["choices"][0]["message"]
        assert (len(message["reasoning_content"].split()), "reasoning" in message) == (2, False)


def test_who_may_ask_and_where(vllm: VendorClient) -> None:
    """A word for the rest; faults are in its shape, and Anthropic's format in Anthropic's."""
    assert vllm.post(PATH, chat(), {}).body == b'{"error":"Unauthorized"}'
    assert vllm.post("/v1/files", chat()).json["error"]["type"] == "NotFoundError"
    faults = vllm.provider.simulator.faults
    faults.set(status=503, retry_after="3")
    failed = vllm.post(PATH, chat())
    assert (failed.json["error"]["type"], failed.headers["retry-after"]) == ("Service Unavailable", "3")
    faults.set(status=401)
    assert vllm.post(PATH, chat()).json == {"error": "Unauthorized"}
    faults.clear()
    asks = {**chat(), "max_tokens": 5}
    told = vllm.post("/v1/messages", asks, {"authorization": BEARER, "anthropic-version": "2023-06-01"})
    assert told.json["stop_reason"] == "max_tokens"
