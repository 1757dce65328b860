"""OpenAI's realtime API: what is read of its events, of either side, and how much of a conversation has been said.

An event is a message of a WebSocket, and passes as it is; only where less output is left than one asks for is the
provider told so. Responses are made when the client asks for one, or by themselves when the user has stopped speaking.
Each is given the whole conversation, of which nobody but the provider has the exact tokens before it tells them: until
then there is an upper bound, of what was said since the last response.

What sound costs (OpenAI's guide "Realtime costs"): a token for 100 ms that the user says, and for 50 ms of the model.
Source: OpenAI API reference, "Realtime: client events", "server events".
"""

from __future__ import annotations

from math import ceil
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw, Struct

from sentinel.endpoints import json_body
from sentinel.endpoints.endpoint import OutputBound
from sentinel.endpoints.speech import VoiceFields
from sentinel.error import AppError, body_of
from sentinel.limits.policy import Cost
from sentinel.tokens.audio import TOKENS_PER_SECOND
from sentinel.tokens.bpe import count_for
from sentinel.tokens.delivered import DeliveredText
from sentinel.tokens.loose import Kind, Text, parse
from sentinel.tokens.usage import NOTHING, Details, Usage, read_usage

CREATE: Final = "response.create"
UPDATE: Final = "session.update"
IDS: Final = VoiceFields({"voice": "voices"})
"""What sessions and responses name of the provider's objects."""
CREATED: Final = "response.created"
DONE: Final = "response.done"
TRANSCRIBED: Final = "conversation.item.input_audio_transcription.completed"

MOST_CONTEXT_TOKENS: Final = 128_000
"""No realtime model has a longer context; what is older falls out of it."""
OUTPUT_TOKENS_PER_SECOND: Final = 20
_PCM_BYTES_PER_SECOND: Final = 48_000
_BYTES_PER_SECOND: Final = {"pcm": _PCM_BYTES_PER_SECOND, "pcm16": _PCM_BYTES_PER_SECOND}
"""By the last word of a format's name; of all others, which are G.711, it is less."""
_LEAST_BYTES_PER_SECOND: Final = 8_000
_IMAGE_TOKENS: Final = 2_000
"""More than any picture costs of which only the address is known."""
_ITEM_FRAME: Final = 4
"""Tokens around an item, as around a chat's message."""
_MOST_COUNTED_CHARS: Final = 32 * 1024
"""A longer text is charged by its bytes, for no token has less than one; to count it would take too long."""
_MAXIMA: Final = ("max_output_tokens", "max_response_output_tokens")
"""Of a response or a session, as it is called and as it was once."""
_MOST_TOLD: Final = 4096
"""A provider takes no larger maximum."""
_SOUND: Final = ("response.audio.delta", "response.output_audio.delta")


class ClientEvent(Struct, gc=False):
    """What is decided on of an event of the client. audio: sound in base64."""

    type: str | None = None
    event_id: str | None = None
    audio: Raw = Raw()
    session: Raw = Raw()
    item: Raw = Raw()
    response: Raw = Raw()


class ServerEvent(Struct, gc=False):
    """What is decided on of an event of the provider."""

    type: str | None = None
    response_id: str | None = None
    delta: Raw = Raw()
    response: Raw = Raw()
    session: Raw = Raw()
    usage: Raw = Raw()
    error: Raw = Raw()
    transcript: Raw = Raw()


_NAMES: Final = ("type", "response_id")
_FIELDS: Final = ("delta", "response", "session", "usage", "error", "transcript")
_client = msgspec.json.Decoder(ClientEvent)
_server = msgspec.json.Decoder(ServerEvent)


def client_event(message: bytes) -> ClientEvent:
    """An event of the client; one without a type where it cannot be read: the provider will say so."""
    try:
        return _client.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = parse(message)
    kind = found.get("type") if isinstance(found, dict) else None
    return ClientEvent(kind if isinstance(kind, str) else None)


def server_event(message: bytes) -> ServerEvent:
    """An event of the provider; one field of an unexpected type costs only itself."""
    try:
        return _server.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = parse(message)
    if not isinstance(found, dict):
        return ServerEvent()
    event = ServerEvent()
    for name in _NAMES:
        if isinstance(value := found.get(name), str):
            setattr(event, name, value)
    for name in _FIELDS:
        if name in found:
            setattr(event, name, Raw(msgspec.json.encode(found[name])))
    return event


def object_of(raw: Raw) -> dict[str, Any]:
    """A field that should be an object; an empty one where it is none."""
    found = parse(bytes(memoryview(raw))) if raw else None
    return found if isinstance(found, dict) else {}


def id_of(response: dict[str, Any]) -> str:
    """The id of a response."""
    found = response.get("id")
    return found if isinstance(found, str) else ""


def usage_of(response: dict[str, Any]) -> Usage:
    """What a response that is done tells of its usage."""
    return read_usage(response.get("usage"))


