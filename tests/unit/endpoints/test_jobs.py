"""How far a job is, by what its provider tells."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.endpoints.jobs import KINDS, has_cost, path_of, progress_of, progress_of_stream
from sentinel.tokens.usage import NOTHING, Usage

OUTPUT = [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}]
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just({"a": [1]}) | st.just(["x"])


def told(status: str, **fields: Any) -> bytes:
    return json.dumps({"id": "job_1", "status": status, **fields}).encode()


@pytest.mark.parametrize(
    ("kind", "status", "is_over"),
    [
        *(("responses", status, False) for status in ("queued", "in_progress", "of_tomorrow")),
        *(("responses", status, True) for status in ("completed", "incomplete", "failed", "cancelled")),
        *(("batches", status, False) for status in ("validating", "in_progress", "finalizing", "cancelling")),
        *(("batches", status, True) for status in ("completed", "failed", "expired", "cancelled")),
        *(("threads/runs", status, False) for status in ("queued", "in_progress", "requires_action", "cancelling")),
        *(("threads/runs", status, True) for status in ("completed", "incomplete", "failed", "cancelled", "expired")),
        *(("evals/runs", status, False) for status in ("queued", "in_progress")),
        *(("evals/runs", status, True) for status in ("completed", "failed", "canceled")),
    ],
)
def test_whether_it_is_over(kind: str, status: str, is_over: bool) -> None:
    """A status that nobody knows may be followed by others."""
    progress = progress_of(kind, told(status, thread_id="t", eval_id="e"))
    assert progress is not None
    assert (progress.id, progress.is_over) == ("job_1", is_over)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id":1,"status":"queued"}', b'{"id":"a","status":2}'])
def test_what_is_no_job(body: bytes) -> None:
    """It has an id and a status, and is of a kind that has jobs."""
    assert progress_of("responses", body) is None
    assert progress_of("files", told("completed")) is None


def test_what_a_response_has_cost() -> None:
    """Usage, else what it says; while it goes on nothing."""
    usage = {"input_tokens": 21, "output_tokens": 17, "total_tokens": 38}
    whole = progress_of("responses", told("completed", output=OUTPUT, usage=usage))
    assert whole is not None
    assert (whole.reading.usage, whole.reading.texts) == (Usage(21, 17, 38), [])
    cut = progress_of("responses", told("cancelled", output=OUTPUT, usage=None))
    assert cut is not None
    assert (cut.reading.usage, [text.piece for text in cut.reading.texts]) == (NOTHING, ["Hello"])
    going = progress_of("responses", told("in_progress", output=OUTPUT, usage=usage))
    assert going is not None
    assert (going.reading.usage, going.reading.texts) == (NOTHING, [])


def test_what_a_batch_has_cost() -> None:
    """Usage of all of its requests, of those that were answered."""
    usage = {"input_tokens": 21, "output_tokens": 17, "total_tokens": 38}
    counts = {"total": 9, "completed": 7, "failed": 2}
    batch = progress_of("batches", told("completed", model="gpt-4o", usage=usage, request_counts=counts))
    assert batch is not None
    assert (batch.reading.usage, batch.requests, batch.model) == (Usage(21, 17, 38), 7, "gpt-4o")
    bare = progress_of("batches", told("failed", request_counts={"completed": -1}, model=None))
    assert bare is not None
    assert (bare.reading.usage, bare.requests, bare.model) == (NOTHING, 0, "")
    assert progress_of("batches", told("failed", request_counts=[])) == bare


def test_what_a_run_has_cost() -> None:
    """Usage, or that of all models of an eval together; what looks like a run and is none is not taken for one."""
    usage = {"prompt_tokens": 21, "completion_tokens": 17, "total_tokens": 38}
    run = progress_of("threads/runs", told("completed", object="thread.run", thread_id="t", model="m", usage=usage))
    assert run is not None
    assert (run.reading.usage, run.model, run.below, run.requests) == (Usage(21, 17), "m", "t", 0)
    of_eval = progress_of("evals/runs", told("completed", eval_id="e", per_model_usage=[usage, usage, None]))
    assert of_eval is not None
    assert (of_eval.reading.usage, of_eval.below) == (Usage(42, 34), "e")
    for odd in ({}, {"thread_id": ""}, {"thread_id": 7}, {"thread_id": "t", "object": "thread.run.step"}):
        assert progress_of("threads/runs", told("completed", usage=usage, **odd)) is None


def test_where_a_job_is() -> None:
    """In its family, or below another object; no name leads elsewhere."""
    assert path_of("messages/batches", "b", "") == "/messages/batches/b"
    assert path_of("threads/runs", "r", "t") == "/threads/t/runs/r"
    assert path_of("threads/runs", "../r", "t/x") == "/threads/t%2Fx/runs/..%2Fr"


@pytest.mark.parametrize(
    ("fields", "costs"),
    [
        ({"status": "failed", "error": {"code": "server_error"}, "output": []}, False),
        ({"status": "failed", "error": {"code": "server_error"}, "usage": {"input_tokens": 1}, "output": []}, True),
        ({"status": "cancelled", "output": []}, True),
        ({"status": "failed", "error": {"code": "x"}, "output": OUTPUT}, True),
    ],
)
def test_what_is_billed(fields: dict[str, Any], costs: bool) -> None:
    """An error costs nothing, unless the provider says what it has cost, or it has said something before."""
    progress = progress_of("responses", told(**fields))
    assert progress is not None
    assert has_cost(progress) is costs


def test_a_stream() -> None:
    """Its first event that tells of a response."""
    told = json.dumps({"response": {"id": "r", "status": "queued"}}).encode()
    first = b": waits\n\nevent: response.created\ndata: " + told
    assert (progress := progress_of_stream("responses", first + b"\n\n")) is not None
    assert (progress.id, progress.is_over) == ("r", False)
    assert progress_of_stream("responses", b'data: {"type":"ping"}\n\ndata: [DONE]\n\n') is None
    assert progress_of_stream("responses", first[:40]) is None


@given(
    st.sampled_from([*KINDS, "files"]),
    st.dictionaries(st.sampled_from(["id", "status", "usage", "output", "model"]), VALUES),
)
def test_it_never_raises(kind: str, fields: dict[str, Any]) -> None:
    """Whatever a provider tells."""
    progress_of(kind, json.dumps(fields).encode())
    progress_of_stream(kind, b"data: " + json.dumps({"response": fields}).encode() + b"\n\n")
