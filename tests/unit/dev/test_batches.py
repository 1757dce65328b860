"""Batches of the simulator: what their requests cost, and where that is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.dev.batches import answered


def line(text: str, **fields: Any) -> bytes:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}
    return json.dumps({"custom_id": "c", "body": body, **fields}).encode() + b"\n"


@pytest.mark.parametrize("is_summed", [True, False])
def test_a_batch_of_chats(is_summed: bool) -> None:
    """Its bill is what it sums up, or what the lines of its results tell."""
    end = "" if is_summed else " no_usage"
    done = answered(line("[[tokens=7]]") + line(f"[[tokens=5{end}]]"), "req_1")
    assert done is not None
    bill, results = done.bill, [json.loads(each) for each in done.results.splitlines()]
    usages = [result["response"]["body"]["usage"] for result in results]
    assert (bill.request_id, bill.requests, bill.completion_tokens) == ("req_1", 2, 12)
    assert (bill.prompt_tokens, 12) == tuple(
        sum(usage[name] for usage in usages) for name in ("prompt_tokens", "completion_tokens")
    )
    usage = {"input_tokens": bill.prompt_tokens, "output_tokens": 12, "total_tokens": bill.prompt_tokens + 12}
    assert done.told.get("usage") == (usage if is_summed else None)
    assert done.told["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


@pytest.mark.parametrize(
    "lines", [b"", b"{}\n", b"no", b"[]", line("no directive"), line("[[tokens=7]]") + b"{}", line("[[x=1]]")]
)
def test_what_nobody_answers(lines: bytes) -> None:
    """A batch stays as it is where a request is no chat with a directive."""
    assert answered(lines, "") is None