def transcription_usage(event: ServerEvent, model: str, heard_tokens: int) -> Usage:
    """What a transcription has cost, as tokens or as seconds. heard_tokens: of the sound, where it is not told."""
    usage = object_of(event.usage)
    told = read_usage(usage)
    if told != NOTHING:
        return told
    seconds = usage.get("seconds")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < MOST_CONTEXT_TOKENS:
        tokens = ceil(seconds * TOKENS_PER_SECOND)
        return Usage(tokens, details=Details(input_audio=tokens))
    return Usage(heard_tokens, _text_tokens(_string(event.transcript), model))


def bound_of(response: dict[str, Any], client_max: int | None) -> OutputBound:
    """What is known of the output of a response. response: what the client asks of it. client_max: of the session."""
    own = _own_max(response)
    most = _most(own) if own is not None else client_max
    return OutputBound(1, 1, most, None, grows_in_sight=True, shows_its_cost=True, hides_output=False)


def lowered(message: bytes, most: int) -> bytes:
    """A client's event that asks for a response, which may have so many output tokens; other values keep their bytes.

    One that cannot be read so stays, for the provider to refuse; if it does not, what it says is held to the limit.
    """
    try:
        found = json_body.fields(message).get("response")
        asked = json_body.fields(bytes(found)) if found is not None and bytes(found) != b"null" else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return message
    maxima = {name: _most(parse(bytes(asked[name]))) or most for name in _MAXIMA if name in asked}
    told = {name: min(own, most) for name, own in maxima.items()} or {_MAXIMA[0]: min(most, _MOST_TOLD)}
    return json_body.replaced(message, {"response": {**asked, **told}})


def renamed(message: bytes, before: str, after: str) -> bytes:
    """A client's event whose session names this model, by its other name; all other bytes stay."""
    try:
        places = list(json_body.spans(message, ("session", "model")))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return message
    for start, end in places:
        if parse(message[start:end]) == before:
            return b"%b%b%b" % (message[:start], msgspec.json.encode(after), message[end:])
    return message


def _own_max(of: dict[str, Any]) -> Any:
    """What a response or a session has as its maximum."""
    return of.get(_MAXIMA[0], of.get(_MAXIMA[1]))


