"""How a stream of OpenAI's formats ends at a limit."""

from __future__ import annotations

import json
from typing import Any

from sentinel.endpoints.openai_stream import FORMAT, ending
from sentinel.proxy.meter import StreamMeter
from sentinel.tokens.usage import Usage
from tests.exchange.driver import event

MODEL = "gpt-4o"


def test_the_ending_at_a_limit() -> None:
    """Choices that are still open end with `length`, under the stream's own head; then usage if wanted, and [DONE]."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    first = event("one", id="c1", object="chat.completion.chunk", created=5, model="m", system_fingerprint="f")
    done = {"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]}
    meter.delivered(meter.feed(first + b"data: " + json.dumps(done).encode() + b"\n\n"))
    meter.count()
    *events, last = ending(
        meter, kind="chat.completion.chunk", empty_choice={"delta": {}}, choices=3, usage=Usage(9, 1)
    ).split(b"\n\n")[:-1]
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "m", "system_fingerprint": "f"}
    ends: list[dict[str, Any]] = [{"index": index, "delta": {}, "finish_reason": "length"} for index in (0, 2)]
    assert [json.loads(event[6:]) for event in events] == [
        {**head, "choices": ends},
        {**head, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}},
    ]
    assert last == b"data: [DONE]"


def test_the_ending_of_a_completion() -> None:
    """Legacy completions have a text instead of a delta."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    meter.delivered(meter.feed(b'data: {"object":"text_completion","choices":[{"index":0,"text":"a"}]}\n\n'))
    empty = {"text": "", "logprobs": None}
    (last, _) = ending(meter, kind="text_completion", empty_choice=empty, choices=1, usage=None).split(b"\n\n")[:-1]
    assert json.loads(last[6:])["choices"] == [
        {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"},
    ]


def test_the_ending_of_a_stream_that_had_nothing_to_say() -> None:
    """Without an event that has choices there is no envelope to take; the model is that of the request."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    (last, _) = ending(meter, kind="chat.completion.chunk", empty_choice={}, choices=1, usage=None).split(b"\n\n")[:-1]
    assert json.loads(last[6:]) == {
        "object": "chat.completion.chunk",
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": "length"}],
    }


def test_an_envelope_is_that_of_the_first_event_with_choices() -> None:
    """What comes before it in the same piece, such as Azure's word on the prompt, has none."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    meter.delivered(meter.feed(b'data: {"id":"","choices":[]}\n\n' + event("one", id="c7", model="m")))
    (last, _) = ending(meter, kind="chat.completion.chunk", empty_choice={}, choices=1, usage=None).split(b"\n\n")[:-1]
    assert json.loads(last[6:])["id"] == "c7"
