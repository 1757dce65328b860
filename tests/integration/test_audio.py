"""POST /v1/audio/*, with the official SDK and without: what reaches the provider, what is admitted, what is booked.

About: `endpoints/transcriptions.py`, `endpoints/speech.py`, `proxy/binary.py`, `dev/audio.py`.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
from typing import Any

import openai
import pytest

from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import SPEECH, TRANSCRIPTIONS, TRANSLATIONS, form, post, send
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.usefixtures("no_faults")

TRANSCRIBES, WHISPER = "gpt-4o-transcribe", "whisper-1"
SPEAKS, SPEAKS_UNBILLED = "gpt-4o-mini-tts", "tts-1"
SECOND = b"\xff\xfb" + b"\0" * 15_998
"""Of an MP3 at 128 kbit/s."""


def sound(seconds: int) -> tuple[str, bytes]:
    return ("sound.mp3", SECOND * seconds)


def client(sentinel: SentinelProcess, token: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{sentinel.url}/v1", api_key=token, max_retries=0, timeout=30)


def upload(sentinel: SentinelProcess, token: str, *fields: tuple[str, str], path: str = TRANSCRIPTIONS) -> Any:
    body, kind = form(fields, "file", SECOND)
    return send(sentinel, "POST", path, token, body, Content_Type=kind)


# ------------------------------------------------------------------------------------------------------ transcriptions


async def test_the_sdk_gets_a_transcript(stack: Stack, sentinel: SentinelProcess) -> None:
    """From both clients, as tokens or as a duration: a second is ten tokens of input, and the text is output."""
    _, token = stack.user("transcripts@corp.test")
    async with sdk(sentinel, token) as api:
        told = await api.audio.transcriptions.create(model=TRANSCRIBES, file=sound(3), prompt="[[tokens=12]]")
    booked = stack.booked(1, "transcripts@corp.test")
    assert told.usage is not None
    assert told.usage.type == "tokens"
    assert (booked["ai_input_tokens"], booked["ai_output_tokens"]) == (told.usage.input_tokens, 12)
    _, token = stack.user("durations@corp.test")
    with client(sentinel, token) as own, pytest.deprecated_call():
        timed = own.audio.translations.create(model=WHISPER, file=sound(7), prompt="[[tokens=12]]")
    assert len(timed.text.split()) == 12
    assert stack.booked(1, "durations@corp.test") == {
        "ai_requests": 1,
        "ai_input_tokens": 70,
        "ai_output_tokens": 12,
    }


@pytest.mark.parametrize("form_", ["text", "srt", "vtt", "verbose_json", "diarized_json"])
@pytest.mark.parametrize("told", [True, False])
def test_every_form_of_an_answer_is_counted(stack: Stack, sentinel: SentinelProcess, form_: str, told: bool) -> None:
    """Whether or not it tells usage; where it does not, the sound is as long as its bytes say."""
    email = f"forms-{form_}-{told}@corp.test"
    _, token = stack.user(email)
    prompt = "[[tokens=12]]" if told else "[[tokens=12 no_usage]]"
    answer = upload(sentinel, token, ("model", WHISPER), ("prompt", prompt), ("response_format", form_))
    assert answer.status == 200
    kinds = {"text": "text/plain", "srt": "text/plain", "vtt": "text/vtt"}
    assert answer.headers["content-type"].startswith(kinds.get(form_, "application/json"))
    booked = stack.booked(1, email)
    assert 12 <= booked["ai_output_tokens"] <= (15 if form_ in ("text", "srt", "vtt") else 12)
    assert 10 <= booked["ai_input_tokens"] <= 22


async def test_the_sdk_gets_a_stream(stack: Stack, sentinel: SentinelProcess) -> None:
    """Deltas, and the whole at the end with its usage."""
    _, token = stack.user("streams-audio@corp.test")
    async with sdk(sentinel, token) as api:
        stream = await api.audio.transcriptions.create(
            model=TRANSCRIBES, file=sound(2), prompt="[[tokens=9]]", stream=True
        )
        events = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta"] * 9 + ["transcript.text.done"]
    assert stack.booked(1, "streams-audio@corp.test")["ai_output_tokens"] == 9


async def test_a_stream_ends_at_a_limit(stack: Stack, sentinel: SentinelProcess) -> None:
    """With the event that the SDK takes for its end, and all of the text so far in it."""
    _, token = stack.user("limited-audio@corp.test", limits={"ai_output_tokens": 5})
    async with sdk(sentinel, token) as api:
        stream = await api.audio.transcriptions.create(
            model=TRANSCRIBES, file=sound(2), prompt="[[tokens=40]]", stream=True
        )
        events: list[Any] = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta"] * 5 + ["transcript.text.done"]
    assert events[-1].text == "".join(event.delta for event in events[:-1])
    assert events[-1].usage.output_tokens == 5
    assert stack.booked(1, "limited-audio@corp.test")["ai_output_tokens"] == 5


def test_a_whole_transcript_needs_room_for_the_longest(stack: Stack, sentinel: SentinelProcess) -> None:
    """No provider can be told a maximum."""
    _, token = stack.user("poor-audio@corp.test", limits={"ai_output_tokens": 100})
    refused = upload(sentinel, token, ("model", WHISPER))
    assert refused.is_error(429, "insufficient_quota", "insufficient_quota")


def test_an_upload_of_20_mb_reaches_the_provider_as_it_came(
    stack: Stack, sentinel: SentinelProcess, token: str
) -> None:
    """Byte for byte, with the client's own content type."""
    stack.simulators.openai.calls.clear()
    body, kind = form([("model", WHISPER)], "file", bytes(range(256)) * 80_000)
    assert send(sentinel, "POST", TRANSCRIPTIONS, token, body, Content_Type=kind).status == 200
    (call,) = (call for call in stack.simulators.openai.calls if call.path == TRANSCRIPTIONS)
    assert (call.raw == body, call.headers["content-type"]) == (True, kind)


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, TRANSLATIONS])
@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ([("model", "a"), ("model", "b")], "invalid_form", "model"),
        ([("model", "a"), ("model[]", "b")], "invalid_form", "model"),
        ([("prompt", "x")], "missing_required_parameter", "model"),
        ([("model", "a"), ("stream", "perhaps")], "invalid_type", "stream"),
        ([("model", "m" * 300)], "invalid_type", "model"),
    ],
)
def test_what_is_wrong_is_named(
    sentinel: SentinelProcess, token: str, path: str, fields: list[tuple[str, str]], code: str, param: str
) -> None:
    """Before anything is asked or spent."""
    assert upload(sentinel, token, *fields, path=path).is_error(400, code, param=param)


