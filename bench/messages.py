"""The requests and answers of the benchmark."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import dataclass
from typing import Any

USERS = 1000
MODEL, EMBEDDING_MODEL = "gpt-4o-mini", "text-embedding-3-small"
SEED = 4

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
EMBEDDINGS, FILES = "/v1/embeddings", "/v1/files"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Post:
    """What is sent again and again, by users in turn."""

    path: str
    body: bytes
    type: str = JSON


USUAL = Post(CHAT, chat())


def embeddings() -> Post:
    """A text of about 200 tokens to embed, as the official SDK asks for its vector."""
    fields = {"model": EMBEDDING_MODEL, "input": prompt_of(1_000), "encoding_format": "base64"}
    return Post(EMBEDDINGS, json.dumps(fields).encode())


def embedded() -> str:
    """The provider's answer: a vector of 1,536 numbers in base64; about 8,400 bytes."""
    vector = base64.b64encode(random.Random(SEED).randbytes(4 * 1_536)).decode()
    data = [{"object": "embedding", "index": 0, "embedding": vector}]
    usage = {"prompt_tokens": 200, "total_tokens": 200}
    return json.dumps({"object": "list", "data": data, "model": EMBEDDING_MODEL, "usage": usage})


def upload(size_bytes: int) -> Post:
    """A file of this size in multipart, as the official SDK sends it; of random bytes, as compressed ones are."""
    boundary = "a1f0c3d29b7e4e5688d0f1c2b3a49586"
    parts = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="notes.pdf"\r\n'
        "Content-Type: application/pdf\r\n\r\n"
    )
    body = parts.encode() + random.Random(SEED).randbytes(size_bytes) + f"\r\n--{boundary}--\r\n".encode()
    return Post(FILES, body, f"multipart/form-data; boundary={boundary}")


def uploaded() -> str:
    """The provider's answer, with an id of its own for each: that is nginx's to fill in."""
    file = {
        "id": "file-$request_id",
        "object": "file",
        "bytes": 65536,
        "created_at": 1764000000,
        "filename": "notes.pdf",
        "purpose": "user_data",
        "status": "processed",
        "expires_at": None,
    }
    return json.dumps(file)


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
