"""What translations are held against: the vendors' SDKs as readers, and every leaf of a request, wherever it went."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from sentinel.proxy.translation.pair import StreamTranslator

_response_event: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_message_event: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def message_of(stream: bytes) -> Message:
    """The message that Anthropic's SDK makes of a whole stream."""
    message: Any = None
    bufs: dict[int, bytes] = {}
    names = re.findall(rb"^event: (\w+)\n", stream, re.MULTILINE)
    data = re.findall(rb"^data: (.*)\n", stream, re.MULTILINE)
    assert len(names) == len(data) == stream.count(b"\n\n")
    for name, each in zip(names, data, strict=True):
        assert json.loads(each)["type"] == name.decode()
        event = _message_event.validate_json(each, strict=True)
        message = accumulate_event(event=event, current_snapshot=message, json_bufs=bufs)
    assert names[0] == b"message_start"
    assert names[-1] == b"message_stop"
    assert names.count(b"content_block_start") == names.count(b"content_block_stop") == len(message.content)
    assert isinstance(message, Message)
    return message


def chunks_of(stream: bytes) -> list[ChatCompletionChunk]:
    """The chunks of a whole stream in chat's format, as OpenAI's SDK reads them."""
    *events, done = stream.removesuffix(b"\n\n").split(b"\n\n")
    assert done == b"data: [DONE]"
    return [ChatCompletionChunk.model_validate_json(event.removeprefix(b"data: "), strict=True) for event in events]


def completion_of(stream: bytes) -> ChatCompletion:
    """The completion that OpenAI's SDK makes of a whole stream in chat's format."""
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in chunks_of(stream):
        state.handle_chunk(chunk)
    return ChatCompletion.model_validate(state.current_completion_snapshot.model_dump(warnings=False))


def told(translator: StreamTranslator, stream: bytes) -> bytes:
    """All that a client gets of a stream that comes at once."""
    return translator.feed(stream) + translator.end()


def assert_same_however_cut(make: Callable[[], StreamTranslator], stream: bytes) -> None:
    """Cut at any byte, and byte by byte, a stream is translated as if it came at once."""
    expected = told(make(), stream)
    for cut in range(1, len(stream)):
        translator = make()
        assert translator.feed(stream[:cut]) + told(translator, stream[cut:]) == expected, cut
    translator = make()
    pieces = [translator.feed(stream[place : place + 1]) for place in range(len(stream))]
    assert b"".join(pieces) + translator.end() == expected


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every string, number and truth in a request, with its path; positions in lists are `*`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{path}.*")
    elif value is not None:
        yield path, value


def texts_in(value: Any) -> Iterator[str]:
    """Every leaf as a text, also those inside of JSON in a string."""
    for _, leaf in leaves(value):
        yield str(leaf)
        if isinstance(leaf, str) and leaf.startswith("{"):
            yield from texts_in(json.loads(leaf))


def numbered(value: Any) -> Any:
    """A request with each `@` in it as a word that comes once."""
    pieces = json.dumps(value).split("@")
    return json.loads("".join(f"{piece}w{number}w" for number, piece in enumerate(pieces[:-1])) + pieces[-1])


def objects_in(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in a request, with its path."""
    if isinstance(value, dict):
        yield path, value
        for name, inner in value.items():
            yield from objects_in(inner, f"{path}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for inner in value:
            yield from objects_in(inner, path)


def response_of(stream: bytes) -> Response:
    """The response at the end of a whole stream, of which OpenAI's SDK can read each event and put them together."""
    state: ResponseStreamState[None] = ResponseStreamState(input_tools=[], text_format=omit)
    event: Any = None
    deltas: dict[tuple[str, str, int], str] = {}
    for number, each in enumerate(re.findall(rb"^event: (.*)\ndata: (.*)\n\n", stream, re.MULTILINE)):
        event = _response_event.validate_json(each[1], strict=True)
        assert (event.type, event.sequence_number) == (each[0].decode(), number)
        state.handle_event(event)
        place = event.type.rpartition(".")[0], getattr(event, "item_id", ""), getattr(event, "content_index", 0)
        if event.type.endswith(".delta"):
            deltas[place] = deltas.get(place, "") + event.delta
        elif place in deltas:
            assert deltas.pop(place) in (getattr(event, name, None) for name in ("text", "refusal", "arguments"))
    assert not deltas
    assert event.type in ("response.completed", "response.incomplete")
    response: Response = event.response
    begun, done = (stream.count(b"event: response.output_item.%b" % word) for word in (b"added", b"done"))
    assert begun == done == len(response.output)
    return Response.model_validate(response.model_dump(by_alias=True))


ODD: st.SearchStrategy[Any] = st.sampled_from([None, True, 5, -1, 1.5, "", "x", [], [5], {}, {"a": 1}, [{}], [[]]])


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Where a value stands: each container with each of its keys or positions."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in [(value, key), *places_in(value[key])]]


def spoilt(value: Any, data: st.DataObject) -> Any:
    """The same with something odd in one place."""
    copy = json.loads(json.dumps(value))
    container, key = data.draw(st.sampled_from(places_in(copy)))
    container[key] = data.draw(ODD)
    return copy