def test_a_body_that_is_no_form_is_named(sentinel: SentinelProcess, token: str) -> None:
    """No boundary, another one, JSON, a part that does not end."""
    body, kind = form([("model", WHISPER)], "file")
    wrong = [
        (body, "multipart/form-data", "content-type"),
        (b"{}", "application/json", "content-type"),
        (body, "multipart/form-data; boundary=other", None),
        (body[:-20], kind, "file"),
        (b"", kind, None),
    ]
    for sent, kind_, param in wrong:
        answer = send(sentinel, "POST", TRANSCRIPTIONS, token, sent, Content_Type=kind_)
        assert answer.is_error(400, "invalid_form", param=param)


# -------------------------------------------------------------------------------------------------------------- speech


async def test_the_sdk_gets_sound(stack: Stack, sentinel: SentinelProcess) -> None:
    """The text is input; of a model that bills its sound, output is the most that so much can cost."""
    _, token = stack.user("speech@corp.test")
    async with sdk(sentinel, token) as api:
        answer = await api.audio.speech.create(model=SPEAKS_UNBILLED, voice="alloy", input="hello world")
    assert len(answer.content) == 8_000
    assert stack.booked(1, "speech@corp.test") == {"ai_requests": 1, "ai_input_tokens": 2, "ai_output_tokens": 0}
    _, token = stack.user("billed-speech@corp.test")
    with client(sentinel, token) as own:
        spoken = own.audio.speech.create(model=SPEAKS, voice="alloy", input="hello world", response_format="pcm")
    assert len(spoken.content) == 8_000
    assert stack.booked(1, "billed-speech@corp.test")["ai_output_tokens"] == 4  # A sixth of a second.


