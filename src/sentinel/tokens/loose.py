"""Reads events and answers that have no shape we know, so that nothing generated goes free.

Two rules. Within `choices`, every string is generated text unless its key is known to hold something else: a new
field of a new model counts on the day that it appears. Outside of `choices`, only the fields known for text count.
A text that comes under several names at once counts once.
"""

import json
from collections.abc import Iterator
from enum import IntEnum
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from sentinel.tokens.usage import NOTHING, Usage, usage_beside


class Kind(IntEnum):
    """Which text of a choice a piece belongs to; each is counted as a text of its own."""

    CONTENT = 0
    REFUSAL = 1
    REASONING = 2
    NAME = 3
    ARGUMENTS = 4
    TRANSCRIPT = 5
    OTHER = 6
    SUMMARY = 7


class Text(NamedTuple):
    """A piece of generated text. tool: index of the tool call that it belongs to, -1 for the legacy function call."""

    choice: int
    kind: Kind
    tool: int
    piece: str


class Reading(Struct, frozen=True, gc=False):
    """What an event or an answer says. finished: (choice, reason). failed: it tells of an error.

    begun, ended: parts of an answer, by their numbers, where a stream tells when one begins and ends.
    """

    texts: list[Text] = []
    usage: Usage = NOTHING
    finished: list[tuple[int, str]] = []
    failed: bool = False
    begun: tuple[int, ...] = ()
    ended: tuple[int, ...] = ()

    @property
    def is_generated(self) -> bool:
        """Whether the provider has generated anything; the end of a choice by an error is nothing."""
        return bool(self.texts or (self.finished and not self.failed))


_KINDS: Final = {
    "content": Kind.CONTENT,
    "text": Kind.CONTENT,
    "refusal": Kind.REFUSAL,
    "reasoning": Kind.REASONING,
    "reasoning_content": Kind.REASONING,
    "reasoning_text": Kind.REASONING,
    "reasoning_details": Kind.REASONING,
    "thinking": Kind.REASONING,
    "thinking_blocks": Kind.REASONING,
    "thought": Kind.REASONING,
    "transcript": Kind.TRANSCRIPT,
    "arguments": Kind.ARGUMENTS,
    "partial_json": Kind.ARGUMENTS,
    "input": Kind.ARGUMENTS,
    "parameters": Kind.ARGUMENTS,
    "name": Kind.NAME,
}
_KINDS_ANYWHERE: Final = {
    **{key: kind for key, kind in _KINDS.items() if key not in ("input", "parameters", "name")},
    "delta": Kind.CONTENT,
    "completion": Kind.CONTENT,
    "response": Kind.CONTENT,
    "output_text": Kind.CONTENT,
}
"""For an event without `choices`, which is none of a chat."""

NOT_TEXT: Final = frozenset(
    (
        "role", "id", "type", "object", "index", "status", "model", "provider", "created", "seed", "service_tier",
        "finish_reason", "native_finish_reason", "stop_reason", "matched_stop", "logprobs", "prompt_logprobs",
        "token_ids", "prompt_token_ids", "usage", "content_filter_results", "content_filter_result", "channel",
        "content_filter_offsets", "annotations", "citations", "citation", "stop_sequence", "error", "obfuscation",
        "format", "mime_type", "detail",
        # Encoded, not text: pictures and sound, and what only the provider can read.
        "url", "image_url", "images", "b64_json", "data", "file_data", "signature", "thought_signature",
        "encrypted_content", "encrypted",
    )
)  # fmt: skip

_OF_ONE_KIND: Final = (Kind.REASONING, Kind.REFUSAL, Kind.ARGUMENTS, Kind.TRANSCRIPT)
"""What is inside of these is of the same kind, whatever its key."""


class _Leaf(NamedTuple):
    """A piece of text, and the field of the choice or its delta that it was found in."""

    field: str
    kind: Kind
    tool: int
    piece: str


