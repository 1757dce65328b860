"""The events of OpenAI's two oldest formats, chat and completions, for the meter.

Source: OpenAI API reference, "The chat completion chunk object" and "Create completion"; what other providers do with
them is in tokens/answer.py and tokens/loose.py.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sentinel.proxy.meter import StreamFormat, StreamMeter
from sentinel.proxy.sse import data_of, split_events
from sentinel.tokens.answer import read_answer, read_event, read_run
from sentinel.tokens.loose import parse
from sentinel.tokens.usage import NOTHING, Usage

_ENVELOPE = frozenset(("id", "object", "created", "model", "system_fingerprint", "service_tier", "provider"))
"""What all events of a stream have in common."""
_OF_USAGE = _ENVELOPE | {"choices", "usage", "obfuscation"}
"""What an event has that only tells usage; whatever else it says is for the client."""


def _is_only_usage(data: bytes) -> bool:
    """Whether an event tells nothing but usage; empty values tell nothing."""
    fields = parse(data)
    return (
        isinstance(fields, dict)
        and not fields.get("choices")
        and not any(value for name, value in fields.items() if name not in _OF_USAGE)
    )


def _usage_of(data: bytes) -> Usage:
    reading = read_event(data)
    return NOTHING if reading is None else reading.usage


FORMAT = StreamFormat(
    read_event=read_event,
    read_run=read_run,
    read_answer=read_answer,
    usage_of=_usage_of,
    is_only_usage=_is_only_usage,
    is_last=None,
    mark=re.compile(rb'"usage"\s*:\s*\{'),
    envelope_mark=re.compile(rb'"choices"\s*:\s*\[\s*\{'),
)


def ending(meter: StreamMeter, *, kind: str, empty_choice: dict[str, Any], choices: int, usage: Usage | None) -> bytes:
    """The events that end a stream cleanly at a limit: finish_reason `length`, usage if wanted, `[DONE]`.

    kind: what `object` says. empty_choice: the fields of a choice that says nothing more. choices: how many there are.
    """
    envelope = _envelope(meter, kind)
    open_choices = [
        {"index": index, **empty_choice, "finish_reason": "length"}
        for index in range(choices)
        if index not in meter.finished
    ]
    events = [{**envelope, "choices": open_choices}] if open_choices else []
    if usage is not None:
        told = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }
        events.append({**envelope, "choices": [], "usage": told})
    return b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def _envelope(meter: StreamMeter, kind: str) -> dict[str, Any]:
    """id, created, model and the like, as the provider's first event with choices had them."""
    for event in split_events(meter.first):
        fields = parse(data_of(event) or b"")
        if isinstance(fields, dict) and fields.get("choices"):
            return {**{name: fields[name] for name in fields if name in _ENVELOPE}, "object": kind}
    return {"object": kind, "model": meter.model}
