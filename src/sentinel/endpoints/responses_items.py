"""The items of a response as its stream tells them: kept while they come, and told by events of our own.

A stream that is ended at a limit ends with events that repeat what the client has: the open item is done, as far as it
has come, and the last event lists them all. So the texts are kept, in this format alone.
Source: OpenAI API reference, "Responses: streaming events".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sentinel.tokens.responses_answer import Delta, Event, index_of, name_of

MOST_KEPT_BYTES = 1024 * 1024
"""Of one stream: more than the text of the longest answer of any model. Of items with more, nothing is repeated."""

_Fields = dict[str, Any]

_PART_TEXTS = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text"}
"""What is said in the parts of a content, which are of the same types, and the field that has it."""
_CALL_TEXTS = {
    "function_call_arguments": "arguments",
    "custom_tool_call_input": "input",
    "mcp_call_arguments": "arguments",
    "code_interpreter_call_code": "code",
}
"""What is said in calls, and the field of the call that has it."""
_SUMMARY = "reasoning_summary_text"
_TEXT_FIELDS = {**_PART_TEXTS, **_CALL_TEXTS, _SUMMARY: "text"}


@dataclass
class _Open:
    """An item that is not done. parts, summaries: as they were added; texts: by name and index."""

    item: _Fields
    parts: dict[int, _Fields] = field(default_factory=dict)
    summaries: dict[int, _Fields] = field(default_factory=dict)
    texts: dict[tuple[str, int], bytearray] = field(default_factory=dict)
    told: set[tuple[str, int]] = field(default_factory=set)
    """Texts and parts that an event has said to be done."""


class DeliveredItems:
    """What the client has of a response.

    sequence: the number of the last event, -1 before any. keeps: whether items are kept, or numbers alone.
    """

    def __init__(self) -> None:
        self.sequence = -1
        self.keeps = False
        self.kept_bytes = 0
        self._items: dict[int, _Open | _Fields] = {}

    def note_size(self, size: int) -> None:
        """Note that an event of so many bytes has come."""
        if self.keeps:
            self.kept_bytes += size
            if self.kept_bytes > MOST_KEPT_BYTES:
                self.keeps = False
                self._items.clear()
                self.kept_bytes = 0

    def deliver(self, event: Event) -> None:
        """The client has this event."""
        number = event.sequence_number if isinstance(event, Delta) else event.get("sequence_number")
        if isinstance(number, int):
            self.sequence = max(self.sequence, number)
        if self.keeps and isinstance(event, Delta):
            index = event.summary_index if name_of(event.type) == _SUMMARY else event.content_index
            self._add_text(event.output_index, name_of(event.type), index, event.delta)
        elif self.keeps and isinstance(event, dict) and isinstance(event.get("type"), str):
            self._change(event, event["type"])

    def close(self) -> tuple[list[_Fields], list[_Fields]]:
        """The events that end what is open, without their numbers; and all items, the open ones as far as they came."""
        events: list[_Fields] = []
        items: list[_Fields] = []
        for index, item in sorted(self._items.items()):
            items.append(_closed(item) if isinstance(item, _Open) else item)
            if isinstance(item, _Open):
                events += _closing(index, item, items[-1])
        return events, items

    def _add_text(self, output: int, name: str, index: int, text: str) -> None:
        item = self._items.get(output)
        if isinstance(item, _Open) and name in _TEXT_FIELDS:
            item.texts.setdefault((name, index), bytearray()).extend(text.encode("utf-8", "surrogatepass"))

    def _change(self, event: _Fields, kind: str) -> None:
        output, item, part = index_of(event, "output_index"), event.get("item"), event.get("part")
        if kind == "response.output_item.added" and isinstance(item, dict):
            self._items[output] = _Open(item)
        elif kind == "response.output_item.done" and isinstance(item, dict):
            self._items[output] = item
        current, name = self._items.get(output), name_of(kind)
        if not isinstance(current, _Open):
            return
        index = index_of(event, "summary_index" if name.startswith("reasoning_summary") else "content_index")
        if isinstance(part, dict):
            (current.summaries if name == "reasoning_summary_part" else current.parts)[index] = part
        if kind.endswith(".done"):
            current.told.add((name, index))
        elif kind.endswith(".delta") and isinstance(event.get("delta"), str):
            self._add_text(output, name, index, event["delta"])


def _closed(opened: _Open) -> _Fields:
    """An item as far as it has come."""
    item = {**opened.item, "status": "incomplete"}
    if opened.parts:
        item["content"] = [_filled(opened, part, _name_of(part), index) for index, part in _in_order(opened.parts)]
    if opened.summaries:
        item["summary"] = [_filled(opened, part, _SUMMARY, index) for index, part in _in_order(opened.summaries)]
    calls = {_CALL_TEXTS[name]: _decoded(text) for (name, _), text in opened.texts.items() if name in _CALL_TEXTS}
    return {**item, **calls}


def _in_order(parts: dict[int, _Fields]) -> list[tuple[int, _Fields]]:
    return sorted(parts.items(), key=lambda pair: pair[0])


def _name_of(part: Any) -> str | None:
    """The text that a part of a content has, None for pictures and the like."""
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) and kind in _PART_TEXTS else None


def _filled(opened: _Open, part: _Fields, name: str | None, index: int) -> _Fields:
    text = None if name is None else opened.texts.get((name, index))
    return part if name is None or text is None else {**part, _TEXT_FIELDS[name]: _decoded(text)}


def _closing(output: int, opened: _Open, item: _Fields) -> Iterator[_Fields]:
    """The events that say that an item is done, and before it all that is open in it."""
    place = {"item_id": item.get("id"), "output_index": output}
    for index, added in _in_order(opened.parts):
        part, at, name = (
            _filled(opened, added, _name_of(added), index),
            {**place, "content_index": index},
            _name_of(added),
        )
        if name is not None and (name, index) not in opened.told:
            yield _text_done(name, at, part.get(_PART_TEXTS[name]))
        if ("content_part", index) not in opened.told:
            yield {"type": "response.content_part.done", **at, "part": part}
    for index, added in _in_order(opened.summaries):
        part, at = _filled(opened, added, _SUMMARY, index), {**place, "summary_index": index}
        if (_SUMMARY, index) not in opened.told:
            yield _text_done(_SUMMARY, at, part.get("text"))
        if ("reasoning_summary_part", index) not in opened.told:
            yield {"type": "response.reasoning_summary_part.done", **at, "part": part}
    for name, index in opened.texts:
        if name in _CALL_TEXTS and (name, index) not in opened.told:
            yield _call_done(name, place, item)
    yield {"type": "response.output_item.done", "output_index": output, "item": item}


def _text_done(name: str, at: _Fields, text: Any) -> _Fields:
    """The event that tells a text of a part as a whole."""
    more: _Fields = {"logprobs": []} if name == "output_text" else {}
    return {"type": f"response.{name}.done", **at, _TEXT_FIELDS[name]: text, **more}


def _call_done(name: str, place: _Fields, item: _Fields) -> _Fields:
    """The event that tells what a call says as a whole."""
    more = {"name": item.get("name")} if name == "function_call_arguments" else {}
    return {"type": f"response.{name}.done", **place, **more, _CALL_TEXTS[name]: item[_CALL_TEXTS[name]]}


def _decoded(text: bytearray) -> str:
    return text.decode("utf-8", "replace")


def told(item: _Fields, output: int) -> Iterator[_Fields]:
    """A whole item as the events of a stream, without their numbers."""
    added = {**item, "status": "in_progress"} if "status" in item else item
    place = {"item_id": item.get("id"), "output_index": output}
    calls = [name for name, field_name in _CALL_TEXTS.items() if name == f"{item.get('type')}_{field_name}"]
    said = [name for name in calls if isinstance(item.get(_CALL_TEXTS[name]), str)]
    content = item.get("content")
    if said:
        added = {**added, _CALL_TEXTS[said[0]]: ""}
    elif item.get("type") == "message" and isinstance(content, list):
        added = {**added, "content": []}
    yield {"type": "response.output_item.added", "output_index": output, "item": added}
    for name in said:
        yield {"type": f"response.{name}.delta", **place, "delta": item[_CALL_TEXTS[name]]}
        yield _call_done(name, place, item)
    if item.get("type") == "message" and isinstance(content, list):
        for index, part in enumerate(content):
            yield from _told_part(part, {**place, "content_index": index})
    yield {"type": "response.output_item.done", "output_index": output, "item": item}


def _told_part(part: Any, at: _Fields) -> Iterator[_Fields]:
    name = _name_of(part)
    text = None if name is None else part.get(_PART_TEXTS[name])
    if name is None or not isinstance(text, str):
        yield {"type": "response.content_part.added", **at, "part": part}
    else:
        yield {"type": "response.content_part.added", **at, "part": {**part, _PART_TEXTS[name]: ""}}
        done = _text_done(name, at, text)
        pieces = {key: value for key, value in done.items() if key != _PART_TEXTS[name]}
        yield {**pieces, "type": f"response.{name}.delta", "delta": text}
        yield done
    yield {"type": "response.content_part.done", **at, "part": part}
