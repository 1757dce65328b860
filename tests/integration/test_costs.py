"""What requests cost, end to end: the provider is known by its URL, and all that tells a cost tells the same.

The simulator stands for api.openai.com, behind a forward proxy and TLS. About: `prices/catalog.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from sentinel.prices.catalog import Catalog
from sentinel.tokens.usage import Usage
from tests.support.client import Answer, request
from tests.support.relays import Certificates, ForwardProxy, Relay
from tests.support.stack import SentinelProcess, Stack
from tests.support.waiting import wait_until

MODEL = "gpt-4o-mini"
MESSAGES = [{"role": "user", "content": "Say hello [[tokens=7]]"}]
NOW_MS = 1_796_000_000_000


@pytest.fixture(scope="module")
def openai(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelProcess]:
    """A Sentinel that takes its provider for OpenAI."""
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    plain = stack.simulators.openai_server.port
    with (
        Relay(plain, certificates.server("api.openai.com")) as relay,
        ForwardProxy({"api.openai.com:443": relay.port}) as proxy,
    ):
        yield stack.sentinel(
            OPENAI_API_URL="https://api.openai.com/v1",
            HTTPS_PROXY=f"http://127.0.0.1:{proxy.port}",
            UPSTREAM_CA_FILE=certificates.ca,
            USAGE_FLUSH_SECONDS="0.1",
        )


def line_of(sentinel: SentinelProcess, answer: Answer) -> dict[str, Any]:
    """The log line of a request."""

    def found() -> dict[str, Any] | None:
        lines = map(json.loads, (sentinel.folder / "stdout").read_text().splitlines())
        named = (line for line in lines if line.get("request_id") == answer.headers["x-request-id"])
        return next(named, None)

    return wait_until(found, "the line of the request")


def metric(sentinel: SentinelProcess, name: str) -> float:
    text = sentinel.get("/metrics").body.decode()
    return sum(float(value) for value in re.findall(rf"^{name}\{{.*\}} (\S+)$", text, re.MULTILINE))


def price_of(line: dict[str, Any], model: str) -> int | None:
    """What the tokens of a line cost."""
    price = Catalog.ours().of("openai").of(model, NOW_MS)
    usage = Usage(cached_tokens=line["cached_tokens"], reasoning_tokens=line["reasoning_tokens"])
    return None if price is None else price.cost(line["input_tokens"], line["output_tokens"], usage)


REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"model": MODEL, "messages": MESSAGES}),
    "chat stream": ("/v1/chat/completions", {"model": MODEL, "messages": MESSAGES, "stream": True}),
    "responses": ("/v1/responses", {"model": MODEL, "input": "Say hello"}),
    "responses stream": ("/v1/responses", {"model": MODEL, "input": "Say hello", "stream": True}),
    "messages": ("/v1/messages", {"model": MODEL, "messages": MESSAGES, "max_tokens": 20}),
    "messages stream": ("/v1/messages", {"model": MODEL, "messages": MESSAGES, "max_tokens": 20, "stream": True}),
    "embeddings": ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "Say hello"}),
    "gemini": (
        f"/v1beta/models/{MODEL}:generateContent",
        {"contents": [{"role": "user", "parts": [{"text": "Say hello"}]}]},
    ),
    "gemini stream": (
        f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "Say hello"}]}]},
    ),
    "images": ("/v1/images/generations", {"model": "gpt-image-2", "prompt": "A cat", "quality": "low"}),
    "unknown model": ("/v1/chat/completions", {"model": "claude-haiku-5-5", "messages": MESSAGES}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_cost_is_the_same_everywhere(stack: Stack, openai: SentinelProcess, name: str) -> None:
    """In the line, in the metrics and in the report; in the head, unless that had left before, or nobody knows it."""
    path, body = REQUESTS[name]
    email = f"{name.replace(' ', '-')}@corp.test"
    token = stack.simulators.zion.token(stack.simulators.zion.add_user(email))
    cost, unpriced = metric(openai, "sentinel_cost_usd_total"), metric(openai, "sentinel_requests_without_price_total")
    headers = {
        "authorization": f"Bearer {token}",
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
    }
    answer = request(openai.port, "POST", path, json.dumps(body).encode(), headers)
    assert answer.status == 200, answer.body
    line = line_of(openai, answer)
    micro_usd = price_of(line, body.get("model", MODEL))
    is_known = name != "unknown model"
    assert (micro_usd is not None) == is_known
    assert line["cost_usd"] == (None if micro_usd is None else micro_usd / 10**6)
    in_head = None if micro_usd is None or name.endswith("stream") else f"{micro_usd / 10**6:.6f}"
    assert answer.headers.get("x-sentinel-cost-usd") == in_head
    assert round((metric(openai, "sentinel_cost_usd_total") - cost) * 10**6) == (micro_usd or 0)
    assert metric(openai, "sentinel_requests_without_price_total") - unpriced == (not is_known)

    def booked() -> list[int]:
        return [each.cost_micro_usd for each in stack.simulators.zion.applied if each.email == email]

    assert wait_until(booked, "the report") == [micro_usd or 0]


def test_nobody_knows_what_a_strangers_model_costs(stack: Stack, sentinel: SentinelProcess) -> None:
    """Whatever it is called."""
    before = metric(sentinel, "sentinel_requests_without_price_total")
    token = stack.simulators.zion.token(stack.simulators.zion.add_user("stranger@corp.test"))
    path, body = REQUESTS["chat"]
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    answer = request(sentinel.port, "POST", path, json.dumps(body).encode(), headers)
    assert answer.status == 200
    assert "x-sentinel-cost-usd" not in answer.headers
    assert line_of(sentinel, answer)["cost_usd"] is None
    assert metric(sentinel, "sentinel_requests_without_price_total") == before + 1
