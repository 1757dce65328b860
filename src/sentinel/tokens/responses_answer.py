"""What Sentinel reads of answers of POST /v1/responses: the events of a stream, or a whole answer.

A stream says everything three times: in pieces (`*.delta`), then whole (`*.done`, and the item that is done), and once
more in its last event. So the text of a piece is new, and of what is said whole only what goes beyond the pieces before
it: a provider that sends no pieces is read as well. As in `loose.py`, every string of an item counts unless its key is
known to hold something else.
Source: OpenAI API reference, "Responses: streaming events"; openai-python, types/responses.
"""

from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw, Struct

from sentinel.tokens.loose import NOT_TEXT, Kind, Reading, Text, parse, pieces, read_loosely
from sentinel.tokens.text_run import events_of
from sentinel.tokens.usage import Usage, read_usage


class Delta(Struct, gc=False, forbid_unknown_fields=True):
    """An event that brings a piece of text, as nearly all are; one with other fields is read as an object."""

    type: str
    delta: str
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    sequence_number: int = -1
    item_id: str | None = None
    # What follows is not generated text.
    logprobs: Raw = Raw()
    obfuscation: Raw = Raw()


Event = Delta | dict[str, Any]


class _Typed(Struct, gc=False):
    type: str | None = None


class _Told(Struct, gc=False):
    """A whole answer that tells how it ended and what it has cost; its items need not be read."""

    output: Raw
    status: str
    usage: dict[str, Any]
    error: Any = None
    incomplete_details: Any = None


class _Said(NamedTuple):
    """A text of an item, as far as it is known. name: as its events have it; place: of its part."""

    name: str
    place: int
    text: str


LAST: Final = frozenset(("response.completed", "response.incomplete", "response.failed"))
"""The types of a stream's last event."""

_KINDS: Final = {
    "output_text": Kind.CONTENT,
    "refusal": Kind.REFUSAL,
    "reasoning_text": Kind.REASONING,
    "reasoning_summary_text": Kind.SUMMARY,
    "audio.transcript": Kind.TRANSCRIPT,
    "name": Kind.NAME,
    "function_call_arguments": Kind.ARGUMENTS,
    "custom_tool_call_input": Kind.ARGUMENTS,
    "mcp_call_arguments": Kind.ARGUMENTS,
    "code_interpreter_call_code": Kind.ARGUMENTS,
}
"""The texts by the middle of their events' types; all others of an item are one text."""

_OF_ITEM: Final = frozenset(("arguments", "input", "code"))
"""The fields of calls that come in pieces; with the item's type they are the name of their events."""
_OF_PART: Final = {"summary_text": "reasoning_summary_text", "text": "output_text"}
"""The types of parts that their events are not named after."""

_NOT_GENERATED: Final = NOT_TEXT | {
    *("call_id", "item_id", "event_id", "approval_request_id", "container_id", "server_label", "namespace"),
    *("created_by", "execution", "phase", "environment", "agent", "caller", "fingerprint", "partial_image_b64"),
    *("background", "quality", "size", "output_format", "annotation", "max_output_length"),
    *("output_index", "content_index", "summary_index", "annotation_index", "command_index", "partial_image_index"),
    "sequence_number",
    # What a tool has said, and what there are for tools.
    *("output", "outputs", "result", "results", "tools", "pending_safety_checks", "acknowledged_safety_checks"),
}
_NOT_OF_EVENT: Final = frozenset(("name", "usage"))
"""What an event repeats of its item, or tells beside it."""
_PARTS_OF_EVENT: Final = ("response", "item", "part")
_WITHOUT_TEXT: Final = (
    "response.audio.delta",
    "response.image_generation_call.",
    "response.shell_call_output_content.",
)
"""Events of sound, of pictures, and of what a tool has said."""

_place_of = attrgetter("type", "output_index", "content_index", "summary_index")
_text_of, _number_of = attrgetter("delta"), attrgetter("sequence_number")

_typed = msgspec.json.Decoder(_Typed)
_delta = msgspec.json.Decoder(Delta)
_deltas = msgspec.json.Decoder(list[Delta])
_told_answer = msgspec.json.Decoder(_Told)


