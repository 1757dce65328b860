"""OpenAI's transcripts of sound: POST /v1/audio/transcriptions, whole or as a stream, and /v1/audio/translations.

Usage is told in tokens, or by how long the sound is: then a second is ten tokens of input, and the text is output.
A provider cannot be told a maximum: a whole transcript reserves the most that it can be, a stream grows and is ended.
"""

from __future__ import annotations

from msgspec import Struct

from sentinel.endpoints import json_body, transcript_stream
from sentinel.endpoints.endpoint import OutputBound
from sentinel.endpoints.form import Form, FormFile
from sentinel.endpoints.refusal import refusal_event
from sentinel.endpoints.transcript_stream import TranscriptMeter
from sentinel.endpoints.upload import UploadEndpoint
from sentinel.error import MissingParameter
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.redaction import Redactor
from sentinel.tokens.audio import file_tokens, transcript_ceiling
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.loose import Reading
from sentinel.tokens.media_request import TranscriptFields
from sentinel.tokens.transcript import read_transcript
from sentinel.tokens.usage import Usage


class TranscriptRequest(Struct, gc=False):
    """What is decided on of a request. size: bytes of all files."""

    model: str
    stream: bool | None
    prompt: str | None
    files: list[FormFile]
    size: int


class TranscriptionsEndpoint(UploadEndpoint[TranscriptRequest]):
    """Transcriptions: sound in, what is said in it out."""

    format = "audio"
    route = "/v1/audio/transcriptions"
    path = b"/audio/transcriptions"
    decided = frozenset(("model", "prompt", "stream", "response_format"))

    def from_form(self, form: Form) -> TranscriptRequest:
        """The request that a form is. Raises InvalidType, MissingParameter."""
        fields = json_body.fitted({"model": form.needed("model"), "prompt": form.text("prompt")}, TranscriptFields)
        if not any(file.name == "file" for file in form.files):
            raise MissingParameter("Missing required parameter: 'file'.", param="file")
        size = sum(file.size for file in form.files)
        return TranscriptRequest(fields.model, form.truth("stream"), fields.prompt, form.files, size)

    def count(self, request: TranscriptRequest, counter: TokenCounter) -> int:
        """The tokens of the sound, by its length, and of the prompt."""
        prompt = counter.count_text(request.prompt, request.model) if request.prompt else 0
        return prompt + sum(file_tokens(file.head, file.size) for file in request.files)

    def forget_prompt(self, request: TranscriptRequest) -> None:
        """Free what was read to be counted."""
        request.prompt, request.files = None, []

    def bound(self, request: TranscriptRequest) -> OutputBound:
        """What is said in so much sound, at most."""
        if request.stream:
            return OutputBound(1, 1, None, None, True, True, False)
        most = transcript_ceiling(request.model, request.size)
        return OutputBound(1, 1, None, most, False, True, False, most)

    def meter(self, request: TranscriptRequest, redactor: Redactor) -> TranscriptMeter:
        """The meter of the request's stream."""
        return TranscriptMeter(request.model, redactor)

    def ending(self, request: TranscriptRequest, meter: StreamMeter, usage: Usage) -> bytes:  # noqa: ARG002
        """The event that ends a stream at a limit: the text so far."""
        assert isinstance(meter, TranscriptMeter)
        return transcript_stream.ending(meter, usage)

    def read_answer(self, body: bytes) -> Reading | None:
        """What a whole answer says, JSON or not; None if it cannot be read."""
        return read_transcript(body)

    def as_stream(self, body: bytes) -> bytes:
        """A whole answer as the events of a stream."""
        return transcript_stream.answer(body)

    def refusal_as_stream(self, status: int, body: bytes) -> bytes:  # noqa: ARG002
        """A provider's refusal as the last event of a stream."""
        return refusal_event(body)


class TranslationsEndpoint(TranscriptionsEndpoint):
    """Translations: sound in, what is said in it out in English."""

    route = "/v1/audio/translations"
    path = b"/audio/translations"


TRANSCRIPTIONS = TranscriptionsEndpoint()
TRANSLATIONS = TranslationsEndpoint()
