"""What is passed through, byte by byte: bodies of any kind and size both ways, by a provider that is the test's own.

`proxy/passthrough.py`, `proxy/passed_body.py` and `proxy/passed_answer.py` against real sockets.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Answer, read
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import send
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ADMIN_KEY = "operators-key"
KEY = "sk-provider-" + "k" * 40
MB = 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Asked:
    """A request as the provider got it. body: what had come with the head."""

    def __init__(self, connection: socket.socket, head: bytes, body: bytes) -> None:
        self.connection = connection
        self.head, self.body = head, body
        self.line = head.split(b"\r\n")[0].decode()
        lines = (line.partition(b": ") for line in head.split(b"\r\n")[1:])
        self.headers = {name.decode().lower(): value.decode() for name, _, value in lines}

    def read_all(self) -> bytes:
        """The rest of a body with a length, or in chunks; as it came."""
        length = self.headers.get("content-length")
        while (len(self.body) < int(length)) if length else not self.body.endswith(b"0\r\n\r\n"):
            piece = self.connection.recv(MB)
            if not piece:
                break
            self.body += piece
        return self.body


Handler = Callable[[Asked], None]


class RawProvider:
    """Gives each request to `handler`, which answers it over the connection itself; then that is closed."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.handler: Handler = lambda asked: asked.connection.sendall(OK)
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def answers(self, head: bytes, body: bytes = b"") -> None:
        """Answer with this from now on, once a request is whole. head: without the line of the status, if it is 200."""
        first = b"" if head.startswith(b"HTTP/") else b"HTTP/1.1 200 OK\r\n"
        length = (
            b"" if b"content-length" in head or b"transfer-encoding" in head else b"content-length: %d\r\n" % len(body)
        )

        def answer(asked: Asked) -> None:
            if asked.headers.get("content-length", "0") != "0" or "transfer-encoding" in asked.headers:
                asked.read_all()
            asked.connection.sendall(first + head + length + b"\r\n" + body)

        self.handler = answer

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                piece = connection.recv(65_536)
                if not piece:
                    return
                data += piece
            head, _, body = data.partition(b"\r\n\r\n")
            asked = Asked(connection, head, body)
            if asked.line.startswith("GET /v1/models"):
                connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                return
            self.asked.append(asked)
            self.handler(asked)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


@pytest.fixture(scope="module")
def serving(stack: Stack) -> Iterator[tuple[RawProvider, SentinelProcess]]:
    provider = RawProvider()
    settings = {"OPENAI_API_URL": provider.url, "OPENAI_API_KEY": KEY, "UPSTREAM_KEEPALIVE_SECONDS": "0"}
    yield provider, stack.sentinel(settings, ADMIN_KEY=ADMIN_KEY, REQUEST_BODY_TIMEOUT_SECONDS="5")
    provider.close()


@pytest.fixture
def provider(serving: tuple[RawProvider, SentinelProcess]) -> RawProvider:
    serving[0].asked.clear()
    serving[0].answers(b"content-type: application/json\r\n", b"{}")
    return serving[0]


@pytest.fixture
def sentinel(serving: tuple[RawProvider, SentinelProcess]) -> SentinelProcess:
    return serving[1]


@pytest.fixture(scope="module")
def token(stack: Stack) -> str:
    return stack.user("ana@corp.test")[1]


def give(sentinel: SentinelProcess, id_: str, user: str) -> None:
    assert send(sentinel, "POST", f"/admin/objects/{id_}/owner", ADMIN_KEY, {"user": user}).status == 200


def raw(sentinel: SentinelProcess, token: str, line: str, *headers: str, body: bytes = b"") -> Answer:
    """One request as it is written here, and its answer."""
    with raw_connection(sentinel) as connection:
        lines = [f"{line} HTTP/1.1", "host: sentinel", f"authorization: Bearer {token}", "connection: close", *headers]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        data = b""
        while piece := connection.recv(MB):
            data += piece
        return read(data)


