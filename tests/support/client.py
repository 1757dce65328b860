"""Plain HTTP, without any help of a library's own, and what came back."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.support.waiting import PATIENCE_SECONDS


class Answer(NamedTuple):
    """One answer; header names in lower case. body: without HTTP's chunks."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


def request(
    port: int, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """One request to a port of this machine, over a connection of its own. target: as it goes over the wire."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, target, body, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


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
