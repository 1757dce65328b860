"""What Sentinel reads of an answer in Gemini's format: one event of a stream, or a whole answer, which look alike.

Each candidate is a choice; an answer without any is read as one of any other format. Whatever its parts hold is text
that was generated, whatever the field is called, but for what is known to be none: pictures and sound, signatures, what
a tool has said.
Source: Google's API reference, "GenerateContentResponse".
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from sentinel.tokens.loose import Kind, Reading, Text, parse, read_loosely, texts_in
from sentinel.tokens.usage import MOST_TOKENS, NOTHING, Usage, read_usage_metadata

_UNSAID: Final = ("", "FINISH_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED")

_NOT_GENERATED: Final = frozenset(
    (
        *("thought", "thoughtSignature", "thought_signature", "inlineData", "inline_data", "fileData", "file_data"),
        *("codeExecutionResult", "code_execution_result", "functionResponse", "function_response"),
        *("toolResponse", "tool_response", "videoMetadata", "video_metadata", "partMetadata", "part_metadata"),
        *("mediaResolution", "media_resolution", "mediaProcessing", "media_processing"),
    )
)
_CALLS: Final = frozenset(("functionCall", "function_call", "toolCall", "tool_call"))
_ARGUMENTS: Final[dict[str, str]] = {"args": "arguments", "partialArgs": "arguments", "partial_args": "arguments"}
_NOT_SAID: Final = frozenset(("id", "willContinue", "will_continue", "language"))
"""Beside a call, or code."""
_OUTSIDE_OF_CONTENT: Final = frozenset(("output", "text"))
"""Of a candidate of another vendor: the fields that would be text."""


_TokenCount = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]


class _Part(Struct, gc=False, forbid_unknown_fields=True):
    text: str


class _Content(Struct, gc=False, forbid_unknown_fields=True):
    parts: list[_Part]
    role: str = ""


class _Candidate(Struct, gc=False, forbid_unknown_fields=True):
    content: _Content
    index: int = 0


class _OfText(Struct, gc=False):
    """How many tokens are text; what tells of other kinds is read by `read_generated`."""

    modality: Literal["TEXT"]


class _Metadata(Struct, gc=False):
    promptTokenCount: _TokenCount = 0  # noqa: N815 (as Google calls it, here and below)
    toolUsePromptTokenCount: _TokenCount = 0  # noqa: N815
    candidatesTokenCount: _TokenCount = 0  # noqa: N815
    thoughtsTokenCount: _TokenCount = 0  # noqa: N815
    totalTokenCount: _TokenCount = 0  # noqa: N815
    cachedContentTokenCount: _TokenCount = 0  # noqa: N815
    promptTokensDetails: list[_OfText] = []  # noqa: N815
    toolUsePromptTokensDetails: list[_OfText] = []  # noqa: N815
    cacheTokensDetails: list[_OfText] = []  # noqa: N815
    candidatesTokensDetails: list[_OfText] = []  # noqa: N815


class _TextEvent(Struct, gc=False, forbid_unknown_fields=True):
    candidates: tuple[_Candidate]
    usageMetadata: _Metadata  # noqa: N815
    modelVersion: str = ""  # noqa: N815
    responseId: str = ""  # noqa: N815


_text_event = msgspec.json.Decoder(_TextEvent)


def read_event(data: bytes) -> Reading | None:
    """Read one event's data; None if it is no JSON. Nearly all have a text and usage alone. Never raises."""
    try:
        event = _text_event.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return read_generated(data)
    candidate, told = event.candidates[0], event.usageMetadata
    texts = [Text(candidate.index, Kind.CONTENT, 0, part.text) for part in candidate.content.parts if part.text]
    prompt = told.promptTokenCount + told.toolUsePromptTokenCount
    output = told.candidatesTokenCount + told.thoughtsTokenCount
    cached = told.cachedContentTokenCount
    return Reading(texts, Usage(prompt, output, told.totalTokenCount, cached, 0, told.thoughtsTokenCount))


