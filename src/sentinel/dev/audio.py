"""OpenAI's audio: whatever the sound, its transcript is what a directive says; speech is as long as its text."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from sentinel.dev.plan import EVENTS, Asked, Plan, event
from sentinel.dev.reply import encoding_of, say
from sentinel.dev.validation import Refused, missing

_BYTES_PER_SECOND = 16_000
_TOKENS_PER_SECOND = 10
_BYTES_PER_WORD = 4_000
_SPOKEN_TOKENS_PER_WORD = 5
_TYPES = {"mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav"}
_FORMS = ("json", "text", "srt", "vtt", "verbose_json", "diarized_json")


def transcription(asked: Asked) -> Plan:
    """What is said in a sound, as it is asked for. Raises Refused."""
    fields, directive = asked.fields, asked.directive
    if not asked.files:
        raise missing("file")
    form = fields.get("response_format", "json")
    if form not in _FORMS:
        raise Refused(400, f"Invalid value: '{form}'.", param="response_format", code="invalid_value")
    reply = say(directive, 0, None)
    seconds = len(asked.files[0]) / _BYTES_PER_SECOND
    is_whisper = asked.model == "whisper-1"
    prompt = round(seconds * _TOKENS_PER_SECOND) + encoding_of("gpt-4o").count(fields.get("prompt", ""))
    usage: dict[str, Any] = {"type": "duration", "seconds": round(seconds)}
    if not is_whisper:
        usage = {
            "type": "tokens",
            "input_tokens": prompt,
            "input_token_details": {"audio_tokens": prompt, "text_tokens": 0},
            "output_tokens": reply.tokens,
            "total_tokens": prompt + reply.tokens,
        }
    told = {} if directive.no_usage else {"usage": usage}
    if fields.get("stream") and not is_whisper:
        pieces = [event("transcript.text.delta", delta=piece.text) for piece in reply.pieces]
        pieces.append(event("transcript.text.done", text=reply.text, **told))
        return Plan(prompt, reply.tokens, None, tuple(pieces), EVENTS)
    body, content_type = _written(form, reply.text, seconds, told)
    return Plan(prompt, reply.tokens, body, content_type=content_type)


def _written(form: str, text: str, seconds: float, told: dict[str, Any]) -> tuple[bytes, str]:
    if form == "text":
        return text.encode() + b"\n", "text/plain; charset=utf-8"
    if form == "srt":
        return f"1\n00:00:00,000 --> 00:00:09,000\n{text}\n\n".encode(), "text/plain; charset=utf-8"
    if form == "vtt":
        return f"WEBVTT\n\n00:00.000 --> 00:09.000\n{text}\n\n".encode(), "text/vtt; charset=utf-8"
    answer: dict[str, Any] = {"text": text, **told}
    segment = {"id": 0, "start": 0.0, "end": seconds, "text": text}
    if form == "verbose_json":
        answer |= {"task": "transcribe", "language": "english", "duration": seconds, "segments": [segment]}
    if form == "diarized_json":
        spoken = {**segment, "id": "seg_0", "type": "transcript.text.segment", "speaker": "A"}
        answer |= {"task": "transcribe", "duration": seconds, "segments": [spoken]}
    return msgspec.json.encode(answer), "application/json"


def speech(asked: Asked) -> Plan:
    """A text, read aloud. Raises Refused."""
    fields, directive = asked.fields, asked.directive
    for name in ("input", "voice"):
        if name not in fields:
            raise missing(name)
    form = fields.get("response_format") or "mp3"
    words = directive.tokens or len(asked.text.split())
    sounds = [b"\xff\xf3" + bytes([number % 256]) * (_BYTES_PER_WORD - 2) for number in range(words)]
    prompt = encoding_of("gpt-4o").count(asked.text)
    if fields.get("stream_format") != "sse":
        return Plan(prompt, 0, None, tuple(sounds), _TYPES.get(form, "audio/pcm"))
    if asked.model == "tts-1":
        raise Refused(400, "stream_format 'sse' is not supported for this model.", param="stream_format")
    output = words * _SPOKEN_TOKENS_PER_WORD
    usage = {"input_tokens": prompt, "output_tokens": output, "total_tokens": prompt + output}
    pieces = [event("speech.audio.delta", audio=base64.b64encode(sound).decode()) for sound in sounds]
    pieces.append(event("speech.audio.done", **({} if directive.no_usage else {"usage": usage})))
    return Plan(prompt, output, None, tuple(pieces), EVENTS)
