"""An answer in Anthropic's format as one in chat's, whole and as a stream.

Source: Anthropic's API reference, "Messages", "Streaming messages"; guide "Handling stop reasons".
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sentinel.error import UpstreamError
from sentinel.proxy.translation import chat_events
from sentinel.proxy.translation.chat_events import ChatEvents
from sentinel.proxy.translation.pair import BROKEN_OFF, StreamTranslator, string
from sentinel.tokens.loose import parse
from sentinel.tokens.usage import NOTHING, Usage, read_usage_beside_cache

_REASONS: Final = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_STOP: Final = "stop"
_SIGNED: Final = ("thinking", "redacted_thinking")


def answer(status: int, body: bytes, created: int) -> bytes:
    """A whole answer, or an error. Raises UpstreamError for what cannot be read."""
    message = parse(body)
    if status >= 400 or (isinstance(message, dict) and message.get("error")):
        return chat_events.refusal(status, body)
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        raise UpstreamError("The model provider sent an answer that cannot be read.")
    blocks = [block for block in message["content"] if isinstance(block, dict)]
    texts, thoughts = _joined(blocks, "text"), _joined(blocks, "thinking")
    calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
    said: dict[str, Any] = {"content": texts if texts or not calls else None}
    if thoughts:
        said["reasoning_content"] = thoughts
    if signed := [_without_extras(block) for block in blocks if block.get("type") in _SIGNED]:
        said["thinking_blocks"] = signed
    if calls:
        said["tool_calls"] = calls
    envelope = {"id": message.get("id") or "", "created": created, "model": message.get("model") or ""}
    reason = _REASONS.get(string(message.get("stop_reason")), _STOP)
    return chat_events.completion(envelope, [(said, reason)], read_usage_beside_cache(message.get("usage")))


def _joined(blocks: list[dict[str, Any]], kind: str) -> str:
    return "".join(str(block.get(kind) or "") for block in blocks if block.get("type") == kind)


def _call(block: dict[str, Any]) -> dict[str, Any]:
    function = {"name": str(block.get("name") or ""), "arguments": _json(block.get("input") or {})}
    return {"id": str(block.get("id") or ""), "type": "function", "function": function}


def _without_extras(block: dict[str, Any]) -> dict[str, Any]:
    """A block of thinking as a client may send it back."""
    names = ("type", "data") if block["type"] == "redacted_thinking" else ("type", "thinking", "signature")
    return {name: string(block.get(name)) for name in names}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


class ChatOfMessages(StreamTranslator):
    """One stream. Each block of thinking is told again at its end, whole and signed, for it must be sent back so."""

    def __init__(self, created: int, *, wants_usage: bool) -> None:
        super().__init__()
        self._out = ChatEvents(created, wants_usage=wants_usage)
        self._usage: Usage = NOTHING
        self._reason: str | None = None
        self._signed: dict[int, dict[str, Any]] = {}
        self._calls: dict[int, int] = {}
        self._silent: set[int] = set()
        """Calls of which no argument has come."""

    def _said(self, event: dict[str, Any]) -> bytes:
        index = event.get("index")
        block, delta = event.get("content_block"), event.get("delta")
        match event.get("type"):
            case "message_start" if isinstance(event.get("message"), dict):
                return self._begun(event["message"])
            case "content_block_start" if isinstance(block, dict) and isinstance(index, int):
                return self._block_begun(index, block)
            case "content_block_delta" if isinstance(delta, dict) and isinstance(index, int):
                return self._grown(index, delta)
            case "content_block_stop" if isinstance(index, int):
                return self._block_ended(index)
            case "message_delta":
                self._usage = self._usage.merged(read_usage_beside_cache(event.get("usage")))
                return self._told_end(delta.get("stop_reason") if isinstance(delta, dict) else None)
            case "message_stop":
                self.ended = True
                return self._told_end("end_turn") + self._out.done(self._usage)
            case _:
                return b""

    def _begun(self, message: dict[str, Any]) -> bytes:
        self._out.name(message.get("id"), message.get("model"))
        self._usage = self._usage.merged(read_usage_beside_cache(message.get("usage")))
        return self._out.delta({"content": ""})

    def _block_begun(self, index: int, block: dict[str, Any]) -> bytes:
        kind = block.get("type")
        if kind == "tool_use":
            number = self._calls.setdefault(index, len(self._calls))
            arguments = _json(block["input"]) if block.get("input") else ""
            if not arguments:
                self._silent.add(index)
            id_, name = str(block.get("id") or ""), str(block.get("name") or "")
            return self._out.delta(chat_events.call(number, id_, name, arguments))
        if kind in _SIGNED:
            self._signed[index] = _without_extras(block)
        return self._text(kind, block.get(str(kind)))

    def _grown(self, index: int, delta: dict[str, Any]) -> bytes:
        piece = delta.get("partial_json")
        if isinstance(piece, str) and piece and index in self._calls:
            self._silent.discard(index)
            return self._out.delta(chat_events.arguments(self._calls[index], piece))
        for field in ("thinking", "signature"):
            if index in self._signed and isinstance(delta.get(field), str):
                self._signed[index][field] += delta[field]
        return self._text("text", delta.get("text")) + self._text("thinking", delta.get("thinking"))

    def _text(self, kind: Any, text: Any) -> bytes:
        if not isinstance(text, str) or not text:
            return b""
        return self._out.delta({"reasoning_content" if kind == "thinking" else "content": text})

    def _block_ended(self, index: int) -> bytes:
        if index in self._silent:
            # A call without arguments; clients read them as JSON.
            self._silent.discard(index)
            return self._out.delta(chat_events.arguments(self._calls[index], "{}"))
        if (block := self._signed.pop(index, None)) is not None:
            return self._out.delta({"thinking_blocks": [block]})
        return b""

    def _told_end(self, reason: Any) -> bytes:
        if not reason or self._reason is not None:
            return b""
        self._reason = _REASONS.get(string(reason), _STOP)
        return self._out.delta({}, self._reason)

    def _closed(self) -> bytes:
        if self._reason is None:
            return self._failed(BROKEN_OFF)
        self.ended = True
        return self._out.done(self._usage)

    def _at_limit(self) -> bytes:
        self.ended = True
        return self._told_end("max_tokens") + self._out.done(self._usage)

    def _error(self, error: dict[str, Any], status: int) -> bytes:
        return chat_events.error_event(error, status)
