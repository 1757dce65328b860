"""Whatever comes over the wire, the built-in governance answers in its envelope, and no error is its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.client import Answer, read
from tests.support.governance import API_KEY, Governance, governance
from tests.support.waiting import PATIENCE_SECONDS

INCREMENT, BATCH = "/api/v1/usage/external/increment", "/api/v1/usage/external/batch-increment"
LIMITS, USERS_ME = "/api/v1/limits/external/", "/api/v1/users/me"
TELLTALES = ("select ", "insert ", "sqlite", "psycopg", "postgres", "sqlalchemy", "traceback", "/tmp", ".py")
"""In no answer."""

numbers = st.integers() | st.floats() | st.sampled_from([2**53, 2**63, 2**64, 10**40, -1, True, 1e3])
odd_texts = ["\x00", "a\x00b@x.test", "ANA@corp.test", "ana@corp.test\x00", "\u0130@corp.test", "e\u0301"]
texts = st.text() | st.sampled_from(odd_texts)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    ["email", "aiRequests", "aiInputTokens", "aiOutputTokens", "costMicroUsd", "model", "timestamp", "other"]
)
moments = st.datetimes().map(lambda moment: moment.isoformat() + "Z") | st.sampled_from(
    ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2026-02-30T00:00:00Z", "20261129", "0"]
)
items = st.dictionaries(names, values | moments, max_size=8).map(lambda item: {"email": "ana@corp.test", **item})


@pytest.fixture
def house(database_url: str) -> Iterator[Governance]:
    with governance(database_url) as running:
        running.set_plan("team", requests=10)
        running.add_user("ana@corp.test", "team", external_id="ext-ana")
        yield running


def send(house: Governance, method: str, target: bytes, body: bytes = b"", *lines: bytes) -> Answer | None:
    """One request, byte by byte as it is said here; None if the server only closed."""
    head = [method.encode() + b" " + target + b" HTTP/1.1", b"host: x", b"connection: close", *lines]
    head += [b"x-api-key: " + API_KEY.encode()]
    if not any(line.lower().startswith(b"transfer-encoding") for line in lines):
        head += [b"content-length: %d" % len(body)]
    port = int(house.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
        received = b""
        try:
            connection.sendall(b"\r\n".join([*head, b"", b""]) + body)
            while piece := connection.recv(65_536):
                received += piece
        except (BrokenPipeError, ConnectionResetError):
            # It did not want to read it all.
            pass
    return read(received) if received else None


def is_fine(answer: Answer | None, *, in_envelope: bool = True) -> bool:
    """Whether it says what is wrong with the request, if anything, and nothing about us."""
    assert answer is not None
    assert answer.status < 500, answer
    told = answer.body.decode().lower()
    assert not any(word in told for word in TELLTALES), told
    if in_envelope:
        assert isinstance(json.loads(answer.body)["success"], bool)
    return True


def fuzz(examples: int = 150) -> settings:
    return settings(max_examples=examples)


def test_bodies_of_any_bytes(house: Governance) -> None:
    """400, unless they are a report."""

    @fuzz()
    @given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
    def check(body: bytes) -> None:
        for target in (INCREMENT, BATCH):
            assert is_fine(send(house, "POST", target.encode(), body))

    check()


def test_items_of_any_kind(house: Governance) -> None:
    """Each has its result; what cannot be booked is refused, and what can be is."""

    @fuzz()
    @given(st.lists(items | values, min_size=1, max_size=5))
    def check(drawn: list[Any]) -> None:
        # Surrogates come as escapes, and NaN as no JSON knows it.
        body = json.dumps({"increments": drawn}).encode()
        answer = send(house, "POST", BATCH.encode(), body)
        assert is_fine(answer)
        assert answer is not None
        if answer.status == 200:
            data = answer.json["data"]
            assert len(data["results"]) == len(drawn)
            assert data["failed"] == sum(not result["success"] for result in data["results"])

    check()


def test_names_of_any_kind(house: Governance) -> None:
    """404 for whom nobody knows, however it is spelt."""

    @fuzz()
    @given(st.binary(min_size=1, max_size=40).map(lambda name: b"".join(b"%%%02X" % byte for byte in name)))
    def check(name: bytes) -> None:
        answer = send(house, "GET", LIMITS.encode() + name)
        assert is_fine(answer)

    check()
    odd = (b"%00", b"a%00b", b"%", b"%zz", b"%ff%fe", b"%ED%A0%80", b"..%2F..", b"a/b", b"'%20OR%201=1", b"%F0%9F")
    for name in odd:
        answer = send(house, "GET", LIMITS.encode() + name)
        assert is_fine(answer)
        assert answer is not None
        assert answer.status == 404, name
    # Bytes that no URL has.
    assert is_fine(send(house, "GET", LIMITS.encode() + b"\xff\xfe"), in_envelope=False)


def test_headers_of_any_kind(house: Governance) -> None:
    """Keys, tokens and Idempotency-Keys; the user's key is not among them."""

    @fuzz()
    @given(st.binary(max_size=60).map(lambda value: bytes(byte for byte in value if byte >= 32 and byte != 127)))
    def check(value: bytes) -> None:
        for name in (b"idempotency-key", b"content-type", b"content-encoding"):
            assert is_fine(send(house, "POST", BATCH.encode(), b"{}", name + b": " + value))
        for scheme in (b"Bearer ", b"Bearer sk-sentinel-", b""):
            answer = send(house, "GET", USERS_ME.encode(), b"", b"authorization: " + scheme + value)
            assert is_fine(answer)
            assert answer is not None
            assert answer.status in {401, 429}

    check()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"increments":' + b"[" * 2_000 + b"]" * 2_000 + b"}",
        b'{"increments":[{"email":"\\ud800@x.test"}]}',
        b'{"increments":[{"email":"ana@corp.test","model":"\\u0000"}]}',
        b'{"increments":[{"email":"ana@corp.test","aiRequests":1e400}]}',
        b'{"increments":[{"email":"ana@corp.test","aiRequests":' + b"9" * 5_000 + b"}]}",
        b'{"increments":[{"email":"' + b"x" * 3_000_000 + b'"}]}',
    ],
    ids=range(8),
)
def test_bodies_that_have_broken_others(house: Governance, body: bytes) -> None:
    """Deep, long, not quite Unicode, and with numbers that are none."""
    assert is_fine(send(house, "POST", BATCH.encode(), body))