def test_sound_comes_as_it_is_made(stack: Stack, provider: ScriptedProvider, scripted: SentinelProcess) -> None:
    """The first bytes are there before the last are made, and usage is booked before the end."""
    email = "as-it-comes@corp.test"
    _, token = stack.user(email)
    gate = threading.Event()
    provider.says(b"first", b"last", content_type="audio/mpeg", gate=gate)
    connection = http.client.HTTPConnection("127.0.0.1", scripted.port, timeout=PATIENCE_SECONDS)
    body = json.dumps({"model": SPEAKS_UNBILLED, "voice": "alloy", "input": "hello world"})
    connection.request("POST", SPEECH, body, {"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    assert answer.getheader("content-type") == "audio/mpeg"
    assert b"first".startswith(answer.read(1))
    gate.set()
    assert (b"f" + answer.read()) == b"firstlast"
    assert stack.booked(1, email)["ai_input_tokens"] == 2
    connection.close()


def test_sound_that_breaks_is_left_unfinished(
    stack: Stack, provider: ScriptedProvider, scripted: SentinelProcess
) -> None:
    """So nobody takes it for whole; what was delivered is paid for."""
    email = "broken-sound@corp.test"
    _, token = stack.user(email)
    provider.says(b"\xff" * 40_000, content_type="audio/pcm", cut=True)
    body = json.dumps({"model": SPEAKS, "voice": "alloy", "input": "hello", "response_format": "pcm"})
    connection = http.client.HTTPConnection("127.0.0.1", scripted.port, timeout=PATIENCE_SECONDS)
    connection.request("POST", SPEECH, body, {"Authorization": f"Bearer {token}"})
    with pytest.raises(http.client.IncompleteRead):
        connection.getresponse().read()
    connection.close()
    assert stack.booked(1, email)["ai_output_tokens"] == 17
    (line,) = scripted.ended(user="broken-sound")
    assert line["outcome"] == "broken"


def test_an_error_instead_of_sound_costs_nothing(
    stack: Stack, provider: ScriptedProvider, scripted: SentinelProcess
) -> None:
    """Also with status 200."""
    _, token = stack.user("error-sound@corp.test", limits={"ai_requests": 1})
    for status in (200, 400):
        provider.says(b'{"error":{"message":"no such voice"}}', status=status)
        answer = post(scripted, token, {"model": SPEAKS, "voice": "x", "input": "hello"}, SPEECH)
        assert (answer.status, answer.json["error"]["message"]) == (status, "no such voice")


async def test_speech_may_come_as_events(stack: Stack, sentinel: SentinelProcess) -> None:
    """Their last has the usage, which is booked."""
    _, token = stack.user("sse-speech@corp.test")
    asked = {"model": SPEAKS, "voice": "alloy", "input": "hello world", "stream_format": "sse"}
    answer = post(sentinel, token, asked, SPEECH)
    events = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in events] == ["speech.audio.delta"] * 2 + ["speech.audio.done"]
    assert len(base64.b64decode(events[0]["audio"])) == 4_000
    assert stack.booked(1, "sse-speech@corp.test") == {
        "ai_requests": 1,
        "ai_input_tokens": 2,
        "ai_output_tokens": 10,
    }


def test_a_provider_that_knows_no_events_sends_sound(
    stack: Stack, provider: ScriptedProvider, scripted: SentinelProcess
) -> None:
    """The client gets it as it is."""
    _, token = stack.user("no-events@corp.test")
    provider.says(b"\xff\xf3sound", content_type="audio/mpeg")
    asked = {"model": SPEAKS, "voice": "alloy", "input": "hello world", "stream_format": "sse"}
    answer = post(scripted, token, asked, SPEECH)
    assert (answer.headers["content-type"], answer.body) == ("audio/mpeg", b"\xff\xf3sound")


def test_a_voice_that_somebody_has_made_is_theirs(sentinel: SentinelProcess, token: str) -> None:
    """Those that all have go by their names."""
    asked = {"model": SPEAKS, "voice": {"id": "voice_1"}, "input": "hello world"}
    assert post(sentinel, token, asked, SPEECH).is_error(404, "not_found", param="voice.id")


def test_what_is_left_must_do_for_the_sound(stack: Stack, sentinel: SentinelProcess) -> None:
    """Of a model that bills it."""
    _, token = stack.user("poor-speech@corp.test", limits={"ai_output_tokens": 10})
    asked = {"voice": "alloy", "input": "hello world " * 10}
    assert post(sentinel, token, {"model": SPEAKS, **asked}, SPEECH).is_error(
        429, "insufficient_quota", "insufficient_quota"
    )
    assert post(sentinel, token, {"model": SPEAKS_UNBILLED, **asked}, SPEECH).status == 200
