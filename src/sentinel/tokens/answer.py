"""What Sentinel reads of a provider's answer: one stream event, or a whole JSON body.

The shapes below are those that providers mostly send, and are read fast. Whatever does not fit them exactly, for a
field of another type or one that is not named here, is read by `loose.py`: no text goes free for its field's name or
type. The client gets the provider's bytes, not this.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from sentinel.tokens.loose import Kind, Reading, Text, parse, read_loosely, tells_error
from sentinel.tokens.text_run import alike, events_of
from sentinel.tokens.usage import MOST_TOKENS, NOTHING, PLAIN, Details, Usage, details_of, micro_usd


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


_Count = Annotated[int, Meta(ge=0, le=MOST_TOKENS)] | None


class _InputDetails(Struct, gc=False):
    cached_tokens: _Count = None
    cache_write_tokens: _Count = None
    audio_tokens: _Count = None
    image_tokens: _Count = None
    video_tokens: _Count = None


class _OutputDetails(Struct, gc=False):
    reasoning_tokens: _Count = None
    audio_tokens: _Count = None
    image_tokens: _Count = None
    video_tokens: _Count = None


class _Usage(Struct, gc=False):
    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    total_tokens: _Count = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: _Count = None
    # The names of the Responses API, which some use in a chat as well.
    input_tokens: _Count = None
    output_tokens: _Count = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    cost: float | dict[str, Any] | None = None


class _Groq(Struct, gc=False):
    usage: _Usage | None = None


class _Choice(Struct, gc=False, forbid_unknown_fields=True):
    """One choice of chat (`delta` or `message`) or of completions (`text`)."""

    index: int | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    usage: _Usage | None = None
    error: Any = None
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
    usage: _Usage | None = None
    x_groq: _Groq | None = None
    error: Any = None


class _Ending(Struct, gc=False):
    """A choice of a whole answer whose texts need not be read."""

    index: int | None = None
    finish_reason: str | None = None
    usage: Raw = Raw()
    error: Raw = Raw()


class _Told(Struct, gc=False):
    """A whole answer that tells its usage in the usual place."""

    choices: list[_Ending]
    usage: _Usage
    x_groq: Raw = Raw()
    error: Any = None


class _TextDelta(Struct, gc=False, forbid_unknown_fields=True):
    content: str | None = None
    reasoning_content: str | None = None
    role: str | None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None


class _TextChoice(Struct, gc=False, forbid_unknown_fields=True):
    delta: _TextDelta
    index: Annotated[int, Meta(ge=0, le=0)] = 0
    finish_reason: None = None
    # What follows is not generated text.
    logprobs: Raw = Raw()
    stop_reason: Raw = Raw()
    native_finish_reason: Raw = Raw()
    token_ids: Raw = Raw()
    content_filter_results: Raw = Raw()


class _TextEvent(Struct, gc=False):
    """An event of chat whose one choice brings text and nothing else."""

    choices: Annotated[list[_TextChoice], Meta(min_length=1, max_length=1)]
    usage: None = None
    x_groq: None = None
    error: None = None


_event = msgspec.json.Decoder(_Event)
_text_events = msgspec.json.Decoder(list[_TextEvent])
_told_answer = msgspec.json.Decoder(_Told)


def read_event(data: bytes) -> Reading | None:
    """Read one stream event's data, of chat and of completions alike; None if it is no JSON object. Never raises."""
    return _read(data, whole=False)


def read_run(block: bytes) -> list[Text] | None:
    """The texts of a block of chat events that bring text and nothing else, as the last one surely does; else None."""
    found = alike(block, b'"content":"', _text_events)
    if found is not None:
        delta, strings = found[0].choices[0].delta, found[1]
        if strings[-1] and delta.content == strings[0] and not delta.reasoning_content:
            return [Text(0, Kind.CONTENT, 0, "".join(strings))]
    events = events_of(block, _text_events)
    if events is None:
        return None
    deltas = [event.choices[0].delta for event in events]
    if not (deltas[-1].content or deltas[-1].reasoning_content):
        return None
    content = "".join([delta.content for delta in deltas if delta.content])
    reasoning = "".join([delta.reasoning_content for delta in deltas if delta.reasoning_content])
    texts = Text(0, Kind.CONTENT, 0, content), Text(0, Kind.REASONING, 0, reasoning)
    return [text for text in texts if text.piece]