def _most(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


class Session(NamedTuple):
    """What a session is like. tokens: of its instructions and tools, which each of its responses is given."""

    model: str | None
    transcriber: str | None
    client_max: int | None
    in_bytes_per_second: int
    out_bytes_per_second: int
    tokens: int


class Conversation:
    """What is known of one session. model: of its responses; transcriber: of its transcriptions.

    client_max: the most output tokens of a response, None = no end. context_tokens: at most so many the next response
    is given. heard_tokens: of the sound that was last committed.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.transcriber = ""
        self.client_max: int | None = None
        self._updates_awaited = 0
        self.context_tokens = 0
        self.heard_tokens = 0
        self._session_tokens = 0
        self._sound_bytes = 0
        self._in_bytes_per_second = self._out_bytes_per_second = _LEAST_BYTES_PER_SECOND

    @property
    def out_bytes_per_token(self) -> int:
        """Of sound of the model."""
        return self._out_bytes_per_second // OUTPUT_TOKENS_PER_SECOND

    def read_session(self, session: dict[str, Any]) -> Session:
        """What the provider tells of the session. Takes long for long instructions."""
        model = session.get("model")
        audio = _object(session.get("audio"))
        heard, said = _object(audio.get("input")), _object(audio.get("output"))
        transcription = heard.get("transcription", session.get("input_audio_transcription"))
        transcriber = _object(transcription).get("model")
        return Session(
            model if isinstance(model, str) else None,
            transcriber if isinstance(transcriber, str) else None,
            _most(_own_max(session)),
            _rate(heard.get("format", session.get("input_audio_format"))),
            _rate(said.get("format", session.get("output_audio_format"))),
            self._tokens({name: session.get(name) for name in ("instructions", "tools")}),
        )

    def note_session(self, session: Session, *, is_update: bool) -> None:
        """The session is like this from now on. is_update: as the client has asked, and not from the beginning.

        What the client has asked for since is not in it yet: its maximum holds until the provider has told it.
        """
        self.model, self.transcriber = session.model or self.model, session.transcriber or self.transcriber
        self._updates_awaited = max(0, self._updates_awaited - is_update)
        if not self._updates_awaited:
            self.client_max = session.client_max
        self._in_bytes_per_second, self._out_bytes_per_second = (
            session.in_bytes_per_second,
            session.out_bytes_per_second,
        )
        self._add(session.tokens - self._session_tokens)
        self._session_tokens = session.tokens

    def item_tokens(self, event: ClientEvent) -> int:
        """At most so many tokens an event of the client adds, beside sound. Takes long for a long one."""
        return self._tokens(object_of(event.item)) + _ITEM_FRAME if event.item else 0

    def note_said(self, event: ClientEvent, item_tokens: int) -> None:
        """The client adds to the conversation."""
        if event.audio:
            self._sound_bytes += _base64_bytes(event.audio)
        self._add(item_tokens)

    def note_asked(self, session: dict[str, Any]) -> None:
        """The client wants the session like this: a response that it asks for next may be no longer, nor shorter."""
        self._updates_awaited += 1
        if (own := _own_max(session)) is not None:
            self.client_max = _most(own)

    def note_committed(self) -> None:
        """What was heard is part of the conversation."""
        self.heard_tokens = self._sound_tokens
        self._add(self.heard_tokens)
        self._sound_bytes = 0

    def note_usage(self, usage: Usage) -> None:
        """A response is done: what it was given, and what it has said, is what the next one is given."""
        if usage.prompt_tokens:
            self.context_tokens = 0
            self._add(usage.prompt_tokens + usage.output_tokens)

    def added_tokens(self, response: dict[str, Any]) -> int:
        """At most so many tokens a response is given by itself, by what the client asks of it. Takes long, too."""
        return self._tokens({name: response.get(name) for name in ("instructions", "input", "tools")})

    def input_with(self, added: int) -> int:
        """At most so many tokens a response is given, which is given so many by itself."""
        return min(MOST_CONTEXT_TOKENS, self.context_tokens + self._sound_tokens + added)

    @property
    def _sound_tokens(self) -> int:
        return ceil(self._sound_bytes / self._in_bytes_per_second * TOKENS_PER_SECOND)

    def _add(self, tokens: int) -> None:
        self.context_tokens = max(0, min(MOST_CONTEXT_TOKENS, self.context_tokens + tokens))

    def _tokens(self, value: Any, key: str = "") -> int:
        """At most so many tokens is a value of an item, a session or a response."""
        if isinstance(value, dict):
            return sum(self._tokens(inner, name) + 1 for name, inner in value.items() if inner is not None)
        if isinstance(value, list):
            return sum(self._tokens(inner, key) for inner in value)
        if not isinstance(value, str):
            return 1
        if key == "audio":
            return ceil(len(value) * 3 / 4 / self._in_bytes_per_second * TOKENS_PER_SECOND)
        return _IMAGE_TOKENS if key == "image_url" else _text_tokens(value, self.model)


class SpeechMeter:
    """What one response has delivered: texts, transcripts and arguments as tokens, sound by its bytes."""

    def __init__(self, model: str, bytes_per_token: int) -> None:
        self._bytes_per_token = bytes_per_token
        self._text = DeliveredText(model)
        self._sound_bytes = 0
        self._kinds: dict[str, int] = {}

    def feed(self, event: ServerEvent) -> None:
        """The client gets this event."""
        kind = event.type or ""
        if kind in _SOUND:
            self._sound_bytes += _base64_bytes(event.delta)
        elif kind.endswith(".delta") and (piece := _string(event.delta)):
            place = self._kinds.setdefault(kind, len(self._kinds))
            self._text.feed([Text(0, Kind.CONTENT, place, piece)])

    @property
    def upper_bound(self) -> int:
        """A number that `count` does not exceed, cheaply."""
        return self._text.upper_bound() + self._sound_tokens

    def count(self) -> int:
        """The output tokens so far."""
        return self._text.count() + self._sound_tokens

    @property
    def _sound_tokens(self) -> int:
        return ceil(self._sound_bytes / self._bytes_per_token)


def is_piece(event: ServerEvent) -> bool:
    """Whether an event brings a piece of a response."""
    return bool(event.delta) and bool(event.response_id)


def error_event(error: AppError, event_id: str | None, own_id: str) -> bytes:
    """An error of ours as an event. event_id: of the client's event that it is about. own_id: of this one."""
    told = msgspec.json.decode(body_of(error))["error"]
    return msgspec.json.encode({"type": "error", "event_id": own_id, "error": {**told, "event_id": event_id}})


def cancel_event(response_id: str) -> bytes:
    """What ends a response at the provider."""
    return msgspec.json.encode({"type": "response.cancel", "response_id": response_id})


def incomplete_event(response: dict[str, Any], spent: Cost, own_id: str) -> bytes:
    """What ends a response for the client at a limit. response: as the provider has told it. spent: what was billed."""
    usage = {"total_tokens": spent.input + spent.output, "input_tokens": spent.input, "output_tokens": spent.output}
    details = {"type": "incomplete", "reason": "max_output_tokens"}
    ended = {**response, "status": "incomplete", "status_details": details, "usage": usage}
    return msgspec.json.encode({"type": DONE, "event_id": own_id, "response": ended})


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _rate(value: Any) -> int:
    """Bytes of a second of sound in this format, which is named, or an object with a type."""
    name = value.get("type") if isinstance(value, dict) else value
    word = name.rpartition("/")[2] if isinstance(name, str) else ""
    return _BYTES_PER_SECOND.get(word, _LEAST_BYTES_PER_SECOND)


def _base64_bytes(raw: Raw) -> int:
    """Of a string of JSON, with its quotes."""
    text = memoryview(raw)
    return max(0, (len(text) - 2) * 3 // 4 - bytes(text[-3:-1]).count(b"="))


def _string(raw: Raw) -> str:
    found = parse(bytes(memoryview(raw))) if raw else None
    return found if isinstance(found, str) else ""


def _text_tokens(text: str, model: str) -> int:
    return count_for(model)(text) if len(text) <= _MOST_COUNTED_CHARS else len(text.encode(errors="replace"))