def read_generated(data: bytes) -> Reading | None:
    """Read an event's data, or a whole answer, which may be a list of such; None if it is no JSON. Never raises."""
    value = parse(data)
    answers = value if isinstance(value, list) else [value]
    try:
        readings = [_read(answer) for answer in answers if isinstance(answer, dict)]
    except RecursionError:
        return None
    if not readings:
        return None
    return readings[0] if len(readings) == 1 else _together(readings)


def read_whole(data: bytes) -> Reading | None:
    """The same; without its texts where usage tells the output, so nobody counts them."""
    reading = read_generated(data)
    if reading is None or not reading.usage.output_tokens or reading.failed:
        return reading
    return Reading([], reading.usage, reading.finished or [(0, "")])


def read_usage(data: bytes) -> Usage:
    """What an answer of any kind, or an event, tells of usage."""
    value = parse(data)
    return _usage_of(value) if isinstance(value, dict) else NOTHING


def read_embedded(data: bytes) -> Reading | None:
    """What an answer with vectors says: that there are any is enough for its input to be spent."""
    value = parse(data)
    if not isinstance(value, dict):
        return None
    told = _usage_of(value)
    usage = Usage(prompt_tokens=told.prompt_tokens, details=told.details)
    has_vectors = bool(value.get("embedding") or value.get("embeddings"))
    return Reading([], usage, [(0, "")] if has_vectors else [], bool(value.get("error")))


def _together(readings: list[Reading]) -> Reading:
    usage = NOTHING
    for reading in readings:
        usage = usage.merged(reading.usage)
    texts = [text for reading in readings for text in reading.texts]
    finished = [reason for reading in readings for reason in reading.finished]
    return Reading(texts, usage, finished, any(reading.failed for reading in readings))


def _usage_of(answer: dict[str, Any]) -> Usage:
    return read_usage_metadata(answer.get("usageMetadata") or answer.get("usage_metadata"))


def _read(answer: dict[str, Any]) -> Reading:
    texts: list[Text] = []
    finished: list[tuple[int, str]] = []
    candidates = answer.get("candidates")
    for position, candidate in enumerate(candidates if isinstance(candidates, list) else [candidates]):
        if not isinstance(candidate, dict):
            continue
        index = candidate.get("index")
        index = index if isinstance(index, int) else position
        texts += [text._replace(choice=index) for text in _texts_of(candidate)]
        finished += [(index, reason) for reason in _reasons(candidate, "finishReason", "finish_reason")]
    if "candidates" not in answer:
        loose = read_loosely(answer)
        texts = [] if loose is None else loose.texts
    feedback = answer.get("promptFeedback") or answer.get("prompt_feedback")
    if isinstance(feedback, dict):
        # There will be no candidates.
        finished += [(0, reason) for reason in _reasons(feedback, "blockReason", "block_reason")]
    return Reading(texts, _usage_of(answer), finished, bool(answer.get("error")))


def _reasons(value: dict[str, Any], *names: str) -> Iterator[str]:
    for reason in (value.get(name) for name in names):
        if isinstance(reason, str) and reason not in _UNSAID:
            yield reason


def _texts_of(candidate: dict[str, Any]) -> Iterator[Text]:
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else content
    for number, part in enumerate(parts if isinstance(parts, list) else [parts]):
        if isinstance(part, str):
            yield from texts_in({"text": part}, number)
        elif isinstance(part, dict):
            yield from _texts_of_part(part, number)
    yield from texts_in({name: candidate[name] for name in _OUTSIDE_OF_CONTENT if name in candidate}, 0)


def _texts_of_part(part: dict[str, Any], number: int) -> Iterator[Text]:
    is_thought = bool(part.get("thought"))
    for key, value in part.items():
        if key in _NOT_GENERATED:
            continue
        if key in _CALLS and isinstance(value, dict):
            said = {str(_ARGUMENTS.get(name, name)): given for name, given in value.items() if name not in _NOT_SAID}
            yield from texts_in(said, number)
        elif isinstance(value, dict):
            yield from texts_in({name: given for name, given in value.items() if name not in _NOT_SAID}, number)
        else:
            # A text goes on from event to event, wherever it stands among the parts.
            for text in texts_in({key: value}, 0):
                yield text._replace(kind=Kind.REASONING) if is_thought else text