# ------------------------------------------------------------------------------------------------- the request's way


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_method_query_and_headers(provider: RawProvider, sentinel: SentinelProcess, token: str, method: str) -> None:
    """Method, path and query pass; of the headers those of the body; our key instead of the client's token."""
    headers = [
        "range: bytes=0-9",
        'if-none-match: W/"x"',
        "openai-beta: a=1",
        "cookie: a=b",
        "openai-organization: org",
    ]
    query = f"a=1&b=%20x&key={token}&api_key=s3cret&c=x{token}&include[]=y"
    answer = raw(sentinel, token, f"{method} /v1//widgets/new/?{query}", *headers, "content-length: 0")
    assert answer.status == 200
    asked = provider.asked[0]
    assert asked.line == f"{method} /v1/widgets/new?a=1&b=%20x&include[]=y HTTP/1.1"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert (asked.headers["range"], asked.headers["if-none-match"]) == ("bytes=0-9", 'W/"x"')
    assert asked.headers["openai-beta"] == "a=1"
    assert not {"cookie", "openai-organization", "connection"} & asked.headers.keys()
    assert token.encode() not in asked.head


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/files/..", "/v1/files/%2e%2e/admin", "/v1/a/..%2f..%2fadmin", "/v1/files/%2e", "/v1/a%0d%0ax:%20y"),
        *(
            "/v1/a%00",
            "/v1/a%5cb",
            "/v1/a%252fb",
            "/v1/a%3fb",
            "/v1/a%23b",
            "/v1/a;b",
            "/v1/%C3%A9",
            "/v1/organization/users",
        ),
        *("/v1/" + "a" * 300, "/v1/" + "a/" * 40, "/v1/projects/p/roles", "/v1/ORGANIZATION", "/v1/webhook_endpoints"),
    ],
)
def test_what_passes_for_nobody(provider: RawProvider, sentinel: SentinelProcess, token: str, path: str) -> None:
    """Paths that could be read otherwise, and those that are about the organisation."""
    assert raw(sentinel, token, f"GET {path}").is_error(404, "unknown_url")
    assert [asked.line for asked in provider.asked] == []


@pytest.mark.parametrize("path", ["/v1/FILES/file-x", "/v1/Files/file-x", "/v1/v1/files/file-x", "/v1//files//file-x/"])
def test_a_family_by_any_spelling(provider: RawProvider, sentinel: SentinelProcess, token: str, path: str) -> None:
    """What nobody's record has stays hidden."""
    assert raw(sentinel, token, f"GET {path}").is_error(404, "not_found")
    assert [asked.line for asked in provider.asked] == []


@pytest.mark.parametrize("type_", ["application/octet-stream", "audio/wav", "application/sdp"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_any_kind(
    provider: RawProvider, sentinel: SentinelProcess, token: str, type_: str, chunked: bool
) -> None:
    """Its bytes and its type, with a length or in chunks."""
    body = bytes(range(256)) * 600
    if chunked:
        sent = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:5], body[5:])) + b"0\r\n\r\n"
        framing = "transfer-encoding: chunked"
    else:
        sent, framing = body, f"content-length: {len(body)}"
    assert raw(sentinel, token, "POST /v1/widgets", f"content-type: {type_}", framing, body=sent).status == 200
    asked = provider.asked[0]
    assert asked.headers["content-type"] == type_
    got = (
        asked.body if not chunked else read(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + asked.body).body
    )
    assert got == body


def form(boundary: str, *parts: tuple[str, bytes]) -> bytes:
    """A multipart body. parts: the Content-Disposition behind `form-data; `, and the value."""
    pieces = [
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (boundary.encode(), head.encode(), value)
        for head, value in parts
    ]
    return b"".join([*pieces, b"--%b--\r\n" % boundary.encode()])


FILE = ('name="file"; filename="a.bin"', bytes(range(256)) * 400)


