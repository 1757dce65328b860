"""Plain HTTP, without any help of a library's own, and what came back."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.support.waiting import PATIENCE_SECONDS


class Answer(NamedTuple):
    """One answer; header names in lower case. body: without HTTP's chunks, of a stream all its bytes."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error, once it has been seen to have OpenAI's shape, Anthropic's, or Google's."""
        assert self.headers["content-type"] == "application/json"
        if self.is_anthropics:
            return self._anthropics_error
        if self.is_googles:
            return self._googles_error
        assert list(self.json) == ["error"]
        error: dict[str, Any] = self.json["error"]
        assert {"message", "type", "param", "code"} <= error.keys() <= {"message", "type", "param", "code", "details"}
        assert error["message"]
        return error

    @property
    def is_anthropics(self) -> bool:
        """Whether an error has Anthropic's shape."""
        return bool(self.json.get("type") == "error")

    @property
    def _anthropics_error(self) -> dict[str, Any]:
        told = self.json
        assert list(told) == ["type", "error", "request_id"]
        assert {"type", "message"} <= told["error"].keys() <= {"type", "message", "code", "param", "details"}
        assert told["error"]["message"]
        return {"code": None, "param": None, **told["error"]}

    @property
    def is_googles(self) -> bool:
        """Whether an error has Google's shape."""
        error = self.json.get("error")
        return isinstance(error, dict) and "status" in error

    @property
    def _googles_error(self) -> dict[str, Any]:
        """As others have it: our code is a reason among the details, the field at fault a violation."""
        error = self.json["error"]
        assert list(self.json) == ["error"]
        assert {"code", "message", "status"} <= error.keys() <= {"code", "message", "status", "details"}
        assert error["code"] == self.status
        details = {each["@type"].rpartition(".")[2]: each for each in error.get("details", [])}
        code = details.get("ErrorInfo", {}).get("reason", "").lower() or None
        violations = details.get("BadRequest", {}).get("fieldViolations", [{}])
        told = {"code": code, "type": error["status"], "param": violations[0].get("field"), "by_type": details}
        return {**told, "message": error["message"], "details": details.get("ErrorInfo", {}).get("metadata")}

    def is_error(self, status: int, code: str, kind: str = "invalid_request_error", param: str | None = None) -> bool:
        """Whether this is exactly that error; the assertion tells what it is instead. kind: in OpenAI's shape."""
        error = self.error
        kind = error["type"] if self.is_anthropics or self.is_googles else kind
        assert (self.status, error["code"], error["type"], error["param"]) == (status, code, kind, param)
        return True

    @property
    def events(self) -> list[Any]:
        """The events of a stream, the last one is `[DONE]` as text."""
        return [data if data == "[DONE]" else json.loads(data) for data in events(self.body)]

    @property
    def text(self) -> str:
        """The text that a stream delivered."""
        return "".join(choice["delta"].get("content") or "" for choice in self._choices)

    @property
    def finish_reasons(self) -> list[str]:
        """The finish reasons of a stream, in order."""
        return [choice["finish_reason"] for choice in self._choices if choice["finish_reason"]]

    @property
    def _choices(self) -> list[Any]:
        return [choice for event in self.events if event != "[DONE]" for choice in event.get("choices", [])]


def events(body: bytes) -> list[str]:
    """The data of each event of a stream."""
    return [line.removeprefix("data: ") for line in body.decode().split("\n") if line.startswith("data: ")]


def request(
    port: int, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """One request to a port of this machine, over a connection of its own. target: as it goes over the wire."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, target, body, headers or {})
        return answer_of(connection.getresponse())
    finally:
        connection.close()


def answer_of(response: http.client.HTTPResponse) -> Answer:
    """What came over a connection that is the test's own; read to its end."""
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def ask(
    method: str, url: str, json_body: object = None, headers: Mapping[str, str] | None = None, raw: bytes | None = None
) -> Answer:
    """`request` with a URL, and JSON as its body, or `raw`."""
    address = urlsplit(url)
    assert (address.hostname, address.query) == ("127.0.0.1", "")
    assert address.port is not None
    if json_body is not None:
        raw, headers = json.dumps(json_body).encode(), {"Content-Type": "application/json", **(headers or {})}
    return request(address.port, method, address.path, raw, headers)


async def request_beside(
    port: int, target: str, body: bytes, headers: Mapping[str, str], address: str = "127.0.0.1"
) -> Answer:
    """One POST for tests that have an event loop; cheap enough for a crowd of them. address: where it comes from."""
    lines = [f"POST {target} HTTP/1.1", "host: sentinel", "connection: close", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            return read(await reader.read())
        finally:
            writer.close()


def read(raw: bytes) -> Answer:
    """A whole answer, as it came over the wire."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        pieces = []
        while body:
            size, _, rest = body.partition(b"\r\n")
            pieces.append(rest[: int(size, 16)])
            body = rest[int(size, 16) + 2 :]
        body = b"".join(pieces)
    return Answer(int(first.split()[1]), headers, body)
