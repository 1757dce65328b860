"""Lists show one's own objects alone, whatever the provider's pages hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.integration.test_passthrough import KEY, Asked, RawProvider, give
from tests.support.client import Answer
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import send

ADMIN_KEY = "operators-key"


class Shelf(RawProvider):
    """A provider with a list of objects by their ids, in order, in pages of at most 100."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.handler = self._list

    def _list(self, asked: Asked) -> None:
        query = parse_qs(urlsplit(asked.line.split(" ")[1]).query)
        limit = min(100, int(query.get("limit", ["20"])[0]))
        if "before" in query:
            end = self.ids.index(query["before"][0])
            start, more = max(0, end - limit), end > limit
        else:
            start = self.ids.index(query["after"][0]) + 1 if "after" in query else 0
            end, more = start + limit, start + limit < len(self.ids)
        ids = self.ids[start:end]
        body = {"object": "list", "data": [{"id": id_, "n": 1.50} for id_ in ids], "has_more": more, "extra": {"a": 1}}
        body |= {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
        answer = json.dumps(body, indent=1).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
        asked.connection.sendall(head + answer)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


@pytest.fixture(scope="module")
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    yield shelf
    shelf.close()


@pytest.fixture(scope="module")
def sentinel(stack: Stack, shelf: Shelf) -> SentinelProcess:
    return stack.sentinel({"OPENAI_API_URL": shelf.url, "OPENAI_API_KEY": KEY}, ADMIN_KEY=ADMIN_KEY)


@pytest.fixture
def token(stack: Stack, shelf: Shelf) -> str:
    shelf.asked.clear()
    return stack.user("ana@corp.test")[1]


def listed(sentinel: SentinelProcess, token: str, query: str = "", family: str = "batches") -> Any:
    answer: Answer = send(sentinel, "GET", f"/v1/{family}{query}", token)
    assert answer.status == 200, answer.body
    return answer.json


def test_a_page_with_some_of_ones_own(shelf: Shelf, sentinel: SentinelProcess, token: str) -> None:
    """It keeps these, its other fields, and its place among the pages."""
    shelf.ids = [f"a{n}" for n in range(40)]
    give(sentinel, "a3", "ana")
    give(sentinel, "a5", "ana")
    give(sentinel, "a4", "bo")
    page = listed(sentinel, token)
    assert [each["id"] for each in page["data"]] == ["a3", "a5"]
    assert (page["first_id"], page["last_id"], page["has_more"], page["extra"]) == ("a3", "a5", True, {"a": 1})
    assert listed(sentinel, token, "?after=a5") == {
        **page,
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_a_page_that_is_ones_own(shelf: Shelf, sentinel: SentinelProcess, token: str) -> None:
    """Passes byte for byte."""
    shelf.ids = ["b1", "b2"]
    for id_ in shelf.ids:
        give(sentinel, id_, "ana")
    body = send(sentinel, "GET", "/v1/batches", token).body
    assert body.startswith(b'{\n "object": "list"')
    assert b'"n": 1.5' in body


def test_pages_of_others_are_passed_over(shelf: Shelf, sentinel: SentinelProcess, token: str) -> None:
    """In larger steps; as many as were asked for, and that there are more."""
    shelf.ids = [f"c{n}" for n in range(1000)]
    for number in (700, 701, 702):
        give(sentinel, f"c{number}", "ana")
    page = listed(sentinel, token, "?limit=2&order=asc&key=s3cret")
    assert [each["id"] for each in page["data"]] == ["c700", "c701"]
    assert page["has_more"]
    assert len(shelf.asked) == 8
    assert "order=asc" in shelf.asked[-1].line
    assert not any("s3cret" in asked.line for asked in shelf.asked)
    assert "limit=100" in shelf.asked[-1].line
    rest = listed(sentinel, token, "?limit=2&after=c701")
    assert ([each["id"] for each in rest["data"]], rest["last_id"]) == (["c702"], "c702")
    back = listed(sentinel, token, "?limit=2&before=c700")
    assert (back["data"], back["has_more"]) == ([], False)


def test_there_is_an_end(shelf: Shelf, sentinel: SentinelProcess, token: str) -> None:
    """Nobody looks through all of an organisation's objects for one user's."""
    shelf.ids = [f"d{n}" for n in range(15_000)]
    answer = send(sentinel, "GET", "/v1/batches", token)
    assert answer.is_error(503, "service_unavailable", "server_error")
    assert answer.headers["x-should-retry"] == "false"
    assert len(shelf.asked) == 100


def test_a_family_that_nobody_knows(shelf: Shelf, sentinel: SentinelProcess, token: str) -> None:
    """Another's are left out, nobody's stay; also where a word behind it could be an id."""
    shelf.ids = ["e1", "e2", "e3"]
    give(sentinel, "e1", "ana")
    give(sentinel, "e2", "bo")
    for family in ("widgets", "widgets/special"):
        assert [each["id"] for each in listed(sentinel, token, family=family)["data"]] == ["e1", "e3"]


def test_below_an_object_of_ones_own(shelf: Shelf, sentinel: SentinelProcess, token: str) -> None:
    """All of it."""
    shelf.ids = ["f1", "f2"]
    give(sentinel, "conv_f", "ana")
    give(sentinel, "f2", "bo")
    assert len(listed(sentinel, token, family="conversations/conv_f/items")["data"]) == 2


def test_what_all_may_use(stack: Stack, shelf: Shelf, token: str) -> None:
    """Is listed to all."""
    shelf.ids = ["g1", "g2"]
    settings = {"OPENAI_API_URL": shelf.url, "OPENAI_API_KEY": KEY, "SHARED_OBJECTS": "files"}
    sentinel = stack.sentinel(settings)
    assert len(listed(sentinel, token, family="files")["data"]) == 2
    assert listed(sentinel, token, family="batches")["data"] == []
    assert send(sentinel, "GET", "/v1/files/g1", token).status == 200
    sentinel.kill()


def test_a_part_of_a_list(shelf: Shelf, sentinel: SentinelProcess, token: str) -> None:
    """Could be of anybody's objects, also in a family that nobody knows."""
    before = shelf.handler
    shelf.answers(b"HTTP/1.1 206 Partial\r\ncontent-type: application/json\r\n", b'{"id": "x"}, {"id": "y"}]}')
    try:
        answer = send(sentinel, "GET", "/v1/widgets", token, Range="bytes=9-")
    finally:
        shelf.handler = before
    assert answer.is_error(502, "upstream_error", "server_error")


@pytest.mark.parametrize(
    ("type_", "body"),
    [
        (b"application/json", b'{"files": []}'),
        (b"application/json", b"[]"),
        (b"application/json", b'{"data": [], '),
        (b"text/csv", b"id\nfile-1\n"),
        (b"text/event-stream", b'data: {"id": "file-1"}\n\n'),
        (b"application/json", b'{"data": [' + b'{"id": "x"},' * 800_000 + b"{}]}"),
    ],
    ids=["no data", "no object", "no JSON", "no list", "events", "too large"],
)
def test_a_list_that_cannot_be_looked_through(
    shelf: Shelf, sentinel: SentinelProcess, token: str, type_: bytes, body: bytes
) -> None:
    """Is none: nobody knows whose it is."""
    before = shelf.handler
    shelf.answers(b"content-type: %b\r\n" % type_, body)
    try:
        answer = send(sentinel, "GET", "/v1/files", token)
    finally:
        shelf.handler = before
    assert answer.is_error(502, "upstream_error", "server_error")
