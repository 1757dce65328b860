"""A stand-in for OpenAI's realtime API: sessions over a WebSocket, and the client secrets that open them.

What the model says is decided by a directive in the newest text, or in the instructions of a response, as over HTTP;
with `audio` among the modalities each word is also a piece of sound. Nobody listens to sound that comes: four bytes of
FF at its end stand for the silence after which a user has stopped speaking (`turn_detection`).
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from math import ceil
from typing import TYPE_CHECKING, Any

import msgspec

from sentinel.dev.clock import unix_seconds
from sentinel.dev.directive import BadDirective, Directive, find_directive
from sentinel.dev.generation import Billed
from sentinel.dev.reply import call_tool, encoding_of, say, texts_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sentinel.dev.reply import Reply
    from sentinel.dev.sockets import SocketClient

PATH = "/v1/realtime"
SECRET_PATHS = frozenset(f"{PATH}/{name}" for name in ("client_secrets", "sessions", "transcription_sessions"))
MODELS = ("gpt-realtime", "gpt-realtime-mini")

STOPS_SPEAKING = b"\xff" * 4
SOUND_BYTES = 4_800
"""Of each word that is said: 100 ms, which are two tokens."""
_SOUND_TOKENS = 2
_IN_BYTES_PER_TOKEN = 4_800
_SECRET_SECONDS = 600
_MOST_SECRETS = 1_000


def new_session(asked: dict[str, Any], model: str) -> dict[str, Any]:
    """A session as the provider tells it. asked: what differs from one that nobody has said anything of."""
    session = {
        "id": f"sess_{secrets.token_hex(12)}",
        "object": "realtime.session",
        "type": "realtime",
        "model": model,
        "output_modalities": ["audio"],
        "instructions": "",
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "audio": {
            "input": {"format": {"type": "audio/pcm", "rate": 24000}, "transcription": None, "turn_detection": None},
            "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin"},
        },
    }
    return merged(session, asked)


def merged(session: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A session with these changes, which may be of objects within."""
    within = {
        name: merged(session[name], value)
        for name, value in changes.items()
        if isinstance(value, dict) and isinstance(session.get(name), dict)
    }
    return {**session, **changes, **within}


