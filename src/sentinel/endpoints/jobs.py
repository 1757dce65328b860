"""How far a job is, by what its provider tells: a response in the background, a batch, a run. Decides.

Source: OpenAI API reference, "Background mode", "Batch", "Runs", "Evals": a job has a status, and its usage once it has
ended.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from sentinel.proxy.sse import data_of, split_events
from sentinel.tokens.loose import Reading, parse
from sentinel.tokens.responses_answer import read_answer
from sentinel.tokens.usage import NOTHING, Usage, read_usage, read_usage_beside_cache

_ENDED = {
    "responses": frozenset(("completed", "incomplete", "failed", "cancelled")),
    "batches": frozenset(("completed", "failed", "expired", "cancelled")),
    "messages/batches": frozenset(("ended",)),
    "threads/runs": frozenset(("completed", "incomplete", "failed", "cancelled", "expired")),
    "evals/runs": frozenset(("completed", "failed", "cancelled", "canceled")),
}
"""The statuses in which a job of this kind is over. One that nobody knows may be followed by others."""

KINDS = frozenset(_ENDED)
"""The families of paths whose objects are jobs."""

_BELOW = {"threads/runs": ("thread.run", "thread_id"), "evals/runs": ("eval.run", "eval_id")}
"""Of kinds whose jobs are below another object: what they call themselves, and where they name that one."""

_FIRST_ID = re.compile(rb'"response"\s*:\s*\{[^{}\[\]]{0,4096}?"id"\s*:\s*"([^"\\]{1,256})"')


class Progress(Struct, frozen=True, gc=False):
    """What is told of a job. is_over: it has ended. reading: what it has cost, and said; requests: how many it was.

    model: as the provider names it, "" where it does not. results: the path of the lines that tell what each request
    has cost, "" where the job itself does. below: the object that it is below, "" where it is below none.
    """

    id: str
    is_over: bool
    reading: Reading
    requests: int = 1
    model: str = ""
    results: str = ""
    below: str = ""


def path_of(kind: str, id_: str, below: str) -> str:
    """The path of a job at its provider."""
    family, _, rest = kind.partition("/")
    words = [family, quote(below, safe=""), rest] if below else [kind]
    return "/".join(["", *words, quote(id_, safe="")])


def progress_of(kind: str, body: bytes) -> Progress | None:
    """How far the job is that this object is; None where it is none of this kind."""
    value = parse(body)
    return _progress(kind, value, body) if isinstance(value, dict) else None


def progress_of_stream(kind: str, begun: bytes) -> Progress | None:
    """How far the job is that a stream is about, by the first of its events; begun: how the stream begins."""
    for event in split_events(begun):
        value = parse(data_of(event) or b"")
        if isinstance(value, dict) and isinstance(response := value.get("response"), dict):
            return _progress(kind, response, b"")
    return None


def progress_of_beginning(begun: bytes) -> Progress | None:
    """The job that a stream is about whose first event is too large to be waited for; it goes on."""
    found = _FIRST_ID.search(begun)
    return None if found is None else Progress(found[1].decode(errors="replace"), False, Reading())


def _progress(kind: str, value: dict[str, Any], body: bytes) -> Progress | None:
    # Anthropic's has a name of its own for it.
    id_, status = value.get("id"), value.get("status") or value.get("processing_status")
    if kind not in _ENDED or not isinstance(id_, str) or not isinstance(status, str):
        return None
    is_over = status in _ENDED[kind]
    if kind == "responses":
        return Progress(id_, is_over, (read_answer(body) if is_over else None) or Reading())
    if kind in _BELOW:
        return _run(value, id_, *_BELOW[kind], is_over=is_over)
    usage = read_usage(value.get("usage"))
    results = _results(kind, value, id_) if is_over and usage == NOTHING else ""
    return Progress(id_, is_over, Reading(usage=usage), _completed(value), _model(value), results)


def _run(value: dict[str, Any], id_: str, object_: str, above: str, *, is_over: bool) -> Progress | None:
    """Of an eval the usage of each model is told; its steps and messages, which look alike, are no run."""
    below, each = value.get(above), value.get("per_model_usage")
    if value.get("object", object_) != object_ or not isinstance(below, str) or not below:
        return None
    usages = [read_usage(one) for one in [value.get("usage"), *(each if isinstance(each, list) else ())]]
    usage = Usage(sum(one.prompt_tokens for one in usages), sum(one.output_tokens for one in usages))
    return Progress(id_, is_over, Reading(usage=usage), 0, _model(value), below=below)


def has_cost(progress: Progress) -> bool:
    """Whether what has ended is billed: an error that comes without usage costs nothing (DESIGN P2)."""
    reading = progress.reading
    return reading.usage != NOTHING or bool(reading.texts) or not reading.failed


def _completed(batch: dict[str, Any]) -> int:
    """The requests of a batch that were answered."""
    counts = batch.get("request_counts")
    completed = counts.get("completed", counts.get("succeeded")) if isinstance(counts, dict) else None
    return completed if isinstance(completed, int) and completed > 0 else 0


def _model(batch: dict[str, Any]) -> str:
    model = batch.get("model")
    return model if isinstance(model, str) else ""


def _results(kind: str, batch: dict[str, Any], id_: str) -> str:
    if kind == "messages/batches":
        return f"/{kind}/{quote(id_, safe='')}/results"
    file = batch.get("output_file_id")
    return f"/files/{quote(file, safe='')}/content" if isinstance(file, str) else ""


def usage_of_lines(kind: str, lines: bytes) -> Usage:
    """What the requests of a batch have cost together, by lines of its results. One that is no JSON costs its bytes."""
    inputs = outputs = 0
    for line in filter(None, map(bytes.strip, lines.split(b"\n"))):
        told = parse(line)
        if not isinstance(told, dict):
            outputs += len(line)
            continue
        usage = _usage_of(kind, told)
        inputs += usage.prompt_tokens
        outputs += usage.output_tokens
    return Usage(inputs, outputs)


def _usage_of(kind: str, line: dict[str, Any]) -> Usage:
    if kind == "messages/batches":
        return read_usage_beside_cache(_within(line, "result", "message", "usage"))
    return read_usage(_within(line, "response", "body", "usage"))


def _within(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