def parse_event(data: bytes) -> Event | None:
    """The data of an event; None for what is no JSON object. Never raises."""
    try:
        event = _delta.decode(data)
        if _brings_text(event.type):
            return event
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    value = parse(data)
    return value if isinstance(value, dict) else None


def parse_run(block: bytes) -> list[Delta] | None:
    """The events of a block, if all bring pieces of the same text, and the last one surely does; else None."""
    events = events_of(block, _deltas)
    if events is None or not events[-1].delta or not _brings_text(events[0].type):
        return None
    return events if len(set(map(_place_of, events))) == 1 else None


def merged(events: list[Delta]) -> Delta:
    """Pieces of the same text as one, with the number of the last."""
    text, number = "".join(map(_text_of, events)), max(map(_number_of, events))
    return msgspec.structs.replace(events[0], delta=text, sequence_number=number)


def _brings_text(event_type: str) -> bool:
    return event_type.endswith(".delta") and not event_type.startswith(_WITHOUT_TEXT)


def name_of(event_type: str) -> str:
    """The text that an event is about: `output_text` of `response.output_text.delta`."""
    return event_type.removeprefix("response.").rpartition(".")[0]


def index_of(event: dict[str, Any], name: str) -> int:
    """A place in a list that an event names; 0 where it does not."""
    found = event.get(name)
    return found if isinstance(found, int) else 0


def is_last(data: bytes) -> bool:
    """Whether the data of an event ends its stream."""
    try:
        return _typed.decode(data).type in LAST
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        event = parse(data)
    return isinstance(event, dict) and isinstance(kind := event.get("type"), str) and kind in LAST


def usage_of(data: bytes) -> Usage:
    """What an event tells of usage."""
    event = parse(data)
    return _usage(event) if isinstance(event, dict) else Usage()


def read_answer(data: bytes) -> Reading | None:
    """Read a whole answer; without its texts where usage tells the output. None if it is no JSON object."""
    try:
        answer = _told_answer.decode(data)
        usage = read_usage(answer.usage)
        if usage.output_tokens and not answer.error and answer.status in ("completed", "incomplete"):
            return Reading([], usage, [(0, _reason(answer.status, answer.incomplete_details))])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    value = parse(data)
    if not isinstance(value, dict):
        return None
    if "output" not in value:
        # One in another shape.
        return read_loosely(value, whole=True)
    return ResponseTexts().read({"type": "", "response": value})