def test_of_two_equal_names_one_counts(house: Governance) -> None:
    """The last one, as everywhere; no sum of both."""
    body = b'{"increments":[{"email":"ana@corp.test","aiRequests":5,"aiRequests":1}]}'
    assert is_fine(send(house, "POST", BATCH.encode(), body))
    assert house.used("ana@corp.test")[0] == 1


def test_bodies_that_are_too_large(house: Governance) -> None:
    """413, whole or in chunks; whoever goes on sending may find the connection closed."""
    large = b" " * 10_000_000
    chunks = b"".join(b"%x\r\n" % 65_536 + b" " * 65_536 + b"\r\n" for _ in range(150)) + b"0\r\n\r\n"
    for answer in (
        send(house, "POST", BATCH.encode(), large),
        send(house, "POST", BATCH.encode(), chunks, b"transfer-encoding: chunked"),
    ):
        assert answer is None or answer.status == 413
    small = b'{"increments":[{"email":"ana@corp.test","aiRequests":1}]}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in small) + b"0\r\n\r\n"
    assert is_fine(send(house, "POST", BATCH.encode(), chunks, b"transfer-encoding: chunked"))
    assert house.used("ana@corp.test")[0] == 1


def test_a_body_that_never_ends_holds_up_nobody(house: Governance) -> None:
    """It is held by its connection, and by nothing else."""
    port = int(house.url.rpartition(":")[2])
    head = f"POST {BATCH} HTTP/1.1\r\nhost: x\r\nx-api-key: {API_KEY}\r\ncontent-length: 100\r\n\r\n".encode()
    slow = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) for _ in range(60)]
    for connection in slow:
        connection.sendall(head + b'{"increments":')
    assert house.book({"email": "ana@corp.test", "aiRequests": 1}).status == 200
    assert house.used("ana@corp.test")[0] == 1
    for connection in slow:
        connection.close()
