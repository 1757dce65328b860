"""OpenAI's responses, as JSON and as server-sent events, with every event and field that OpenAI sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from sentinel.dev.bodies import BAD_LINE, Event
from sentinel.dev.validation import trouble_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentinel.dev.directive import Directive
    from sentinel.dev.reply import Reply

_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""The fields of a request that its response repeats, and what OpenAI says where the request does not have them."""


def messages_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The input as a chat has it; what is neither said nor called is left out."""
    given = body["input"]
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for item in given:
        if "role" in item:
            messages.append({"role": item["role"], "content": item["content"]})
        elif item.get("type") == "function_call":
            messages.append({"role": "assistant", "content": item["name"] + item["arguments"]})
        elif item.get("type") == "function_call_output":
            messages.append({"role": "tool", "content": item["output"]})
    return messages


def as_in_a_chat(body: dict[str, Any]) -> dict[str, Any]:
    """What a request says of tools and of its answer's format, as a chat says it."""
    tools = [{"type": "function", "function": tool} for tool in body.get("tools") or [] if tool["type"] == "function"]
    choice, form = body.get("tool_choice"), (body.get("text") or {}).get("format") or {}
    if isinstance(choice, dict):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    elif any(message["role"] == "tool" for message in messages_of(body)[-1:]):
        # It has been called; to call it again would go on for ever.
        choice = "none"
    if form.get("type") == "json_schema":
        form = {"type": "json_schema", "json_schema": form}
    return {"tools": tools, "tool_choice": choice, "response_format": form}


@dataclass(frozen=True, slots=True)
class ResponseEnvelope:
    """What all parts of one response share. created: Unix seconds. body: the request. reasoning: tokens thought."""

    id: str
    model: str
    created: int
    body: dict[str, Any]
    reasoning: int

    def usage(self, input_tokens: int, output_tokens: int) -> dict[str, Any]:
        """The usage object."""
        return {
            "input_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": input_tokens + output_tokens,
        }

    def whole(self, replies: list[Reply], usage_object: dict[str, Any] | None) -> bytes:
        """The answer in one piece. usage_object: None leaves it out."""
        return msgspec.json.encode(self._ended(replies[0], usage_object))

    def events(self, replies: list[Reply], directive: Directive) -> Iterator[Event]:
        """The answer as events, up to and without the last."""
        numbers = iter(range(1_000_000))
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", numbers, response=self.response("in_progress"))
        output = 0
        if self.reasoning:
            for kind in ("added", "done"):
                yield self._event(f"response.output_item.{kind}", numbers, output_index=0, item=self._thought())
            output = 1
        for item in self._items(replies[0])[output:]:
            yield from self._of_item(replies[0], item, output, numbers, directive)

    def ending(self, replies: list[Reply], usage_object: dict[str, Any] | None, directive: Directive) -> list[bytes]:
        """The last event, which has the usage; nothing after it."""
        if directive.no_done:
            return []
        response = self._ended(replies[0], usage_object)
        number = sum(1 for event in self.events(replies, directive) if event.data is not BAD_LINE)
        return [self._event(f"response.{response['status']}", iter((number,)), response=response).data]

    def failure(self) -> bytes:
        """What ends a stream that fails on its way, with a number above all others."""
        error = {"code": "server_error", "message": str(trouble_of(500))}
        return self._event("response.failed", iter((1_000_000,)), response=self.response("failed", error=error)).data

    def response(self, status: str, **more: Any) -> dict[str, Any]:
        """The response as it is at this moment."""
        said = {name: value for name, value in self.body.items() if name in _ECHOED and value is not None}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "completed_at": self.created if status == "completed" else None,
            "error": None,
            "incomplete_details": None,
            "model": self.model,
            "output": [],
            "service_tier": "default",
            "usage": None,
            **_ECHOED,
            **said,
            **more,
        }

    def _ended(self, reply: Reply, usage_object: dict[str, Any] | None) -> dict[str, Any]:
        cut = reply.finish_reason == "length"
        return self.response(
            "incomplete" if cut else "completed",
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            output=self._items(reply),
            usage=usage_object,
        )

    def _thought(self) -> dict[str, Any]:
        return {"id": f"rs_{self.id[5:]}", "type": "reasoning", "summary": []}

    def _items(self, reply: Reply) -> list[dict[str, Any]]:
        thought = [self._thought()] if self.reasoning else []
        if reply.finish_reason == "length" and not reply.pieces:
            # All that it may say it has thought.
            return thought
        status = "incomplete" if reply.finish_reason == "length" else "completed"
        if reply.kind == "tool":
            call = {"type": "function_call", "call_id": f"call_{self.id[5:29]}", "name": reply.tool}
            return [*thought, {"id": f"fc_{self.id[5:]}", "status": status, **call, "arguments": reply.text}]
        message = {"id": f"msg_{self.id[5:]}", "type": "message", "status": status, "role": "assistant"}
        return [*thought, {**message, "content": [_part(reply, reply.text)]}]

    def _of_item(
        self, reply: Reply, item: dict[str, Any], output: int, numbers: Iterator[int], directive: Directive
    ) -> Iterator[Event]:
        is_call = reply.kind == "tool"
        name, field = ("function_call_arguments", "arguments") if is_call else _text_of(reply)
        place: dict[str, Any] = {"item_id": item["id"], "output_index": output}
        empty: dict[str, Any] = {"arguments": ""} if is_call else {"content": []}
        begun = {**item, "status": "in_progress", **empty}
        pieces = list(reply.pieces)
        # The name of a call costs what its first piece says, which has no text.
        cost = pieces.pop(0).tokens if is_call and pieces else 0
        yield self._event("response.output_item.added", numbers, tokens=cost, output_index=output, item=begun)
        if not is_call:
            place["content_index"] = 0
            yield self._event("response.content_part.added", numbers, **place, part=_part(reply, ""))
        more: dict[str, Any] = {"logprobs": []} if name == "output_text" else {}
        for turn, piece in enumerate(pieces):
            if turn == len(pieces) // 2:
                yield from self._interlude(numbers, directive)
            said: dict[str, Any] = {**place, "delta": piece.text, **more, "obfuscation": "xK3"}
            yield self._event(f"response.{name}.delta", numbers, tokens=piece.tokens, **said)
        done: dict[str, Any] = {**({"name": reply.tool} if is_call else more), field: reply.text}
        yield self._event(f"response.{name}.done", numbers, **place, **done)
        if not is_call:
            yield self._event("response.content_part.done", numbers, **place, part=_part(reply, reply.text))
        yield self._event("response.output_item.done", numbers, output_index=output, item=item)

    def _interlude(self, numbers: Iterator[int], directive: Directive) -> Iterator[Event]:
        """What a directive wants in the middle of a stream; it says nothing and costs nothing."""
        if directive.big_event is not None:
            response = self.response("in_progress", metadata={"padding": "x" * directive.big_event})
            yield self._event("response.in_progress", numbers, response=response)
        if directive.bad_line:
            yield Event(BAD_LINE)

    def _event(self, kind: str, numbers: Iterator[int], *, tokens: int = 0, **fields: Any) -> Event:
        data = msgspec.json.encode({"type": kind, "sequence_number": next(numbers), **fields})
        return Event(b"event: %b\ndata: %b\n\n" % (kind.encode(), data), tokens)


def _text_of(reply: Reply) -> tuple[str, str]:
    """What its events are called, and the field of the text in its part."""
    return ("refusal", "refusal") if reply.kind == "refusal" else ("output_text", "text")


def _part(reply: Reply, text: str) -> dict[str, Any]:
    if reply.kind == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