class ResponseTexts:
    """Reads one stream, or one whole answer: knows how much of each text has come."""

    __slots__ = ("_come", "_come_chars")

    def __init__(self) -> None:
        self._come: dict[tuple[int, str, int], int] = {}
        self._come_chars = 0

    def read(self, event: Event) -> Reading | None:
        """What an event says that none before has said; None for one that is nested too deeply. Never raises."""
        if isinstance(event, Delta):
            return Reading(self.read_delta(event))
        if not isinstance(event.get("type"), str):
            return read_loosely(event)
        try:
            return self._read(event)
        except RecursionError:
            return None

    def read_delta(self, event: Delta) -> list[Text]:
        """The text of a piece, which is new."""
        name = name_of(event.type)
        index = event.summary_index if name == "reasoning_summary_text" else event.content_index
        return self._more(event.output_index, _Said(name, index, event.delta))

    def _read(self, event: dict[str, Any]) -> Reading:
        kind, output = event["type"], index_of(event, "output_index")
        usage, failed = _usage(event), kind == "error" or bool(event.get("error"))
        if failed or kind.startswith(_WITHOUT_TEXT):
            return Reading([], usage, [], failed)
        name = name_of(kind)
        index = index_of(event, "summary_index" if name.startswith("reasoning_summary") else "content_index")
        response, item, part = (_object(event, key) for key in _PARTS_OF_EVENT)
        text = "".join(
            piece
            for key, value in event.items()
            if key not in _NOT_GENERATED
            and key not in _NOT_OF_EVENT
            and not (key in _PARTS_OF_EVENT and isinstance(value, dict))
            for piece in pieces(value, _KINDS.get(name, Kind.OTHER))
        )
        if response is None and item is None and part is None:
            said = _Said(name, index, text)
            return Reading(self._whole(output, [said]) if kind.endswith(".done") else self._more(output, said), usage)
        texts = self._more(output, _Said("", 0, text))
        finished: list[tuple[int, str]] = []
        if response is not None:
            texts += self._of_response(response)
            failed, finished = _end_of(response)
        if item is not None:
            texts += self._whole(output, _texts_of_item(item))
        if part is not None:
            texts += self._whole(output, _texts_of_part(part, index))
        return Reading(texts, usage, finished, failed or kind == "response.failed")

    def _of_response(self, response: dict[str, Any]) -> list[Text]:
        items = response.get("output")
        said = [
            (index, text)
            for index, item in enumerate(items if isinstance(items, list) else ())
            if isinstance(item, dict)
            for text in _texts_of_item(item)
        ]
        # Not all number their items as they list them in the end.
        if sum(len(text.text) for _, text in said) <= self._come_chars:
            return []
        return [new for index, text in said for new in self._whole(index, [text])]

    def _more(self, output: int, said: _Said) -> list[Text]:
        """A piece: all of it is new."""
        if not said.text:
            return []
        name, index = (said.name, said.place) if said.name in _KINDS else ("", 0)
        key = (output, name, index)
        self._come[key] = self._come.get(key, 0) + len(said.text)
        self._come_chars += len(said.text)
        return [Text(output, _KINDS.get(name, Kind.OTHER), index, said.text)]

    def _whole(self, output: int, all_said: "list[_Said]") -> list[Text]:
        """Whole texts: what goes beyond the pieces is new."""
        texts: list[Text] = []
        for name, index, text in all_said:
            key = (output, name, index) if name in _KINDS else (output, "", 0)
            texts += self._more(output, _Said(name, index, text[self._come.get(key, 0) :]))
        return texts


def _usage(event: dict[str, Any]) -> Usage:
    usage, response = read_usage(event.get("usage")), event.get("response")
    return usage.merged(read_usage(response.get("usage"))) if isinstance(response, dict) else usage


def _object(event: dict[str, Any], key: str) -> dict[str, Any] | None:
    value = event.get(key)
    return value if isinstance(value, dict) else None


def _end_of(response: dict[str, Any]) -> tuple[bool, list[tuple[int, str]]]:
    """Whether a response has failed, and why it has ended."""
    status = response.get("status")
    if response.get("error") or status == "failed":
        return True, []
    if not isinstance(status, str) or status in ("in_progress", "queued"):
        return False, []
    return False, [(0, _reason(status, response.get("incomplete_details")))]


def _reason(status: str, details: Any) -> str:
    """Why it ended: `completed`, or what makes it incomplete."""
    reason = details.get("reason") if isinstance(details, dict) else None
    return reason if isinstance(reason, str) and reason else status


def _texts_of_item(item: dict[str, Any]) -> list[_Said]:
    kind = item.get("type")
    said: list[_Said] = []
    others: list[str] = []
    for key, value in item.items():
        name = f"{kind}_{key}" if key in _OF_ITEM else key
        if key in ("content", "summary"):
            for index, part in enumerate(value if isinstance(value, list) else [value]):
                said += _texts_of_part(part, index)
        elif name in _KINDS:
            said.append(_Said(name, 0, "".join(pieces(value, _KINDS[name]))))
        elif key not in _NOT_GENERATED:
            others += pieces(value, Kind.OTHER)
    return [*said, _Said("", 0, "".join(others))]


def _texts_of_part(part: Any, index: int) -> list[_Said]:
    if not isinstance(part, dict):
        return [_Said("output_text", index, "".join(pieces(part, Kind.CONTENT)))]
    kind = str(part.get("type"))
    named = "audio.transcript" if kind == "output_audio" else _OF_PART.get(kind, kind)
    name = named if named in _KINDS else "output_text"
    texts = (pieces(value, _KINDS[name]) for key, value in part.items() if key not in _NOT_GENERATED)
    return [_Said(name, index, "".join(piece for found in texts for piece in found))]