def test_a_form_passes_byte_for_byte(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """With its boundary."""
    give(sentinel, "file-form", "ana")
    body = form("bo'und", ('name="purpose"', b"batch"), FILE, ('name="file_id"', b"file-form"))
    headers = ['content-type: multipart/form-data; boundary="bo\'und"', f"content-length: {len(body)}"]
    assert raw(sentinel, token, "POST /v1/widgets", *headers, body=body).status == 200
    assert provider.asked[0].body == body
    assert provider.asked[0].headers["content-type"] == 'multipart/form-data; boundary="bo\'und"'


@pytest.mark.parametrize(
    "field",
    [
        ('name="file_id"', b"file-another"),
        ('name="file_ids[]"', b"file-another"),
        ('name="file_id"; filename="x"', b"file-another"),
        ('name="session"', b'{"tools": [{"vector_store_ids": ["file-another"]}]}'),
        ('name="thing_id"', b"file-another"),
    ],
)
def test_an_id_behind_a_file(
    stack: Stack, provider: RawProvider, sentinel: SentinelProcess, token: str, field: tuple[str, bytes]
) -> None:
    """Another's is refused before the provider has it, although the file before it has passed."""
    give(sentinel, "file-another", "bo")
    seen: list[bytes] = []
    provider.handler = lambda asked: seen.append(asked.read_all())
    body = form("xyz", ('name="file"; filename="a.bin"', b"f" * 4 * MB), field)
    headers = ["content-type: multipart/form-data; boundary=xyz", f"content-length: {len(body)}"]
    answer = raw(sentinel, token, "POST /v1/widgets", *headers, body=body)
    assert answer.status == 404
    assert answer.error["code"] == "not_found"
    wait_until(lambda: seen, "the end of the request at the provider")
    assert len(seen[0]) > MB
    assert b"file-another" not in seen[0]


@pytest.mark.parametrize(
    ("type_", "body"),
    [
        ("multipart/form-data", form("x")),
        ("multipart/form-data; boundary=x; boundary=y", form("x")),
        ("multipart/mixed; boundary=x", form("x")),
        ("multipart/form-data; boundary=x", b"preamble\r\n" + form("x", FILE)),
        ("multipart/form-data; boundary=x", form("x", FILE) + b"epilogue"),
        ("multipart/form-data; boundary=x", form("x", FILE)[:-6]),
        ("multipart/form-data; boundary=x", form("x", ('name="a"; name="file_id"', b"1"))),
        ("multipart/form-data; boundary=x", form("x", ("name*=UTF-8''file_id", b"1"))),
        ("multipart/form-data; boundary=x", form("x", ('name="a"\r\nContent-Transfer-Encoding: base64', b"1"))),
    ],
)
def test_a_form_that_can_be_read_in_two_ways(
    provider: RawProvider, sentinel: SentinelProcess, token: str, type_: str, body: bytes
) -> None:
    """Is refused, and never whole at the provider."""
    headers = [f"content-type: {type_}", f"content-length: {len(body)}"]
    answer = raw(sentinel, token, "POST /v1/widgets", *headers, body=body)
    assert answer.is_error(400, "invalid_type", param="content-type")


@pytest.mark.parametrize(
    "type_",
    ["application/json", "application/json; charset=utf-7", "text/plain", None, "application/x-www-form-urlencoded"],
)
@pytest.mark.parametrize(
    "body",
    [
        {"file_id": "file-bos"},
        {"nested": [{"thread_id": "file-bos"}]},
        {"any_new_id": "file-bos"},
        {"input_file_id": "file-nobodys"},
    ],
)
def test_an_id_in_json(
    provider: RawProvider, sentinel: SentinelProcess, token: str, type_: str | None, body: dict[str, Any]
) -> None:
    """Whatever the client calls it."""
    give(sentinel, "file-bos", "bo")
    encoded = b"  " + json.dumps(body).encode()
    headers = [f"content-length: {len(encoded)}", *([] if type_ is None else [f"content-type: {type_}"])]
    answer = raw(sentinel, token, "POST /v1/widgets", *headers, body=encoded)
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert [asked.line for asked in provider.asked] == []


def test_a_form_of_many_parts(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """Passes, too; an id is found in the last."""
    give(sentinel, "file-bos", "bo")
    parts = [('name="a"', b"1")] * 20_000
    for last, status in ((b"x", 200), (b"file-bos", 404)):
        body = form("x", *parts, ('name="file_id_or_so_id"', last))
        headers = ["content-type: multipart/form-data; boundary=x", f"content-length: {len(body)}"]
        assert raw(sentinel, token, "POST /v1/widgets", *headers, body=body).status == status


@pytest.mark.parametrize(
    "path", ["/v1/Chat/Completions", "/v1/RESPONSES", "/v1/Images/generations", "/v1/engines/gpt-4/completions"]
)
def test_what_is_metered_elsewhere(provider: RawProvider, sentinel: SentinelProcess, token: str, path: str) -> None:
    """Does not pass unmetered under another spelling, or below a family that nobody knows."""
    body = b'{"model": "gpt-4o-mini", "stream": true}'
    headers = ["content-type: application/json", f"content-length: {len(body)}"]
    assert raw(sentinel, token, f"POST {path}", *headers, body=body).is_error(404, "unknown_url")
    assert provider.asked == []


def test_two_types_of_one_body(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """Nobody knows which a provider takes, so it is looked at."""
    give(sentinel, "file-bos", "bo")
    body = b'{"file_id": "file-bos"}'
    headers = [
        f"content-length: {len(body)}",
        "content-type: application/octet-stream",
        "content-type: application/json",
    ]
    assert raw(sentinel, token, "POST /v1/widgets", *headers, body=body).is_error(404, "not_found", param="file_id")
    assert provider.asked == []


@pytest.mark.parametrize("head", [b"content-type: text/plain\r\n", b"server: x\r\n"])
def test_json_that_does_not_say_so(provider: RawProvider, sentinel: SentinelProcess, token: str, head: bytes) -> None:
    """What it creates is its user's all the same, and what it costs is billed."""
    id_ = f"file-{len(head)}"
    usage = {"prompt_tokens": 5, "completion_tokens": 700 + len(head)}
    provider.answers(head, json.dumps({"id": id_, "usage": usage}).encode())
    assert raw(sentinel, token, "POST /v1/files").status == 200
    assert send(sentinel, "GET", f"/admin/objects/{id_}/owner", ADMIN_KEY).status == 200
    wait_until(lambda: 700 + len(head) in {line.get("output_tokens") for line in sentinel.log()}, "its bill")


def test_an_id_in_a_form_or_a_query(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """As in JSON."""
    give(sentinel, "file-bos", "bo")
    for body in (b"a=1&file_id=file%2Dbos", b"data%5Bfile_id%5D=file-bos"):
        headers = ["content-type: application/x-www-form-urlencoded", f"content-length: {len(body)}"]
        answer = raw(sentinel, token, "POST /v1/widgets", *headers, body=body)
        assert answer.is_error(404, "not_found", param="file_id")
    for query in ("after=file-bos", "before=file-bos", "a=1;after=file-bos", "x_id=file%2dbos", "file_id=file-nobodys"):
        answer = raw(sentinel, token, f"GET /v1/widgets?{query}")
        assert (answer.status, answer.error["code"]) == (404, "not_found"), query
    assert [asked.line for asked in provider.asked] == []


def test_json_is_sent_as_json(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """What we judge is what is sent: its own bytes, decoded, and the one type that it was read as."""
    body = b'{"a":  1, "b": [1.0, "\\u00e9"]}'
    raw(sentinel, token, "POST /v1/widgets", "content-type: text/plain", f"content-length: {len(body)}", body=body)
    asked = provider.asked[0]
    assert (asked.body, asked.headers["content-type"]) == (body, "application/json")
    broken = b'{"a": NaN}'
    answer = raw(
        sentinel,
        token,
        "POST /v1/widgets",
        "content-type: application/json",
        f"content-length: {len(broken)}",
        body=broken,
    )
    assert answer.is_error(400, "invalid_json")


def test_another_body_in_a_content_coding(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """Could not be looked into."""
    headers = ["content-type: application/octet-stream", "content-encoding: gzip", "content-length: 3"]
    assert raw(sentinel, token, "POST /v1/widgets", *headers, body=b"abc").status == 415


# -------------------------------------------------------------------------------------------------- the answer's way


def test_headers_of_a_download(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """What tells of the body passes, in any status; cookies and the organisation do not."""
    give(sentinel, "file-down", "ana")
    head = b"HTTP/1.1 206 Partial Content\r\ncontent-type: application/pdf\r\ncontent-range: bytes 0-4/10\r\n"
    head += b'accept-ranges: bytes\r\netag: "e"\r\ncontent-disposition: attachment; filename="a.pdf"\r\n'
    head += b"last-modified: Sun, 29 Nov 2026 10:00:00 GMT\r\nset-cookie: a=b\r\nopenai-organization: org\r\n"
    provider.answers(head, b"\x00\xff\x01ab")
    answer = raw(sentinel, token, "GET /v1/files/file-down/content", "range: bytes=0-4")
    assert (answer.status, answer.body) == (206, b"\x00\xff\x01ab")
    assert (answer.headers["content-range"], answer.headers["etag"]) == ("bytes 0-4/10", '"e"')
    assert answer.headers["content-disposition"] == 'attachment; filename="a.pdf"'
    assert (answer.headers["content-length"], answer.headers["accept-ranges"]) == ("5", "bytes")
    assert not {"set-cookie", "openai-organization"} & answer.headers.keys()


@pytest.mark.parametrize(("status", "reason"), [(204, b"No Content"), (304, b"Not Modified")])
def test_answers_without_a_body(
    provider: RawProvider, sentinel: SentinelProcess, token: str, status: int, reason: bytes
) -> None:
    """Have none here either, and no length."""
    provider.handler = lambda asked: asked.connection.sendall(b'HTTP/1.1 %d %b\r\netag: "x"\r\n\r\n' % (status, reason))
    answer = raw(sentinel, token, "GET /v1/widgets")
    assert (answer.status, answer.body, answer.headers["etag"]) == (status, b"", '"x"')
    assert "content-length" not in answer.headers


def test_redirections_are_passed_on(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """Not followed; one to the provider itself leads here, and no address of the provider's is told."""
    for location, expected in (
        (f"{provider.url}/widgets/2?a=1", "/v1/widgets/2?a=1"),
        ("/v1/widgets/2", "/v1/widgets/2"),
        (f"{provider.url.removesuffix('/v1')}/other", "/other"),
        (f"https://store.test/blob?sig={KEY}", "https://store.test/blob?sig=[redacted]"),
    ):
        provider.answers(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: %b\r\n" % location.encode(), b"")
        answer = raw(sentinel, token, "POST /v1/widgets", "content-length: 0")
        assert (answer.status, answer.headers["location"]) == (307, expected)
    assert len(provider.asked) == 4


def test_our_key_is_blotted_out(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """Cut anywhere; with a length the answer keeps it."""
    key = KEY.encode()

    def answer(asked: Asked) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % (2 * len(key) + 4)
        for piece in (head, b"a" + key[:7], key[7:40], key[40:] + b"b", key[:20] + b"|", b"c" + key[20:]):
            asked.connection.sendall(piece)
            time.sleep(0.02)

    provider.handler = answer
    got = raw(sentinel, token, "GET /v1/widgets")
    assert len(got.body) == 2 * len(key) + 4
    assert key not in got.body
    assert got.body == b"a" + b"[redacted]".ljust(len(key), b"*") + b"b" + key[:20] + b"|c" + key[20:]
    provider.answers(
        b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n", b'{"error":{"message":"%b"}}' % key
    )
    refused = raw(sentinel, token, "GET /v1/widgets")
    assert (refused.status, refused.json["error"]["message"]) == (400, "[redacted]")


@pytest.mark.parametrize(
    ("status", "ours"), [(400, 400), (404, 404), (409, 409), (429, 429), (401, 502), (403, 502), (500, 502)]
)
def test_refusals_cost_nothing(
    stack: Stack, provider: RawProvider, sentinel: SentinelProcess, status: int, ours: int
) -> None:
    """Those that concern the client pass, with Retry-After; those about our key and the provider do not."""
    user, token = stack.user(f"refused-{status}@corp.test", limits={"ai_requests": 5})
    provider.answers(
        b"HTTP/1.1 %d No\r\ncontent-type: application/json\r\nretry-after: 7\r\n" % status, b'{"error":{}}'
    )
    for _ in range(2):
        answer = raw(sentinel, token, "GET /v1/widgets")
        assert answer.status == ours
        assert (answer.headers.get("retry-after") == "7") is (ours == status)
        assert answer.headers["x-sentinel-quota-remaining-requests"] == "4"
    assert user.used["ai_requests"] == 0


# -------------------------------------------------------------------------------------------------------- the books


def test_one_request_of_the_quota(stack: Stack, provider: RawProvider, sentinel: SentinelProcess) -> None:
    """Counted by quota and windows, refused beyond them, told in headers; booked once."""
    _, token = stack.user("counted@corp.test", limits={"ai_requests": 2})
    for left in ("1", "0"):
        answer = raw(sentinel, token, "GET /v1/widgets")
        assert (answer.status, answer.headers["x-sentinel-quota-remaining-requests"]) == (200, left)
    assert raw(sentinel, token, "GET /v1/widgets").is_error(429, "insufficient_quota", "insufficient_quota")
    assert len(provider.asked) == 2
    assert stack.booked(2, "counted@corp.test") == {"ai_requests": 2, "ai_input_tokens": 0, "ai_output_tokens": 0}


USAGE = {
    "chat": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
    "responses": {
        "input_tokens": 7,
        "output_tokens": 5,
        "total_tokens": 12,
        "input_tokens_details": {"cached_tokens": 3},
    },
}


@pytest.mark.parametrize("shape", USAGE)
@pytest.mark.parametrize("stream", [False, True])
def test_usage_is_billed(
    stack: Stack, provider: RawProvider, sentinel: SentinelProcess, shape: str, stream: bool
) -> None:
    """Of an answer in JSON, or of the events of a stream, whatever its family."""
    email = f"spends-{shape}-{stream}@corp.test"
    _, token = stack.user(email)
    if stream:
        events = [{"type": "created", "response": {"id": "d1"}}, {"type": "done", "response": {"usage": USAGE[shape]}}]
        sse = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
        provider.answers(b"content-type: text/event-stream\r\n", sse)
    else:
        provider.answers(
            b"content-type: application/json\r\n", json.dumps({"id": "d2", "usage": USAGE[shape]}).encode()
        )
    body = b'{"model":"gpt-5"}'
    headers = ["content-type: application/json", f"content-length: {len(body)}"]
    answer = raw(sentinel, token, "POST /v1/decisions", *headers, body=body)
    assert answer.status == 200
    assert not stream or answer.body == sse
    assert stack.booked(1, email) == {"ai_requests": 1, "ai_input_tokens": 7, "ai_output_tokens": 5}


def test_what_was_billed_before_is_not_billed_again(
    stack: Stack, provider: RawProvider, sentinel: SentinelProcess
) -> None:
    """A response that is looked at tells the usage that it had when it was generated."""
    _, token = stack.user("looks@corp.test")
    give(sentinel, "resp_looked", "looks")
    provider.answers(
        b"content-type: application/json\r\n", json.dumps({"id": "resp_looked", "usage": USAGE["responses"]}).encode()
    )
    for method, path in (("GET", ""), ("POST", "/cancel")):
        assert raw(sentinel, token, f"{method} /v1/responses/resp_looked{path}", "content-length: 0").status == 200
    assert stack.booked(2, "looks@corp.test") == {"ai_requests": 2, "ai_input_tokens": 0, "ai_output_tokens": 0}


def test_a_client_that_leaves_a_download(stack: Stack, provider: RawProvider, sentinel: SentinelProcess) -> None:
    """The provider's connection is closed; it was one request."""
    _, token = stack.user("leaves@corp.test")
    ended = threading.Event()

    def answer(asked: Asked) -> None:
        asked.connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: x/y\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                asked.connection.sendall(b"4\r\nabcd\r\n")
                time.sleep(0.01)
        ended.set()

    provider.handler = answer
    with raw_connection(sentinel) as connection:
        connection.sendall(b"GET /v1/widgets HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n\r\n" % token.encode())
        assert connection.recv(1000)
    assert ended.wait(PATIENCE_SECONDS)
    assert stack.booked(1, "leaves@corp.test")["ai_requests"] == 1


def test_a_client_that_leaves_an_upload(stack: Stack, provider: RawProvider, sentinel: SentinelProcess) -> None:
    """The provider's connection is closed, and nothing was spent."""
    user, token = stack.user("uploads@corp.test", limits={"ai_requests": 5})
    got: list[bytes] = []
    provider.handler = lambda asked: got.append(asked.read_all())
    with raw_connection(sentinel) as connection:
        head = f"POST /v1/widgets HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 1000000\r\n"
        connection.sendall(head.encode() + b"content-type: application/octet-stream\r\n\r\n" + b"x" * 100_000)
        wait_until(lambda: provider.asked, "the request at the provider")
    wait_until(lambda: got, "the end of the request at the provider")
    assert len(got[0]) < 1_000_000
    wait_until(lambda: any(line["outcome"] == "client_gone" for line in sentinel.ended()), "the line in the log")
    answer = raw(sentinel, token, "GET /v1/organization")
    assert answer.status == 404
    assert user.used["ai_requests"] == 0


def test_an_answer_before_the_end_of_an_upload(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """Reaches the client, who need not have sent everything."""
    provider.handler = lambda asked: asked.connection.sendall(
        b'HTTP/1.1 413 Too Large\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{"error":{}}'
    )
    with raw_connection(sentinel) as connection:
        head = f"POST /v1/widgets HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 1000000\r\n"
        connection.sendall(head.encode() + b"content-type: application/octet-stream\r\n\r\n" + b"x" * 1000)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_stops_sending(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """408, after as long as a body may rest."""
    with raw_connection(sentinel) as connection:
        head = f"POST /v1/widgets HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 1000000\r\n"
        connection.sendall(head.encode() + b"content-type: application/octet-stream\r\n\r\n" + b"x" * 1000)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 408 ")


def test_an_answer_that_breaks_off(stack: Stack, provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """Is no whole answer to the client either; events end with an error."""
    provider.handler = lambda asked: asked.connection.sendall(
        b"HTTP/1.1 200 OK\r\ncontent-type: x/y\r\ncontent-length: 100\r\n\r\nabc"
    )
    answer = raw(sentinel, token, "GET /v1/widgets")
    assert (answer.headers["content-length"], len(answer.body) < 100) == ("100", True)
    provider.handler = lambda asked: asked.connection.sendall(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 100\r\n\r\ndata: {}\n\ndata: {"
    )
    events = raw(sentinel, token, "GET /v1/widgets").body
    assert events.startswith(b"data: {}\n\n")
    assert b'"code":"upstream_error"' in events
    wait_until(lambda: sentinel.ended()[-1]["outcome"] == "broken", "the line in the log")


# ------------------------------------------------------------------------------------------------------ what is held


def peak_kb(sentinel: SentinelProcess) -> int:
    """The most memory that it had since `forget_peak`."""
    status = Path(f"/proc/{sentinel.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def forget_peak(sentinel: SentinelProcess) -> int:
    Path(f"/proc/{sentinel.pid}/clear_refs").write_text("5")
    return peak_kb(sentinel)


GB = 1024 * MB
BLOCK = b"\x5a" * MB
MOST_KB = 12 * 1024
"""Buffers of sockets and of the loop, and what Python's allocator takes ahead. A gigabyte is a hundred times more."""


def test_a_gigabyte_up(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """In little memory, in a form, looked through; the provider gets every byte."""
    got = 0

    def take(asked: Asked) -> None:
        nonlocal got
        got = len(asked.body)
        while got < int(asked.headers["content-length"]):
            got += len(asked.connection.recv(MB))
        asked.connection.sendall(OK)

    provider.handler = take
    begin = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    end = b"\r\n--x--\r\n"
    before = forget_peak(sentinel)
    with raw_connection(sentinel) as connection:
        lines = [
            "POST /v1/widgets HTTP/1.1", "host: x", f"authorization: Bearer {token}",
            "content-type: multipart/form-data; boundary=x", f"content-length: {len(begin) + GB + len(end)}", "", "",
        ]  # fmt: skip
        connection.sendall("\r\n".join(lines).encode() + begin)
        for _ in range(1024):
            connection.sendall(BLOCK)
        connection.sendall(end)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
    assert got == len(begin) + GB + len(end)
    assert peak_kb(sentinel) - before < MOST_KB


def test_a_gigabyte_down(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """The same the other way, with its length."""

    def give_all(asked: Asked) -> None:
        asked.connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: x/y\r\ncontent-length: %d\r\n\r\n" % GB)
        for _ in range(1024):
            asked.connection.sendall(BLOCK)

    provider.handler = give_all
    before = forget_peak(sentinel)
    with raw_connection(sentinel) as connection:
        head = f"GET /v1/widgets HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        connection.sendall(head.encode())
        got, first = 0, connection.recv(MB)
        assert b"content-length: %d\r\n" % GB in first
        got = len(first) - first.index(b"\r\n\r\n") - 4
        while piece := connection.recv(MB):
            got += len(piece)
    assert got == GB
    assert peak_kb(sentinel) - before < MOST_KB


def test_who_reads_slowly_slows_the_sender(provider: RawProvider, sentinel: SentinelProcess, token: str) -> None:
    """Back-pressure, both ways: what nobody takes is not asked for."""
    sent = 0

    def flood(asked: Asked) -> None:
        nonlocal sent
        asked.connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: x/y\r\ncontent-length: %d\r\n\r\n" % GB)
        with contextlib.suppress(OSError):
            while True:
                sent += asked.connection.send(BLOCK)

    provider.handler = flood
    with raw_connection(sentinel) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        head = f"GET /v1/widgets HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000)
        settled(lambda: sent)
        assert sent < 64 * MB
    ended, pushed = threading.Event(), 0

    def take_nothing(_: Asked) -> None:
        ended.wait(PATIENCE_SECONDS)

    provider.handler = take_nothing
    with raw_connection(sentinel) as connection:
        head = f"POST /v1/widgets HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {GB}\r\n"
        connection.sendall(head.encode() + b"content-type: application/octet-stream\r\n\r\n")
        connection.settimeout(2)
        with contextlib.suppress(TimeoutError):
            while pushed < GB:
                pushed += connection.send(BLOCK)
        ended.set()
    assert pushed < 64 * MB


def settled(number: Callable[[], int]) -> int:
    """A number that grows, once it has stopped growing for a while."""
    last, since = -1, time.monotonic()

    def rests() -> bool:
        nonlocal last, since
        now = number()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 0.5

    wait_until(rests, "the flood to rest")
    return last
