"""An answer in chat's format as one in Anthropic's, whole and as a stream.

Source: Anthropic's API reference, "Messages", "Streaming messages", "Errors".
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sentinel.endpoints.refusal import refusal_of
from sentinel.error import UpstreamError
from sentinel.proxy.translation.chat_reading import CallPiece, Calls, Said, call_id, choice_of, said, usage_of
from sentinel.proxy.translation.pair import BROKEN_OFF, StreamTranslator, string
from sentinel.proxy.translation.strict import object_of
from sentinel.tokens.loose import parse
from sentinel.tokens.usage import NOTHING, Usage

_REASONS: Final = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_LENGTH: Final = "length"
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_FIRST: Final = {"thinking": {"thinking": "", "signature": ""}, "text": {"text": ""}}
"""Of a block, before its first piece."""


def answer(status: int, body: bytes, *, shows_thinking: bool) -> bytes:
    """A whole answer, or an error. Raises UpstreamError for what cannot be read."""
    completion = parse(body)
    if status >= 400 or (isinstance(completion, dict) and completion.get("error")):
        _, error, told = refusal_of(body)
        return msgspec.json.encode(_error_of(error or {"message": told}, status))
    choice = choice_of(completion)
    if choice is None or not isinstance(choice.get("message"), dict):
        raise UpstreamError("The model provider sent an answer that cannot be read.")
    message = said(choice["message"])
    content: list[dict[str, Any]] = []
    if message.reasoning and shows_thinking:
        content.append({"type": "thinking", "thinking": message.reasoning, "signature": ""})
    content += [{"type": "text", "text": text} for text in (message.text, message.refusal) if text]
    content += _calls(message, completion.get("id"), cut_off=choice.get("finish_reason") == _LENGTH)
    usage = figures_of(usage_of(completion))
    return msgspec.json.encode({**_begun(completion, usage), "content": content, **_ended(choice, message)})


def _calls(message: Said, answer_id: Any, *, cut_off: bool) -> list[dict[str, Any]]:
    """Blocks of the calls. Arguments that a limit has cut off are no JSON any more, and such a call cannot be made."""
    blocks = []
    for number, call in enumerate(message.calls):
        arguments = object_of(call.arguments)
        if arguments is not None:
            id_ = call_id(call, answer_id, number)
            blocks.append({"type": "tool_use", "id": id_, "name": call.name, "input": arguments})
        elif not cut_off:
            raise UpstreamError("The model provider sent a call of a tool whose arguments cannot be read.")
    return blocks


def _begun(event: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    envelope = {"id": str(event.get("id") or ""), "type": "message", "role": "assistant"}
    ended = {"stop_reason": None, "stop_sequence": None}
    return {**envelope, "model": str(event.get("model") or ""), "content": [], **ended, "usage": usage}


def _ended(choice: dict[str, Any], message: Said) -> dict[str, Any]:
    """Why a message ended. Which stop sequence was met, vLLM alone tells; and some say `stop` beside calls."""
    reason = _REASONS.get(string(choice.get("finish_reason")), "end_turn")
    sequence = choice.get("stop_reason")
    if reason == "end_turn" and message.calls:
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if reason == "end_turn" and message.refusal:
        return {"stop_reason": "refusal", "stop_sequence": None}
    if reason == "end_turn" and isinstance(sequence, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": sequence}
    return {"stop_reason": reason, "stop_sequence": None}


def figures_of(usage: Usage) -> dict[str, Any]:
    """Usage as Anthropic tells it: what a cache had or got is beside the input."""
    return {
        "input_tokens": usage.uncached_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }


def _error_of(error: dict[str, Any], status: int) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": str(error.get("message", ""))}, "request_id": None}


class MessagesOfChat(StreamTranslator):
    """One stream. Calls stay open to the end, for providers may go on with an earlier one."""

    def __init__(self, counted_input: int, *, shows_thinking: bool) -> None:
        super().__init__()
        self._counted = Usage(prompt_tokens=counted_input)
        self._shows_thinking = shows_thinking
        self._usage: Usage = NOTHING
        self._has_begun = False
        self._id: Any = None
        self._blocks = 0
        self._open: tuple[str, int] | None = None
        """The kind and the number of the block that is told now, where it is no call."""
        self._calls = Calls()
        self._blocks_of_calls: list[int] = []
        self._end: dict[str, Any] | None = None
        self._seen = Said("", "", "", [])

    def _said_otherwise(self, data: bytes) -> bytes:
        return self._finished() if data.startswith(b"[DONE]") and self._end is not None else b""

    def _said(self, event: dict[str, Any]) -> bytes:
        self._usage = self._usage.merged(usage_of(event))
        choice = choice_of(event)
        if choice is None:
            return b""
        out = [self._message_begun(event)]
        delta = said(choice.get("delta"))
        if delta.reasoning and self._shows_thinking:
            out.append(self._grown("thinking", {"type": "thinking_delta", "thinking": delta.reasoning}))
        texts = [text for text in (delta.text, delta.refusal) if text]
        out += [self._grown("text", {"type": "text_delta", "text": text}) for text in texts]
        out += [self._called(piece) for piece in delta.calls]
        if delta.calls or delta.refusal:
            self._seen = Said("", "", delta.refusal or self._seen.refusal, delta.calls or self._seen.calls)
        if choice.get("finish_reason") and self._end is None:
            self._end = _ended(choice, self._seen)
        return b"".join(out)

    def _message_begun(self, event: dict[str, Any]) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        self._id = event.get("id")
        return _event("message_start", message=_begun(event, figures_of(self._counted)))

    def _block_begun(self, block: dict[str, Any]) -> bytes:
        self._blocks += 1
        return _event("content_block_start", index=self._blocks - 1, content_block=block)

    def _grown(self, kind: str, delta: dict[str, Any]) -> bytes:
        begun = b""
        if self._open is None or self._open[0] != kind:
            begun = self._block_ended() + self._block_begun({"type": kind, **_FIRST[kind]})
            self._open = kind, self._blocks - 1
        assert self._open is not None
        return begun + _event("content_block_delta", index=self._open[1], delta=delta)

    def _block_ended(self) -> bytes:
        if self._open is None:
            return b""
        index, self._open = self._open[1], None
        return _event("content_block_stop", index=index)

    def _called(self, piece: CallPiece) -> bytes:
        number, is_new = self._calls.number(piece)
        begun = b""
        if is_new:
            begun = self._block_ended()
            id_ = call_id(piece, self._id, number)
            begun += self._block_begun({"type": "tool_use", "id": id_, "name": piece.name, "input": {}})
            self._blocks_of_calls.append(self._blocks - 1)
        if not piece.arguments:
            return begun
        delta = {"type": "input_json_delta", "partial_json": piece.arguments}
        return begun + _event("content_block_delta", index=self._blocks_of_calls[number], delta=delta)

    def _finished(self) -> bytes:
        self.ended = True
        assert self._end is not None
        stops = [_event("content_block_stop", index=index) for index in self._blocks_of_calls]
        usage = self._usage if self._usage.prompt_tokens else self._usage.merged(self._counted)
        delta = _event("message_delta", delta=self._end, usage=figures_of(usage))
        return b"".join([self._message_begun({}), self._block_ended(), *stops, delta, _event("message_stop")])

    def _closed(self) -> bytes:
        return self._failed(BROKEN_OFF) if self._end is None else self._finished()

    def _at_limit(self) -> bytes:
        self._end = self._end or {"stop_reason": "max_tokens", "stop_sequence": None}
        return self._finished()

    def _error(self, error: dict[str, Any], status: int) -> bytes:
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode(_error_of(error, status))


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))
