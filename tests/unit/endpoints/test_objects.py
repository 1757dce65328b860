"""Objects in what is passed through: named, created, listed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.families import RESPONSE_SECONDS, ObjectPath, object_path_of
from sentinel.endpoints.objects import (
    Created,
    created_beside,
    created_in,
    created_in_event,
    created_in_response,
    first_id,
    in_lines,
    in_query,
    page_of,
    query_without_credentials,
    read_body,
    told_in_events,
    usage_in,
)
from sentinel.error import InvalidJson, InvalidType
from sentinel.tokens.usage import NOTHING


def about(path: str) -> ObjectPath:
    found = object_path_of(path.split("/"))
    assert found is not None
    return found


def test_a_body_that_names_objects() -> None:
    """By fields that are known, and by those that end as ids do."""
    body = {"model": "m", "file_id": "f", "new_id": "n", "video": {"id": "v"}, "metadata": {"file_id": "x"}}
    read = read_body(json.dumps(body).encode())
    assert (read.model, read.input_file) == ("m", "")
    assert read_body(b'{"input_file_id": "f1"}').input_file == "f1"
    assert [(each.id, each.kind, each.is_known) for each in read.references] == [
        ("f", "files", True),
        ("n", "", False),
        ("v", "videos", True),
    ]


@pytest.mark.parametrize("body", [b"[1]", b'"x"', b'{"model": 3}', b"{}"])
def test_a_body_without_a_model(body: bytes) -> None:
    """Is one all the same."""
    assert read_body(body).model == ""


@pytest.mark.parametrize(
    "body", [b"{", b"{} x", b'{"a": NaN}', b"\xff", '{"file_id": "f"}'.encode("utf-16"), b"[" * 100_000]
)
def test_no_body_in_json(body: bytes) -> None:
    """What a provider might read otherwise."""
    with pytest.raises(InvalidJson):
        read_body(body)


def test_the_lines_of_a_batch() -> None:
    """What each names, once; an id that an application has chosen is none."""
    line = b'{"custom_id": "c", "body": {"previous_response_id": "r1", "tools": [{"file_ids": ["f1"]}]}}'
    found = in_lines(b"\n".join([line, b"", line, b"no JSON", b'{"body": {"input": "x"}}']))
    assert {each.id for each in found} == {"r1", "f1"}
    assert len(found) == 2
    for odd in (b'{"file_id": "f"', b'{"file_id": ' + b"[" * 100_000):
        with pytest.raises(InvalidType):
            in_lines(odd)


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("files", b"after=f1&limit=2", [("f1", True)]),
        ("conversations/c1/items", b"after=i1", [("i1", False)]),
        ("widgets", b"before=w1", [("w1", False)]),
        ("files", b"a=1;after_id=f1", [("f1", True)]),
        ("files", b"file_ids%5B%5D=f%31&x_id=y", [("f1", True), ("y", False)]),
        ("files", b"filter[file_id]=f1&video[id]=v1&a.b_id=y", [("f1", True), ("v1", True), ("y", False)]),
        ("chat/completions", b"metadata[file_id]=mine", []),
        ("files", b"purpose=batch", []),
    ],
)
def test_a_query_that_names_objects(path: str, query: bytes, expected: list[tuple[str, bool]]) -> None:
    """Where a page begins it is of the family; however it is spelled and parted."""
    found = in_query(query, about(path))
    assert [(each.id, each.is_known) for each in found] == expected


def test_a_query_without_credentials() -> None:
    """Neither under a name for them, nor the caller's own under any."""
    query = b"a=1&KEY=x&api_key=y&b=my-token&c=%20&k%65y=x&d=m%79-token&e=1;key=x"
    assert query_without_credentials(query, [b"my-token"]) == b"a=1&c=%20"


@pytest.mark.parametrize(
    ("path", "told", "expected"),
    [
        ("files", {"id": "f1"}, {"f1": None}),
        (
            "responses/compact",
            {"id": "r1", "output": [{"id": "o1"}, {}]},
            {"r1": RESPONSE_SECONDS, "o1": RESPONSE_SECONDS},
        ),
        ("conversations/c1/items", {"object": "list", "data": [{"id": "i1"}, {"id": 3}, 4]}, {"i1": None}),
        ("uploads/u1/complete", {"id": "u1", "file": {"id": "f1"}}, {"f1": None}),
        ("batches", {"id": "b1", "output_file_id": "f1", "error_file_id": None}, {"b1": None, "f1": None}),
        ("batches", {"data": [{"id": "b1", "output_file_id": "f1"}]}, {"b1": None, "f1": None}),
        (
            "fine_tuning/jobs/j1",
            {"id": "j1", "result_files": ["f1"], "fine_tuned_model": "ft:m"},
            {"f1": None, "ft:m": None},
        ),
        ("widgets", {"id": "w1", "other": {"id": "x"}}, {"w1": None}),
        ("files", [], {}),
        ("files", {"data": "x"}, {}),
    ],
)
def test_what_an_answer_creates(path: str, told: Any, expected: dict[str, int | None]) -> None:
    """Its id, and what the family makes beside it; not what the path has named."""
    assert {each.id: each.seconds for each in created_in(about(path), told, creates=True)} == expected


