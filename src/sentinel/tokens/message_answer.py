"""What Sentinel reads of an answer in Anthropic's messages format: one stream event, or a whole message.

An answer comes in numbered blocks, and each is counted as a text of its own. Nearly all events are a delta of text,
which is read fast; whatever has another shape is read by `loose.py`, so that no text goes free for its field's name or
type.
Source: Anthropic's API reference, "Messages" and "Streaming messages".
"""

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sentinel.tokens.loose import Kind, Reading, Text, parse, texts_in
from sentinel.tokens.text_run import alike, events_of
from sentinel.tokens.usage import read_usage_beside_cache

MESSAGE: Final = -1
"""The number that the message itself has among the parts of a stream; its blocks have their index."""

_OF_TOOLS: Final = ("tool_result", "tool_use_error")
"""How the types of blocks end whose content a server's tool has written: nobody has generated it."""


class _Delta(Struct, gc=False, forbid_unknown_fields=True):
    type: str
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _DeltaEvent(Struct, gc=False, forbid_unknown_fields=True):
    type: Literal["content_block_delta"]
    delta: _Delta
    index: int = 0


_delta_event = msgspec.json.Decoder(_DeltaEvent)
_delta_events = msgspec.json.Decoder(list[_DeltaEvent])


def read_message_event(data: bytes) -> Reading | None:
    """Read one stream event's data; None if it is no JSON object. Never raises."""
    try:
        event = _delta_event.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read(data, _reading_of_event)
    return Reading(_texts_of_deltas(event.index, [event.delta]))


def read_run(block: bytes) -> list[Text] | None:
    """The texts of a block of events that bring text to the same block, as the last one surely does; else None."""
    found = alike(block, b'"text":"', _delta_events)
    if found is not None:
        event, strings = found
        if strings[-1] and event.delta.text == strings[0] and not (event.delta.thinking or event.delta.partial_json):
            return [Text(0, Kind.CONTENT, event.index, "".join(strings))]
    events = events_of(block, _delta_events)
    if events is None:
        return None
    index = events[0].index
    deltas = [event.delta for event in events if event.index == index]
    last = deltas[-1]
    if len(deltas) < len(events) or not (last.text or last.thinking or last.partial_json):
        return None
    return _texts_of_deltas(index, deltas)


def _texts_of_deltas(index: int, deltas: list[_Delta]) -> list[Text]:
    texts = (
        Text(0, Kind.CONTENT, index, "".join([delta.text for delta in deltas if delta.text])),
        Text(0, Kind.REASONING, index, "".join([delta.thinking for delta in deltas if delta.thinking])),
        Text(0, Kind.ARGUMENTS, index, "".join([delta.partial_json for delta in deltas if delta.partial_json])),
    )
    return [text for text in texts if text.piece]


def read_message(data: bytes) -> Reading | None:
    """Read a whole message in the same way; without its texts where usage tells the output, so nobody counts them."""
    return _read(data, _reading_of_message)


def _read(data: bytes, reading_of: Any) -> Reading | None:
    value = parse(data)
    try:
        reading: Reading | None = reading_of(value) if isinstance(value, dict) else None
    except RecursionError:
        return None
    return reading


def _reading_of_message(message: dict[str, Any]) -> Reading:
    usage, failed = read_usage_beside_cache(message.get("usage")), _tells_error(message)
    texts = [] if usage.output_tokens and not failed else _texts_of_content(message.get("content"))
    return Reading(texts, usage, _finished(message), failed)


def _reading_of_event(event: dict[str, Any]) -> Reading:
    kind, index = event.get("type"), _index_of(event)
    message, block, delta = (_object(event, name) for name in ("message", "content_block", "delta"))
    usage, failed = read_usage_beside_cache(event.get("usage")), _tells_error(event)
    if kind == "message_start":
        # Of the output it tells a token or a few before any is generated; an error may follow.
        told = read_usage_beside_cache(message.get("usage"))
        usage = replace(told, completion_tokens=0, reasoning_tokens=0)
        return Reading(_texts_of_content(message.get("content")), usage, [], failed, (MESSAGE,))
    if kind == "content_block_start":
        return Reading(_texts_of_block(block, index), usage, [], failed, (index,))
    if kind == "content_block_stop":
        return Reading([], usage, [], failed, (), (index,))
    texts = [] if kind == "message_delta" or failed else texts_in(delta, index)
    return Reading(texts, usage, _finished(delta), failed)


def _texts_of_content(content: Any) -> list[Text]:
    if isinstance(content, str):
        return [Text(0, Kind.CONTENT, 0, content)] if content else []
    blocks = content if isinstance(content, list) else []
    return [
        text for index, block in enumerate(blocks) if isinstance(block, dict) for text in _texts_of_block(block, index)
    ]


def _texts_of_block(block: dict[str, Any], index: int) -> list[Text]:
    if str(block.get("type")).endswith(_OF_TOOLS):
        return []
    # A tool's input is `{}` at first, and comes in pieces.
    said = {name: value for name, value in block.items() if value != {}}
    return texts_in(said, index)


def _finished(message: dict[str, Any]) -> list[tuple[int, str]]:
    reason = message.get("stop_reason")
    return [(0, reason)] if isinstance(reason, str) and reason else []


def _tells_error(value: dict[str, Any]) -> bool:
    return value.get("type") == "error" or bool(value.get("error"))


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _index_of(event: dict[str, Any]) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else 0