def parse(data: bytes) -> Any:
    """Read JSON as SDKs read it: they mind no NaN, no infinity and no BOM. None if it is no JSON.

    Bytes that are not UTF-8 and line ends inside of strings are read around, for their text may have been shown.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(data.decode("utf-8-sig", "replace"), strict=False)
    except (ValueError, RecursionError):
        return None


def read_loosely(event: dict[str, Any], *, whole: bool = False) -> Reading | None:
    """Read an event or an answer of any shape; None for one that is nested too deeply. Never raises.

    whole: as `read_event` has it.
    """
    try:
        return _read(event, whole=whole)
    except RecursionError:
        return None


def _read(event: dict[str, Any], *, whole: bool) -> Reading:
    choices = event.get("choices")
    failed = bool(event.get("error")) or "error" in (event.get("object"), event.get("type"))
    texts: list[Text] = []
    finished: list[tuple[int, str]] = []
    if choices is None and not failed:
        texts = [Text(0, *leaf[1:]) for leaf in _leaves(event, "", None, 0, _KINDS_ANYWHERE)]
    listed = _listed(choices)
    for position, choice in enumerate(listed):
        index = _index_of(choice, position)
        texts += [Text(index, *leaf[1:]) for leaf in _once(_leaves_of_choice(choice, whole=whole))]
        if isinstance(choice, dict):
            reason = choice.get("finish_reason")
            failed = failed or tells_error(choice.get("error"), reason)
            if isinstance(reason, str) and reason:
                finished.append((index, reason))
    of_choices = [choice.get("usage") for choice in listed if isinstance(choice, dict)]
    return Reading(texts, usage_beside(event.get("usage"), event.get("x_groq"), of_choices), finished, failed)


def texts_in(fields: dict[str, Any], part: int) -> list[Text]:
    """The texts in a part of an answer that comes in numbered parts. Raises RecursionError."""
    leaves = (_leaves_under(key, value, key, None, part, _KINDS) for key, value in fields.items())
    return [Text(0, *leaf[1:]) for leaf in _once(chain.from_iterable(leaves))]


def tells_error(error: Any, finish_reason: Any) -> bool:
    """Whether a choice has failed: OpenRouter says so within the choice, or beside it and by how it finished."""
    return bool(error) or finish_reason == "error"


def _listed(choices: Any) -> list[Any]:
    if choices is None or isinstance(choices, list):
        return choices or []
    return [choices]


def _index_of(value: Any, position: int) -> int:
    found = value.get("index") if isinstance(value, dict) else None
    return found if isinstance(found, int) else position


def _leaves_of_choice(choice: Any, *, whole: bool) -> Iterator[_Leaf]:
    if not isinstance(choice, dict):
        yield from _leaves(choice, "", None, 0, _KINDS)
        return
    # Perplexity sends what is new as `delta`, and all so far as `message` beside it.
    says_it, repeats_it = ("message", "delta") if whole else ("delta", "message")
    for key, value in choice.items():
        if key == repeats_it and isinstance(choice.get(says_it), dict):
            continue
        if key in ("delta", "message") and isinstance(value, dict):
            for field, inner in value.items():
                yield from _leaves_under(field, inner, field, None, 0, _KINDS)
        else:
            yield from _leaves_under(key, value, key, None, 0, _KINDS)


def _leaves(value: Any, field: str, kind: Kind | None, tool: int, kinds: dict[str, Kind]) -> Iterator[_Leaf]:
    """The texts in a value. kind: of the nearest key that has one, None = no key so far had any."""
    if isinstance(value, dict):
        if kind is Kind.ARGUMENTS:
            # A provider that has parsed them already; the model wrote JSON.
            yield _Leaf(field, kind, tool, json.dumps(value, ensure_ascii=False, separators=(",", ":")))
            return
        for key, inner in value.items():
            yield from _leaves_under(key, inner, field, kind, tool, kinds)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, field, kind, tool, kinds)
    elif isinstance(value, str):
        if value and (kind is not None or kinds is _KINDS):
            yield _Leaf(field, Kind.OTHER if kind is None else kind, tool, value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and kind is not None:
        yield _Leaf(field, kind, tool, str(value))


def pieces(value: Any, kind: Kind) -> list[str]:
    """All texts in a value of this kind, whatever its shape. Raises RecursionError where it is nested too deeply."""
    return [leaf.piece for leaf in _leaves(value, "", kind, 0, _KINDS)]


def _leaves_under(
    key: str, value: Any, field: str, kind: Kind | None, tool: int, kinds: dict[str, Kind]
) -> Iterator[_Leaf]:
    if key in NOT_TEXT:
        return
    if key == "tool_calls" and isinstance(value, list):
        for position, call in enumerate(value):
            yield from _leaves(call, field, kind, _index_of(call, position), kinds)
        return
    inner_kind = kind if kind in _OF_ONE_KIND else kinds.get(key, kind)
    yield from _leaves(value, field, inner_kind, -1 if key == "function_call" else tool, kinds)


def _once(leaves: Iterator[_Leaf]) -> Iterator[_Leaf]:
    """Leave out what another field of the same choice has said already."""
    by_field: dict[str, list[_Leaf]] = {}
    for leaf in leaves:
        by_field.setdefault(leaf.field, []).append(leaf)
    said: set[tuple[bool, bool, str]] = set()
    for found in by_field.values():
        kind = found[0].kind
        # Reasoning may happen to be what the answer begins with; and calls are told apart by their fields.
        same = (kind is Kind.REASONING, kind in (Kind.NAME, Kind.ARGUMENTS), "".join(leaf.piece for leaf in found))
        if same not in said:
            said.add(same)
            yield from found