def test_what_is_seen_of_ones_own() -> None:
    """Asking for an object tells of what has come about beside it, and of nothing else."""
    told = {"id": "b2", "output_file_id": "f1"}
    assert created_in(about("batches/b1"), told, creates=False) == (Created("f1", None),)
    assert created_in(about("files/f1"), {"id": "f2", "output_file_id": "f3"}, creates=False) == ()
    assert created_beside(about("batches/b1"))
    assert not created_beside(about("files/f1/content"))


RESPONSE: dict[str, Any] = {
    "id": "r1",
    "output": [
        {"id": "ci_1", "type": "code_interpreter_call", "container_id": "cntr_1"},
        {
            "id": "msg_1",
            "content": [
                {"annotations": [{"type": "container_file_citation", "container_id": "cntr_2", "file_id": "cfile_1"}]},
                {"annotations": [{"type": "file_citation", "file_id": "file-found"}, 3]},
                {"annotations": None},
                5,
            ],
        },
        "x",
    ],
}


def test_what_a_response_creates() -> None:
    """Items, containers and the files that its tools have made, not those that they have found."""
    assert created_in_response(RESPONSE) == ("r1", "ci_1", "msg_1", "cntr_1", "cntr_2", "cfile_1")
    assert created_in_response({"id": 3, "output": None}) == ()
    seen = {each.id for each in created_in(about("responses/r1"), RESPONSE, creates=False)}
    assert seen == {"ci_1", "msg_1", "cntr_1", "cntr_2", "cfile_1"}


def test_what_an_event_creates() -> None:
    """Of itself, or of the response or item in it; what an application has written is none."""
    told = {"type": "t", "response": {"id": "d1"}, "item": {"id": "i1"}, "metadata": {"id": "x"}}
    assert {each.id for each in created_in_event(about("decisions"), told)} == {"d1", "i1"}
    assert created_in_event(about("decisions"), [1]) == ()
    block = (
        b'data: {"id":"d1"}\n\n: hi\n\ndata: [DONE]\n\ndata: {"id":"d1","response":{"usage":{"input_tokens":3}}}\n\n'
    )
    usage, created = told_in_events(about("decisions"), block)
    assert (usage.prompt_tokens, created) == (3, (Created("d1", None),))


@pytest.mark.parametrize(
    ("begun", "id_"),
    [
        (b' {"object": "x", "id": "a1", "data', "a1"),
        (b'{"data": [{"id": "x"', None),
        (b'{"a": {"id": "x"}', None),
        (b"[", None),
    ],
)
def test_the_id_of_what_is_too_large(begun: bytes, id_: str | None) -> None:
    """Where it comes first."""
    assert first_id(begun) == id_


def test_the_usage_of_any_shape() -> None:
    """Of an answer, or of the response in an event."""
    told = {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    assert usage_in(told).prompt_tokens == 3
    assert usage_in({"response": {"usage": {"input_tokens": 4, "output_tokens": 1}}}).output_tokens == 1
    assert usage_in(None) == usage_in({"usage": None}) == NOTHING


def test_a_page() -> None:
    """Items keep their bytes, and the page its fields."""
    page = page_of(b'{"data": [{"id":"a", "n": 1.0}, {"id": 3}, 4, {"id":"b"}], "has_more": true, "last_id": "b"}')
    assert page is not None
    assert (page.ids(), page.has_more) == (["a", "b"], True)
    assert page.only({"a"}, nameless=True)
    assert page.encoded() == b'{"data":[{"id":"a", "n": 1.0},{"id": 3},4],"has_more":true,"last_id":null}'
    assert page.only({"a"}, nameless=False)
    assert not page.only({"a"}, nameless=False)
    page.first(1)
    assert page.encoded() == b'{"data":[{"id":"a", "n": 1.0}],"has_more":true,"last_id":"a"}'
    page.first(0)
    assert page.encoded() == b'{"data":[],"has_more":true,"last_id":null}'


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"data": 1}', b"{}", b"\xff"])
def test_no_page(body: bytes) -> None:
    """Nobody knows what is in it."""
    assert page_of(body) is None


@pytest.mark.parametrize(
    "name", ["FILE_ID", "File_Id", "\\u0046ile_id", "vector_\u017ftore_id", "vec\\u0054or_store_id"]
)
def test_names_in_another_case(name: str) -> None:
    """Count, too: servers written in Go take them."""
    body = f'{{"a": [{{"{name}": "x1"}}], "Metadata": {{"FILE_ID": "mine"}}}}'.encode()
    assert [each.id for each in read_body(body).references] == ["x1"]
    assert [each.id for each in in_lines(body)] == ["x1"]
