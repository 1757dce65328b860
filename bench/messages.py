"""The requests and answers of the benchmark."""

from __future__ import annotations

import json
from typing import Any

USERS = 1000
MODEL = "gpt-4o-mini"

# As long as Zion's tokens are (a header, claims and an HS256 signature), and different only at its end.
_TOKEN = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9." + "eyJzdWIiOiJiZW5jaCIsImlzcyI6Inppb24iLCJhdWQiOiJzZW50aW5lbCJ9" * 4

_SENTENCE = "The quick brown fox, having read the contract twice, still wonders what clause seven was meant to say. "

QUESTION = (
    "Summarise the attached notes of yesterday's planning meeting for somebody who was not there: what was decided, "
    "who does what until when, and what was left open. Keep it under two hundred words, in plain English, without any "
    "headings or lists."
)
ANSWER = (
    "The team agreed to ship the new importer in the second week of March. Ana writes the migration guide by Friday, "
    "Piotr measures the nightly job again and reports on Monday. Left open: whether old exports stay readable after "
    "June, and who pays for the larger store. The next meeting is on Wednesday."
)


def user(number: int) -> str:
    """The id, external id and name of a user."""
    return f"user-{number:06d}"


def token(number: int) -> str:
    """The JWT of a user."""
    return f"{_TOKEN}.{user(number)}"


def chat(text: str = QUESTION, **fields: object) -> bytes:
    """The body of a chat completion; about 420 bytes with the usual question."""
    messages = [
        {"role": "system", "content": "You answer briefly and to the point."},
        {"role": "user", "content": text},
    ]
    return _chat(messages, **fields)


def _chat(messages: list[dict[str, Any]], **fields: object) -> bytes:
    return json.dumps({"model": MODEL, "messages": messages, "temperature": 0.2, **fields}).encode()


def prompt_of(size_bytes: int) -> str:
    """Ordinary English of this length."""
    return (_SENTENCE * (size_bytes // len(_SENTENCE) + 1))[:size_bytes]


def hostile() -> dict[str, bytes]:
    """Bodies of a megabyte each that are costly to read or to count, and that a provider might still take."""
    nested = json.loads("[" * 300 + "]" * 300)
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": "first"}}}
    function = {"type": "function", "function": {"name": "look_up", "description": "Looks.", "parameters": schema}}
    bodies = {
        "100,000 x A": chat("A" * 100_000),
        "1 MB of A": chat("A" * 1_000_000),
        "1 MB of dashes": chat("-" * 1_000_000),
        "escapes": chat("\x00" * 166_000),
        "33,000 messages": _chat([{"role": "user", "content": "a"}] * 33_000),
        "8,000 tools": chat(tools=[function] * 8_000),
        "70,000 parts": _chat([{"role": "user", "content": [{"type": "a"}] * 70_000}]),
        "300 levels": chat(tools=[{"type": "custom", "custom": [nested] * 1_600}]),
    }
    return {name: body.replace(b", ", b",").replace(b": ", b":") for name, body in bodies.items()}


CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


def stream(path: str) -> bytes:
    """The body of a request for a stream in the format of this path."""
    if path == RESPONSES:
        return json.dumps({"model": MODEL, "input": QUESTION, "temperature": 0.2, "stream": True}).encode()
    if path == MESSAGES:
        return _chat([{"role": "user", "content": QUESTION}], stream=True, max_tokens=4096)
    return chat(stream=True)


def http_request(port: int, number: int, body: bytes, path: str = CHAT) -> bytes:
    """A whole HTTP request of a user, as the official SDK sends it in essence."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token(number)}\r\n"
        f"Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: OpenAI/Python 1.99.0\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def completion() -> str:
    """The provider's whole answer; about 700 bytes."""
    message: dict[str, object] = {"role": "assistant", "content": ANSWER, "refusal": None, "annotations": []}
    answer = {
        "id": "chatcmpl-CbV3kq9X0QmF1aYHkz2cQe7rWn5Tj",
        "object": "chat.completion",
        "created": 1764000000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 65, "completion_tokens": 68, "total_tokens": 133},
        "service_tier": "default",
        "system_fingerprint": "fp_560af6e559",
    }
    return json.dumps(answer)
