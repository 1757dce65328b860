"""Speaks plain HTTP to Sentinel, and looks at its answers as a client library would."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from typing import Any

from tests.support.client import Answer
from tests.support.stack import SentinelProcess
from tests.support.waiting import PATIENCE_SECONDS

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
SOCKET = "/v1/responses over a WebSocket"
"""For tests of what holds there, too; `crowd.post` knows how to ask."""
STORES = "/v1/vector_stores"
"""One of the paths that are passed through."""
NATIVE = "/native/v1/chat/completions"
GENERATE = "/v1beta/models/gpt-4o-mini:generateContent"
STREAM_GENERATE = "/v1beta/models/gpt-4o-mini:streamGenerateContent?alt=sse"
INPUT_TOKENS = "/v1/responses/input_tokens"
COMPACT = "/v1/responses/compact"
MODERATIONS = "/v1/moderations"
GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
VARIATIONS = "/v1/images/variations"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
SPEECH = "/v1/audio/speech"
FORMS = (EDITS, VARIATIONS, TRANSCRIPTIONS, TRANSLATIONS)
"""Their bodies are forms."""
OF_MEDIA = {
    MODERATIONS: {"model": "omni-moderation-latest", "input": "{text}"},
    GENERATIONS: {"model": "gpt-image-2", "prompt": "{text}", "quality": "low"},
    EDITS: {"model": "gpt-image-2", "prompt": "{text}", "quality": "low"},
    VARIATIONS: {"model": "dall-e-2", "prompt": "{text}"},
    TRANSCRIPTIONS: {"model": "gpt-4o-transcribe", "prompt": "{text}"},
    TRANSLATIONS: {"model": "whisper-1", "prompt": "{text}"},
    SPEECH: {"model": "gpt-4o-mini-tts", "input": "{text}", "voice": "alloy"},
}
"""The fields of a request."""
_FILE = {EDITS: "image", VARIATIONS: "image", TRANSCRIPTIONS: "file", TRANSLATIONS: "file"}
BOUNDARY = "----sentinel"
CLIENT_SECRETS = "/v1/realtime/client_secrets"


def send(
    sentinel: SentinelProcess,
    method: str,
    path: str,
    token: str | None = None,
    body: bytes | dict[str, Any] | None = None,
    **headers: str,
) -> Answer:
    """One request; `headers` with underscores for dashes. Every answer carries a request id."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if path == MESSAGES:
        given.setdefault("anthropic-version", "2023-06-01")
    if token is not None:
        given.setdefault("Authorization", f"Bearer {token}")
    answer = sentinel.request(method, path, body, given)
    assert answer.headers["x-request-id"].startswith("req_")
    return answer


def post(
    sentinel: SentinelProcess, token: str | None, body: bytes | dict[str, Any], path: str = CHAT, **headers: str
) -> Answer:
    """POST a body, to the chat by default."""
    return send(sentinel, "POST", path, token, body, **headers)


def chat(text: str = "Say hello", **fields: Any) -> dict[str, Any]:
    """The body of a chat completion; `text` may hold a directive for the simulator."""
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **fields}


def asked(path: str, text: str = "Say hello", **fields: Any) -> dict[str, Any]:
    """The body of a request to one of the endpoints that generate text."""
    if path in (GENERATE, STREAM_GENERATE):
        # Whether it is a stream is in the path.
        fields.pop("stream", None)
        return {"contents": [{"role": "user", "parts": [{"text": text}]}], **fields}
    if path == COMPLETIONS:
        return {"model": "davinci-002", "prompt": text, **fields}
    if path == MESSAGES:
        return {"max_tokens": 500, **chat(text), "model": "claude-haiku-5-5", **fields}
    if path == NATIVE:
        return {"messages": chat(text)["messages"], **fields}
    if path == EMBEDDINGS:
        return {"model": "text-embedding-3-small", "input": text, **fields}
    if path == STORES:
        return {"name": text, **fields}
    if path in OF_MEDIA:
        return {name: value.format(text=text) for name, value in OF_MEDIA[path].items()} | fields
    if path == SOCKET:
        # There all are streams.
        fields.pop("stream", None)
    if path in (RESPONSES, INPUT_TOKENS, COMPACT, SOCKET):
        return {"model": "gpt-4o-mini", "input": text, **fields}
    return chat(text, **fields)


def form(fields: Iterable[tuple[str, str]], file: str | None = None, data: bytes = b"sound") -> tuple[bytes, str]:
    """A form, and its content type. file: the name of its file, if it has one."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
    parts = [f'{head}{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields]
    if file is not None:
        parts += f'{head}{file}"; filename="a.bin"\r\nContent-Type: audio/mpeg\r\n\r\n'.encode(), data, b"\r\n"
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()]), f"multipart/form-data; boundary={BOUNDARY}"


def encoded(path: str, text: str = "Say hello", **fields: Any) -> tuple[bytes, str]:
    """The same as bytes, and their content type: JSON, or a form with a file."""
    given = asked(path, text, **fields)
    if path not in FORMS:
        return json.dumps(given).encode(), "application/json"
    texts = [(name, json.dumps(value) if isinstance(value, bool) else str(value)) for name, value in given.items()]
    return form(texts, _FILE[path])


def streaming(path: str, stream: bool) -> str:
    """Where to ask for a stream, or for none: in Gemini's format the path says which."""
    return STREAM_GENERATE if stream and path == GENERATE else path


def maximum(path: str, tokens: int) -> dict[str, Any]:
    """The field that bounds an answer."""
    if path in (GENERATE, STREAM_GENERATE):
        return {"generationConfig": {"maxOutputTokens": tokens}}
    return {"max_output_tokens" if path in (RESPONSES, SOCKET) else "max_tokens": tokens}


def head(path: str = CHAT, method: str = "POST", headers: Iterable[str] = ()) -> bytes:
    """The head of a request, for raw connections."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: sentinel", *headers, "", ""]).encode()


def read_answer(connection: socket.socket, seconds: float = PATIENCE_SECONDS) -> Answer:
    """One whole answer from a raw connection. Fails where it does not come in time, or the connection ends before."""
    deadline = time.monotonic() + seconds
    data = b""
    while b"\r\n\r\n" not in data or not _complete(data):
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        piece = connection.recv(65536)
        assert piece, f"the connection ended after {data!r}"
        data += piece
    start, _, body = data.partition(b"\r\n\r\n")
    status, *lines = start.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(status.split()[1]), headers, body[: int(headers["content-length"])])


def _complete(data: bytes) -> bool:
    start, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in start.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return len(body) >= int(lengths[0].partition(b":")[2])


def is_closed(connection: socket.socket, seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether Sentinel ends this connection within so many seconds."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            if not connection.recv(65536):
                return True
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return False
