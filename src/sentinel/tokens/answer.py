"""What Sentinel reads of a provider's answer: one stream event, or a whole JSON body.

The shapes below are those that providers mostly send, and are read fast. Whatever does not fit them exactly, for a
field of another type or one that is not named here, is read by `loose.py`: no text goes free for its field's name or
type. The client gets the provider's bytes, not this.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from sentinel.tokens.loose import Kind, Reading, Text, parse, read_loosely
from sentinel.tokens.usage import NOTHING, Usage, usage_beside


class _Function(Struct, gc=False, forbid_unknown_fields=True):
    name: str | None = None
    arguments: str | None = None


class _Custom(Struct, gc=False, forbid_unknown_fields=True):
    name: str | None = None
    input: str | None = None


class _Call(Struct, gc=False, forbid_unknown_fields=True):
    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None


class _Delta(Struct, gc=False, forbid_unknown_fields=True):
    """A choice's `delta` in a stream, or its `message` in a whole answer."""

    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    # What follows is not generated text.
    annotations: Raw = Raw()
    channel: str | None = None


class _Choice(Struct, gc=False, forbid_unknown_fields=True):
    """One choice of chat (`delta` or `message`) or of completions (`text`)."""

    index: int | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    usage: Any = None
    # What follows is not generated text.
    logprobs: Raw = Raw()
    stop_reason: Raw = Raw()
    native_finish_reason: Raw = Raw()
    matched_stop: Raw = Raw()
    token_ids: Raw = Raw()
    prompt_token_ids: Raw = Raw()
    prompt_logprobs: Raw = Raw()
    content_filter_results: Raw = Raw()
    content_filter_offsets: Raw = Raw()
    content_filter_result: Raw = Raw()


class _Event(Struct, gc=False):
    choices: list[_Choice]
    usage: Any = None
    x_groq: Any = None
    error: Any = None


_event = msgspec.json.Decoder(_Event)


def read_event(data: bytes) -> Reading | None:
    """Read one stream event's data, or a whole answer, of chat and of completions alike; None if it is no JSON object.

    Never raises.
    """
    try:
        return _read(_event.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = parse(data)
    return read_loosely(value) if isinstance(value, dict) else None


def _read(event: _Event) -> Reading:
    texts: list[Text] = []
    finished: list[tuple[int, str]] = []
    usages: list[Any] = []
    for position, choice in enumerate(event.choices):
        index = position if choice.index is None else choice.index
        delta = choice.message if choice.delta is None else choice.delta
        if delta is not None:
            _read_delta(texts, index, delta)
        if choice.text and (delta is None or choice.text != delta.content):
            texts.append(Text(index, Kind.CONTENT, 0, choice.text))
        if choice.finish_reason:
            finished.append((index, choice.finish_reason))
        if choice.usage is not None:
            usages.append(choice.usage)
    return Reading(texts, _usage(event, usages), finished, bool(event.error))


def _read_delta(texts: list[Text], index: int, delta: _Delta) -> None:
    if delta.content:
        texts.append(Text(index, Kind.CONTENT, 0, delta.content))
    if delta.refusal:
        texts.append(Text(index, Kind.REFUSAL, 0, delta.refusal))
    if delta.reasoning_content:
        texts.append(Text(index, Kind.REASONING, 0, delta.reasoning_content))
    # vLLM and others send the same under both names for a while (vllm#50624).
    if delta.reasoning and delta.reasoning != delta.reasoning_content:
        texts.append(Text(index, Kind.REASONING, 0, delta.reasoning))
    legacy = delta.function_call
    # Some send it beside the call of today.
    if legacy is not None and not (delta.tool_calls and delta.tool_calls[0].function == legacy):
        _read_call(texts, index, -1, legacy.name, legacy.arguments)
    for position, call in enumerate(delta.tool_calls or ()):
        tool = position if call.index is None else call.index
        if call.function is not None:
            _read_call(texts, index, tool, call.function.name, call.function.arguments)
        if call.custom is not None:
            _read_call(texts, index, tool, call.custom.name, call.custom.input)


def _read_call(texts: list[Text], index: int, tool: int, name: str | None, arguments: str | None) -> None:
    if name:
        texts.append(Text(index, Kind.NAME, tool, name))
    if arguments:
        texts.append(Text(index, Kind.ARGUMENTS, tool, arguments))


def _usage(event: _Event, of_choices: list[Any]) -> Usage:
    if event.usage is None and event.x_groq is None and not of_choices:
        return NOTHING
    return usage_beside(event.usage, event.x_groq, of_choices)
