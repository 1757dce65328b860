"""One answer as each format says it: for tests of what holds for all formats.

Each answer is " one two three four" to "Say hello". Its stream comes in four pieces of a token each, and its end tells
11 tokens of input and 40 of output.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.compact import COMPACT
from sentinel.endpoints.completions import COMPLETIONS
from sentinel.endpoints.count_tokens import COUNT_TOKENS
from sentinel.endpoints.embeddings import EMBEDDINGS
from sentinel.endpoints.endpoint import Endpoint
from sentinel.endpoints.gemini_count import ContentCountEndpoint
from sentinel.endpoints.gemini_embeddings import EmbedContentEndpoint
from sentinel.endpoints.generate_content import GenerateContentEndpoint, StreamGenerateContentEndpoint
from sentinel.endpoints.images import IMAGE_EDITS, IMAGE_GENERATIONS
from sentinel.endpoints.input_tokens import INPUT_TOKENS
from sentinel.endpoints.messages import MESSAGES
from sentinel.endpoints.moderations import MODERATIONS
from sentinel.endpoints.native import NATIVE
from sentinel.endpoints.responses import RESPONSES
from sentinel.endpoints.speech import SPEECH
from sentinel.endpoints.transcriptions import TRANSCRIPTIONS, TRANSLATIONS
from tests.support.surface import form

WORDS = (" one", " two", " three", " four")
TEXT = "".join(WORDS)
PROMPT = "Say hello"
MODEL = "gpt-4o-mini"
USAGE = (11, 40)
_MESSAGES = {"messages": [{"role": "user", "content": PROMPT}]}
_OPENAIS = {"prompt_tokens": 11, "completion_tokens": 40, "total_tokens": 51}
_BOTH = {"input_tokens": 11, "output_tokens": 40, "total_tokens": 51}
_GOOGLES = {"promptTokenCount": 11, "candidatesTokenCount": 40, "totalTokenCount": 51}


@dataclass(frozen=True)
class Format:
    """A format. input: our own count of its request. pieces: one for each of WORDS; before, end: beside them.

    endpoint, request: of a stream; whole_endpoint, whole: of an answer in one piece. end: has the usage. usage: what a
    whole answer tells. file: of a request that is a form, what its file is called. is_array: a stream is one array.
    """

    endpoint: Endpoint[Any]
    request: dict[str, Any]
    input: int
    before: tuple[bytes, ...]
    pieces: tuple[bytes, ...]
    end: tuple[bytes, ...]
    whole: bytes
    whole_endpoint: Endpoint[Any] | None = None
    usage: tuple[int, int] = USAGE
    file: str = ""
    is_array: bool = False

    @property
    def stream(self) -> list[bytes]:
        """The whole stream."""
        told = [*self.before, *self.pieces, *self.end]
        if not self.is_array:
            return told
        first, *more, last = told
        return [b"[" + first, *(b",\n" + piece for piece in more), b",\n" + last + b"]"]

    @property
    def stream_lines(self) -> bytes:
        """The headers of a stream."""
        return b"content-type: application/json\r\n" if self.is_array else b"content-type: text/event-stream\r\n"

    def body(self, *, stream: bool) -> tuple[bytes, bytes]:
        """A request for it, and its content type."""
        is_told = {} if self.whole_endpoint or not self.pieces else {"stream": stream}
        told = {**self.request, **is_told}
        if not self.file:
            return json.dumps(told).encode(), b"application/json"
        body, kind = form([(name, str(value).lower()) for name, value in told.items()], self.file)
        return body, kind.encode()

    def at(self, *, stream: bool) -> Endpoint[Any]:
        """Where to ask for it."""
        return self.endpoint if stream or self.whole_endpoint is None else self.whole_endpoint

    def text(self, got: bytes) -> str:
        """What of the text has come; the ends that Sentinel makes up itself say none."""
        return "".join(word for word, piece in zip(WORDS, self.pieces, strict=True) if piece in got)

    def tells_usage(self, got: list[bytes]) -> bool:
        """Whether the usage has come."""
        told = self.end[_place_of_usage(self.end)]
        return any(told in piece for piece in got)


def _place_of_usage(end: tuple[bytes, ...]) -> int:
    return next(place for place, piece in enumerate(end) if b"sage" in piece and b"40" in piece)


def _data(**fields: Any) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + _data(type=kind, **fields)


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def _chunk(word: str, kind: str) -> bytes:
    choice = {"delta": {"content": word}} if kind == "chat.completion.chunk" else {"text": word}
    return _data(id="c", object=kind, choices=[{"index": 0, **choice, "finish_reason": None}])


def _openais(endpoint: Endpoint[Any], request: dict[str, Any], count: int, kind: str) -> Format:
    said = {"message": {"role": "assistant", "content": TEXT}} if "chat" in kind else {"text": TEXT}
    choice = {"index": 0, **said, "finish_reason": "stop"}
    return Format(
        endpoint,
        request,
        count,
        (),
        tuple(_chunk(word, kind) for word in WORDS),
        (_data(id="c", object=kind, choices=[], usage=_OPENAIS), b"data: [DONE]\n\n"),
        _json(id="c", object=kind.removesuffix(".chunk"), created=1, model=MODEL, choices=[choice], usage=_OPENAIS),
    )


def _responses() -> Format:
    response = {"id": "resp_1", "object": "response", "status": "completed", "usage": _BOTH}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": TEXT}]}
    begun = {"id": "resp_1", "object": "response", "status": "in_progress", "output": []}
    return Format(
        RESPONSES,
        {"model": MODEL, "input": PROMPT},
        9,
        (_event("response.created", response=begun),),
        tuple(_event("response.output_text.delta", **place, delta=word) for word in WORDS),
        (_event("response.completed", response=response),),
        _json(**response, output=[item]),
    )


def _messages() -> Format:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL}
    usage = {"input_tokens": 11, "output_tokens": 40}
    block = {"type": "text", "text": TEXT}
    return Format(
        MESSAGES,
        {"model": MODEL, "max_tokens": 1000, **_MESSAGES},
        9,
        (
            _event("message_start", message={**message, "content": []}),
            _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        ),
        tuple(_event("content_block_delta", index=0, delta={"type": "text_delta", "text": word}) for word in WORDS),
        (
            _event("content_block_stop", index=0),
            _event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage),
            _event("message_stop"),
        ),
        _json(**message, content=[block], stop_reason="end_turn", usage=usage),
    )


def _gemini(*, is_array: bool = False) -> Format:
    said = _json if is_array else _data

    def answer(text: str, **more: Any) -> dict[str, Any]:
        return {"candidates": [{"content": {"parts": [{"text": text}]}, **more}], "responseId": "r"}

    return Format(
        StreamGenerateContentEndpoint("v1beta", f"models/{MODEL}", b"" if is_array else b"alt=sse"),
        {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]},
        9,
        (),
        tuple(said(**answer(word)) for word in WORDS),
        (said(**answer("", finishReason="STOP"), usageMetadata=_GOOGLES),),
        _json(**answer(TEXT, finishReason="STOP"), usageMetadata=_GOOGLES),
        GenerateContentEndpoint("v1beta", f"models/{MODEL}"),
        is_array=is_array,
    )


def _transcript(endpoint: Endpoint[Any] = TRANSCRIPTIONS) -> Format:
    return Format(
        endpoint,
        {"model": "gpt-4o-mini-transcribe"},
        1,
        (),
        tuple(_data(type="transcript.text.delta", delta=word) for word in WORDS),
        (_data(type="transcript.text.done", text=TEXT, usage={"type": "tokens", **_BOTH}),),
        _json(text=TEXT, usage={"type": "tokens", **_BOTH}),
        file="file",
    )


def _pictures() -> Format:
    def event(kind: str, **fields: Any) -> bytes:
        return _event(f"image_generation.{kind}", b64_json="AAAA" * 100, **fields)

    return Format(
        IMAGE_GENERATIONS,
        {"model": "gpt-image-2", "prompt": PROMPT, "quality": "low", "partial_images": 3},
        2,
        (),
        tuple(event("partial_image", partial_image_index=number) for number in range(3)),
        (event("completed", usage=_BOTH),),
        _json(created=1, data=[{"b64_json": ""}], usage=_BOTH),
    )


def _sound() -> Format:
    return Format(
        SPEECH,
        {"model": "gpt-4o-mini-tts", "input": PROMPT, "voice": "alloy", "stream_format": "sse"},
        2,
        (),
        tuple(_data(type="speech.audio.delta", audio=letter * 2400) for letter in "ABC"),
        (_data(type="speech.audio.done", usage=_BOTH),),
        b"",
    )


FORMATS = {
    "chat": _openais(CHAT, {"model": MODEL, **_MESSAGES}, 9, "chat.completion.chunk"),
    "completions": _openais(COMPLETIONS, {"model": MODEL, "prompt": PROMPT}, 2, "text_completion"),
    "native": _openais(NATIVE, _MESSAGES, 9, "chat.completion.chunk"),
    "responses": _responses(),
    "messages": _messages(),
    "gemini": _gemini(),
}
"""Those that generate text, by what a test is called."""
STREAMS = {**FORMATS, "array": _gemini(is_array=True), "transcripts": _transcript()}
"""All whose streams are text."""
OF_MEDIA = {"images": _pictures(), "sound": _sound()}
"""Those whose streams are something else: a piece of them has no text, and is of no known number of tokens."""


def _in_one_piece(
    endpoint: Endpoint[Any], request: dict[str, Any], count: int, cost: tuple[int, int], /, **said: Any
) -> Format:
    return Format(endpoint, request, count, (), (), (), _json(**said), usage=cost)


WHOLES = {
    **FORMATS,
    "transcripts": STREAMS["transcripts"],
    "translations": _transcript(TRANSLATIONS),
    "embeddings": _in_one_piece(
        EMBEDDINGS,
        {"model": "text-embedding-3-small", "input": PROMPT},
        2,
        (11, 0),
        object="list",
        data=[{"object": "embedding", "index": 0, "embedding": [0.5]}],
        usage={"prompt_tokens": 11, "total_tokens": 11},
    ),
    "gemini embeddings": _in_one_piece(
        EmbedContentEndpoint("v1beta", "models/gemini-embedding-2"),
        {"content": {"parts": [{"text": PROMPT}]}},
        9,
        (11, 0),
        embedding={"values": [0.5]},
        usageMetadata={"promptTokenCount": 11},
    ),
    "moderations": _in_one_piece(MODERATIONS, {"input": PROMPT}, 0, (0, 0), id="modr-1", model="m", results=[]),
    "images": OF_MEDIA["images"],
    "edits": replace(OF_MEDIA["images"], endpoint=IMAGE_EDITS, file="image", input=583),
    "compact": _in_one_piece(
        COMPACT, {"model": MODEL, "input": PROMPT}, 9, USAGE, object="response.compaction", output=[], usage=_BOTH
    ),
}
"""All that have answers in one piece."""
_NOTHING = (0, 0)
FREE = {
    "message count": _in_one_piece(COUNT_TOKENS, {"model": MODEL, **_MESSAGES}, 0, _NOTHING, input_tokens=9),
    "input count": _in_one_piece(INPUT_TOKENS, {"model": MODEL, "input": PROMPT}, 0, _NOTHING, input_tokens=9),
    "gemini count": _in_one_piece(
        ContentCountEndpoint("v1beta", f"models/{MODEL}"),
        {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]},
        0,
        _NOTHING,
        totalTokens=9,
    ),
}
"""Those that nothing is billed for."""
