"""OpenAI's speech: POST /v1/audio/speech. A text in, sound out: as bytes, or as a stream of events that tell usage.

The bytes of sound pass as they come. They tell no usage: the text is input, and output what so much sound costs at most
of a model that bills it (tokens/audio.py).
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from msgspec import Struct

from sentinel.endpoints import json_body
from sentinel.endpoints.encoded_stream import EncodedMeter
from sentinel.endpoints.endpoint import NO_OUTPUT, OutputBound
from sentinel.endpoints.references import Reference, ReferenceFields
from sentinel.endpoints.refusal import refusal_event
from sentinel.endpoints.strict_json import Shape
from sentinel.endpoints.upload import MediaEndpoint
from sentinel.error import MissingParameter
from sentinel.proxy.redaction import Redactor
from sentinel.tokens.audio import is_sound_billed, spoken_ceiling, spoken_tokens
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.loose import Reading, parse
from sentinel.tokens.media_request import SpeechRequest
from sentinel.tokens.usage import read_usage

_decoder = msgspec.json.Decoder(SpeechRequest)
_SHAPE: Shape = {"voice": {}}
_DELTA, _DONE = "speech.audio.delta", "speech.audio.done"
_EVENTS = "sse"
_DEFAULT_FORM = "mp3"
_MADE = "voice_"
"""How the ids of voices begin that somebody has made."""
_SOUND = [(0, "")]
"""Sound has no reason to end; that there is any is enough for the input to be spent."""


class SpokenRequest(Struct, gc=False):
    """What is decided on of a request. form: of the sound; texts: what is said, and how; most: output tokens."""

    model: str
    stream: bool
    form: str
    texts: list[str]
    most: int


class VoiceFields(ReferenceFields):
    """The voice of a request, where it is one that somebody has made; those that all have go by their names."""

    def found_in(self, body: bytes) -> tuple[Reference, ...]:
        """What a request refers to, from its body as JSON. Raises InvalidJson, InvalidType."""
        found = super().found_in(body)
        return tuple(each for each in found if each.param.endswith(".id") or each.id.startswith(_MADE))


class SpeechMeter(EncodedMeter):
    """The meter of one stream: sound is charged by its length, until usage is told."""

    __slots__ = ("_charged", "_form", "_is_billed", "_size")

    def __init__(self, request: SpokenRequest, redactor: Redactor) -> None:
        super().__init__(request.model, redactor)
        self._form, self._is_billed = request.form, is_sound_billed(request.model)
        self._size = self._charged = 0

    def note(self, kind: str, fields: dict[str, Any], size: int) -> bool:
        """Note an event; whether it is the last."""
        self.tell(read_usage(fields.get("usage")))
        if kind != _DONE:
            self.note_unread(size)
        return kind == _DONE

    def note_unread(self, size: int) -> None:
        """Sound in base64, with the little that is around it."""
        self._size += size
        total = spoken_tokens(self._form, self._size * 3 // 4) if self._is_billed else 0
        self.charge(total - self._charged)
        self._charged = total

    def lacks_end(self) -> bool:
        """Whether a stream has ended without its last event, and without an error."""
        return not (self.done or self.failed)


class SpeechEndpoint(MediaEndpoint[SpokenRequest]):
    """Speech: a text in, sound out."""

    format = "audio"
    ids = VoiceFields({"voice": "voices"})
    route = "/v1/audio/speech"
    path = b"/audio/speech"
    passes_bytes = True

    def read(self, body: bytes) -> SpokenRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter."""
        request = json_body.read(_decoder.decode, _SHAPE, body)
        if request.input is None:
            raise MissingParameter("Missing required parameter: 'input'.", param="input")
        most = spoken_ceiling(request.model, request.input, request.speed or 1)
        texts = [text for text in (request.input, request.instructions) if text]
        form = request.response_format or _DEFAULT_FORM
        return SpokenRequest(request.model, request.stream_format == _EVENTS, form, texts, most)

    def count(self, request: SpokenRequest, counter: TokenCounter) -> int:
        """The tokens of the text, and of the instructions how to say it."""
        return sum(counter.count_text(text, request.model) for text in request.texts)

    def forget_prompt(self, request: SpokenRequest) -> None:
        """Free what was read to be counted."""
        request.texts = []

    def bound(self, request: SpokenRequest) -> OutputBound:
        """What the sound of such a text costs at most; nothing where only the text is billed."""
        most = request.most
        return OutputBound(1, 1, None, most, False, False, False, most) if most else NO_OUTPUT

    def passed_tokens(self, request: SpokenRequest, size: int) -> int:
        """The output tokens of so many bytes of sound, at most."""
        return spoken_tokens(request.form, size) if is_sound_billed(request.model) else 0

    def meter(self, request: SpokenRequest, redactor: Redactor) -> SpeechMeter:
        """The meter of the request's stream."""
        return SpeechMeter(request, redactor)

    def read_answer(self, body: bytes) -> Reading | None:
        """What an answer says that is no sound: an error, or usage; all else is taken for sound."""
        answer = parse(body)
        if not isinstance(answer, dict):
            return Reading([], finished=_SOUND)
        failed = bool(answer.get("error"))
        return Reading([], read_usage(answer.get("usage")), [] if failed else _SOUND, failed)

    def as_stream(self, body: bytes) -> bytes:
        """Sound as the events of a stream, for a client that was told to expect one."""
        if body.lstrip()[:1] in (b"{", b"<"):
            return refusal_event(body)
        events = ({"type": _DELTA, "audio": base64.b64encode(body).decode()}, {"type": _DONE})
        return b"".join(b"data: %b\n\n" % msgspec.json.encode(event) for event in events)

    def refusal_as_stream(self, status: int, body: bytes) -> bytes:  # noqa: ARG002
        """A provider's refusal as the last event of a stream."""
        return refusal_event(body)


SPEECH = SpeechEndpoint()