def read_answer(data: bytes) -> Reading | None:
    """Read a whole answer in the same way; without its texts where usage tells the output, so nobody counts them.

    Nearly all tell it in the usual place, and are read without looking into their choices any further.
    Of a choice that has a `delta` and a `message`, as Perplexity's have, the message says more.
    """
    try:
        answer = _told_answer.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read(data, whole=True)
    usage = _told(answer.usage)
    if not answer.error and not answer.x_groq and usage.output_tokens:
        finished = []
        for position, choice in enumerate(answer.choices):
            reason = choice.finish_reason
            if not reason or reason == "error" or choice.usage or choice.error:
                break
            finished.append((position if choice.index is None else choice.index, reason))
        else:
            return Reading([], usage, finished)
    return _read(data, whole=True)


def _read(data: bytes, *, whole: bool) -> Reading | None:
    try:
        return _reading_of(_event.decode(data), whole=whole)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = parse(data)
    return read_loosely(value, whole=whole) if isinstance(value, dict) else None


def _reading_of(event: _Event, *, whole: bool) -> Reading:
    if _has_text_alone(event):
        return Reading(_texts_of(event, whole=whole))
    usage, failed = _usage_of(event), _failed(event)
    texts = [] if whole and usage.output_tokens and not failed else _texts_of(event, whole=whole)
    return Reading(texts, usage, _finished_of(event), failed)


def _has_text_alone(event: _Event) -> bool:
    """Whether its one choice can have text and nothing else, as nearly all of a stream's: a quarter of its reading."""
    if len(event.choices) != 1 or event.usage is not None or event.x_groq is not None or event.error:
        return False
    choice = event.choices[0]
    return choice.finish_reason is None and choice.usage is None and not choice.error


def _failed(event: _Event) -> bool:
    for choice in event.choices:
        # Most of a stream's choices have neither.
        if (choice.error or choice.finish_reason) and tells_error(choice.error, choice.finish_reason):
            return True
    return bool(event.error)


def _finished_of(event: _Event) -> list[tuple[int, str]]:
    return [
        (position if choice.index is None else choice.index, choice.finish_reason)
        for position, choice in enumerate(event.choices)
        if choice.finish_reason
    ]


def _texts_of(event: _Event, *, whole: bool) -> list[Text]:
    texts: list[Text] = []
    for position, choice in enumerate(event.choices):
        index = position if choice.index is None else choice.index
        # Of an event what is new, of an answer all there is.
        delta = (choice.message or choice.delta) if whole else (choice.delta or choice.message)
        if delta is not None:
            _read_delta(texts, index, delta)
        if choice.text and (delta is None or choice.text != delta.content):
            texts.append(Text(index, Kind.CONTENT, 0, choice.text))
    return texts


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


def _usage_of(event: _Event) -> Usage:
    usage = NOTHING if event.usage is None else _told(event.usage)
    if event.x_groq is not None and event.x_groq.usage is not None:
        usage = usage.merged(_told(event.x_groq.usage))
    for choice in event.choices:
        if choice.usage is not None:
            usage = usage.merged(_told(choice.usage))
    return usage


def _told(usage: _Usage) -> Usage:
    inputs = usage.prompt_tokens_details or usage.input_tokens_details
    outputs = usage.completion_tokens_details or usage.output_tokens_details
    return Usage(
        usage.prompt_tokens or usage.input_tokens or 0,
        usage.completion_tokens or usage.output_tokens or 0,
        usage.total_tokens or 0,
        (inputs.cached_tokens if inputs else None) or usage.prompt_cache_hit_tokens or 0,
        (inputs.cache_write_tokens if inputs else None) or 0,
        (outputs.reasoning_tokens if outputs else None) or 0,
        details=_details(inputs, outputs, usage.cost),
    )


def _details(
    inputs: _InputDetails | None, outputs: _OutputDetails | None, cost: float | dict[str, Any] | None
) -> Details:
    """Kinds of tokens that few answers have; most say that there are none."""
    has_inputs = inputs is not None and (inputs.audio_tokens or inputs.image_tokens or inputs.video_tokens)
    has_outputs = outputs is not None and (outputs.audio_tokens or outputs.image_tokens or outputs.video_tokens)
    if not has_inputs and not has_outputs and cost is None:
        return PLAIN
    inputs, outputs = inputs or _InputDetails(), outputs or _OutputDetails()
    return details_of(
        input_audio=inputs.audio_tokens or 0,
        input_image=inputs.image_tokens or 0,
        input_video=inputs.video_tokens or 0,
        output_audio=outputs.audio_tokens or 0,
        output_image=outputs.image_tokens or 0,
        output_video=outputs.video_tokens or 0,
        told_micro_usd=micro_usd(cost),
    )