class Secrets:
    """The client secrets that were made, with the sessions that they are for."""

    def __init__(self) -> None:
        self._made: dict[str, dict[str, Any]] = {}

    def make(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request for one."""
        asked = (body.get("session") or {}) if path.endswith("client_secrets") else body
        session = new_session(asked, asked.get("model") or MODELS[0])
        value, ends = f"ek_{secrets.token_hex(16)}", int(unix_seconds()) + _SECRET_SECONDS
        self._made[value] = session
        if len(self._made) > _MOST_SECRETS:
            del self._made[next(iter(self._made))]
        if path.endswith("client_secrets"):
            return {"value": value, "expires_at": ends, "session": session}
        return {**session, "client_secret": {"value": value, "expires_at": ends}}

    def session_of(self, authorization: str) -> dict[str, Any] | None:
        """The session that a secret is for; None for what is none."""
        return self._made.get(authorization.removeprefix("Bearer "))


class RealtimeSession:
    """One session. bill: told of each response."""

    def __init__(self, client: SocketClient, session: dict[str, Any], bill: Callable[[Billed], None]) -> None:
        self._client = client
        self._session = session
        self._bill = bill
        self._texts: list[str] = []
        self._context_tokens = 0
        self._heard = b""
        self._speaking: asyncio.Task[None] | None = None
        self._cancelled = asyncio.Event()

    async def run(self) -> None:
        """Serve the client until it leaves."""
        await self._tell("session.created", session=self._session)
        try:
            while (message := await self._client.messages.get()) is not None:
                try:
                    event = msgspec.json.decode(message)
                    await self._take(event, str(event.get("type")))
                except (msgspec.DecodeError, AttributeError):
                    await self._error("Could not parse the event.", "invalid_event", None)
        finally:
            if self._speaking is not None:
                self._speaking.cancel()

    async def _take(self, event: dict[str, Any], kind: str) -> None:
        if kind == "session.update":
            self._session = merged(self._session, event["session"])
            await self._tell("session.updated", session=self._session)
        elif kind == "conversation.item.create":
            item = {"id": f"item_{secrets.token_hex(10)}", "object": "realtime.item", **event["item"]}
            self._texts += [*texts_of(item.get("content")), *([item["output"]] if "output" in item else [])]
            for step in ("added", "done"):
                await self._tell(f"conversation.item.{step}", previous_item_id=None, item=item)
        elif kind == "input_audio_buffer.append":
            self._heard += base64.b64decode(event["audio"])
            if self._input["turn_detection"] is not None and self._heard.endswith(STOPS_SPEAKING):
                await self._tell("input_audio_buffer.speech_stopped", audio_end_ms=0, item_id="")
                await self._commit()
                await self._respond({}, None)
        elif kind == "input_audio_buffer.commit":
            await self._commit()
        elif kind == "input_audio_buffer.clear":
            self._heard = b""
            await self._tell("input_audio_buffer.cleared")
        elif kind == "response.create":
            await self._respond(event.get("response") or {}, event.get("event_id"))
        elif kind == "response.cancel":
            self._cancelled.set()
        else:
            await self._error(f"Invalid value: '{kind}'.", "invalid_value", event.get("event_id"))

    @property
    def _input(self) -> dict[str, Any]:
        found: dict[str, Any] = self._session["audio"]["input"]
        return found

    async def _commit(self) -> None:
        item_id, heard = f"item_{secrets.token_hex(10)}", ceil(len(self._heard) / _IN_BYTES_PER_TOKEN)
        self._heard = b""
        self._context_tokens += heard
        await self._tell("input_audio_buffer.committed", previous_item_id=None, item_id=item_id)
        transcription = self._input["transcription"]
        if transcription is None:
            return
        model, text = transcription.get("model", ""), "what was heard"
        usage: dict[str, Any] = {"type": "duration", "seconds": heard / 10}
        if model != "whisper-1":
            usage = {"type": "tokens", "input_tokens": heard, "output_tokens": 3, "total_tokens": heard + 3}
        await self._tell(
            "conversation.item.input_audio_transcription.completed",
            item_id=item_id,
            content_index=0,
            transcript=text,
            usage=usage,
        )

    async def _respond(self, asked: dict[str, Any], event_id: str | None) -> None:
        if self._speaking is not None and not self._speaking.done():
            message = "Conversation already has an active response in progress."
            await self._error(message, "conversation_already_has_active_response", event_id)
            return
        try:
            directive = find_directive(asked.get("instructions") or (self._texts[-1] if self._texts else ""))
        except BadDirective as mistake:
            await self._error(str(mistake), "bad_directive", event_id)
            return
        if directive.status is not None:
            await self._error("The simulator was told to refuse this response.", "refused", event_id)
            return
        self._cancelled.clear()
        self._speaking = asyncio.get_running_loop().create_task(self._speak(asked, directive))

    async def _speak(self, asked: dict[str, Any], directive: Directive) -> None:
        session, client = merged(self._session, asked), self._client
        encoding = encoding_of("gpt-4o")
        limit = session["max_output_tokens"]
        most = limit if isinstance(limit, int) and not directive.ignores_max else None
        if most is not None and "audio" in session["output_modalities"] and not directive.tool:
            most //= 1 + _SOUND_TOKENS
        tools = [{"type": "function", "function": tool} for tool in session["tools"]]
        reply = call_tool(encoding, tools[0], most) if directive.tool and tools else say(directive, 0, most)
        given = [session["instructions"], *self._texts]
        prompt = self._context_tokens + sum(encoding.count(text) for text in given)
        prompt = prompt if directive.usage_prompt is None else directive.usage_prompt
        request_id = client.headers.get("x-request-id", "")
        bill = Billed(request_id, session["model"], prompt, 0, "running", stream=True, path=PATH)
        self._bill(bill)
        response: dict[str, Any] = {"object": "realtime.response", "id": f"resp_{secrets.token_hex(12)}"}
        response |= {"status": "in_progress", "output": [], "metadata": None, "usage": None}
        try:
            await self._tell("response.created", response=response)
            item = {"id": f"item_{secrets.token_hex(10)}", "type": "message", "role": "assistant", "content": []}
            place = {"response_id": response["id"], "item_id": item["id"], "output_index": 0}
            await self._tell("response.output_item.added", **place, item=item)
            status = await self._say_all(reply, directive, session, place, bill)
            if status is None:
                return
            await self._tell("response.output_item.done", **place, item={**item, "status": status})
            bill.state = "complete"
            told = bill.completion_tokens if directive.usage_completion is None else directive.usage_completion
            usage: dict[str, Any] = {"input_tokens": prompt, "output_tokens": told, "total_tokens": prompt + told}
            usage |= {"input_token_details": {"cached_tokens": 0}, "output_token_details": {}}
            self._context_tokens += told
            await self._tell(
                "response.done",
                response={**response, "status": status, "usage": None if directive.no_usage else usage},
            )
        finally:
            if bill.state == "running":
                bill.state = "cancelled"
        if client.gone.is_set():
            bill.state = "cancelled"

    async def _say_all(
        self, reply: Reply, directive: Directive, session: dict[str, Any], place: dict[str, Any], bill: Billed
    ) -> str | None:
        """How the response ends; None where the connection does."""
        client, sounds = self._client, "audio" in session["output_modalities"] and not reply.tool
        said = "output_audio_transcript" if sounds else "output_text"
        kind = f"response.{'function_call_arguments' if reply.tool else said}.delta"
        sound = base64.b64encode(bytes(SOUND_BYTES)).decode()
        for number, piece in enumerate(reply.pieces):
            if number == directive.break_after:
                bill.state = "broken"
                client.cut()
                return None
            if number == directive.hang_after:
                await client.pause(None)
                return None
            delay = directive.delay if number else directive.first_delay
            if self._cancelled.is_set() or not (await client.pause(delay) if delay else not client.gone.is_set()):
                return "cancelled" if self._cancelled.is_set() else None
            bill.completion_tokens += piece.tokens + (_SOUND_TOKENS if sounds else 0)
            await self._tell(kind, **place, content_index=0, delta=piece.text)
            if sounds:
                await self._tell("response.output_audio.delta", **place, content_index=0, delta=sound)
        return "incomplete" if reply.finish_reason == "length" else "completed"

    async def _tell(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": f"event_{secrets.token_hex(10)}", **fields}
        await self._client.send(msgspec.json.encode(event))

    async def _error(self, message: str, code: str, event_id: str | None) -> None:
        error = {"type": "invalid_request_error", "code": code, "message": message, "param": None}
        await self._tell("error", error={**error, "event_id": event_id})
