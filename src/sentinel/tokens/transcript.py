"""What Sentinel reads of a transcript, or a translation: an event of its stream, or a whole answer in any of its forms.

A text comes in deltas, in segments, and in the last event as a whole; what two of them say alike is said once. Whatever
has another shape is read by `loose.py`, so that no text goes free for its field's name or type.
Source: OpenAI API reference, "Create transcription"; openai-python, types/audio/transcription*.py.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

from sentinel.tokens.audio import seconds_tokens
from sentinel.tokens.loose import Kind, Reading, Text, parse, read_loosely
from sentinel.tokens.usage import MOST_TOKENS, NOTHING, Details, Usage, read_usage

DONE: Final = "transcript.text.done"
DELTA: Final = "transcript.text.delta"
_SEGMENT: Final = "transcript.text.segment"
_TEXT_OF: Final = {DELTA: "delta", _SEGMENT: "text", DONE: "text"}
_FINISHED: Final = [(0, "stop")]
_TIMING: Final = "-->"
"""In the lines of subtitles (SRT, WebVTT) that say when a text is shown."""
_TITLE: Final = "WEBVTT"
_NOT_SAID: Final = frozenset(("usage", "language", "languages", "logprobs", "task", "words", "duration", "segments"))
_KNOWN: Final = _NOT_SAID | {"text", "type", "error"}


def read_transcript(body: bytes) -> Reading | None:
    """Read a whole answer: JSON, subtitles, or the text alone. Never None: what is no JSON is a text."""
    value = parse(body)
    if not isinstance(value, dict):
        return Reading(_texts(_shown(body.decode("utf-8", "replace"))), finished=_FINISHED)
    failed, text = bool(value.get("error")), value.get("text")
    if failed or not isinstance(text, str) or not value.keys() <= _KNOWN:
        reading = read_loosely({key: each for key, each in value.items() if key not in _NOT_SAID}, whole=True)
        if reading is None:
            return None
        said = [] if failed else [*reading.texts, *(_texts(_spoken_in(value)) if not isinstance(text, str) else ())]
        return Reading(said, usage_of(value), [] if failed else _FINISHED, failed)
    return Reading(_texts(text), usage_of(value), _FINISHED)


class TranscriptTexts:
    """Reads one stream: knows how much of the text has come, and in what."""

    __slots__ = ("_come", "_counted")

    def __init__(self) -> None:
        self._come = dict.fromkeys(_TEXT_OF, 0)
        self._counted = 0

    def read(self, data: bytes) -> Reading | None:
        """What an event says that none before has said; None for what is no JSON object. Never raises."""
        event = parse(data)
        if not isinstance(event, dict):
            return None
        kind, usage = event.get("type"), usage_of(event)
        field = _TEXT_OF.get(kind) if isinstance(kind, str) else None
        said = event.get(field) if field is not None else None
        if not isinstance(kind, str) or not isinstance(said, str) or event.get("error"):
            reading = read_loosely({key: each for key, each in event.items() if key not in ("usage", "speaker")})
            return None if reading is None else Reading(reading.texts, usage, [], reading.failed)
        finished = _FINISHED if kind == DONE else []
        return Reading(_texts(self._new(kind, said)), usage, finished)

    def _new(self, kind: str, said: str) -> str:
        """What of this text goes beyond all that has come in other kinds of events."""
        self._come[kind] += len(said)
        more = min(len(said), self._come[kind] - self._counted)
        if more <= 0:
            return ""
        self._counted += more
        return said[len(said) - more :]


def usage_of(value: dict[str, Any]) -> Usage:
    """What an answer or an event tells of usage: tokens, or how long the sound is."""
    usage = value.get("usage")
    told = read_usage(usage)
    if told != NOTHING:
        return told
    seconds = usage.get("seconds") if isinstance(usage, dict) else value.get("duration")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds) and seconds > 0:
        tokens = min(MOST_TOKENS, seconds_tokens(seconds))
        return Usage(tokens, details=Details(input_audio=tokens))
    return NOTHING


def _texts(said: str) -> list[Text]:
    return [Text(0, Kind.CONTENT, 0, said)] if said else []


def _spoken_in(value: dict[str, Any]) -> str:
    """The texts of the segments."""
    segments = value.get("segments")
    return "".join(
        each["text"]
        for each in (segments if isinstance(segments, list) else ())
        if isinstance(each, dict) and isinstance(each.get("text"), str)
    )


def _shown(text: str) -> str:
    """A text without what subtitles have around it: times, and the numbers above them."""
    if _TIMING not in text:
        return text
    return "\n".join(_lines_shown(text.splitlines()))


def _lines_shown(lines: list[str]) -> Iterator[str]:
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if _TIMING not in line and line != _TITLE and not (line.strip().isdecimal() and _TIMING in following):
            yield line
