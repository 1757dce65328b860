"""An answer in chat's format as a response, whole and as a stream.

Reasoning is told as it is, as `reasoning_text`; nobody has made a summary of it.
Source: OpenAI's API reference, "The response object", "Responses: streaming events".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sentinel.error import UpstreamError
from sentinel.proxy.translation.chat_reading import CallPiece, Calls, Said, call_id, choice_of, said, usage_of
from sentinel.proxy.translation.pair import BROKEN_OFF, StreamTranslator, string
from sentinel.tokens.loose import parse
from sentinel.tokens.usage import NOTHING, Usage

_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
_PREFIXES: Final = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
_FIELDS: Final = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text"}
"""Types of parts, and the field that has what is said in them."""


Named = Mapping[str, Mapping[str, str]]
"""The fields of a call that name its function, by what it is called in chat, where they are not `name` alone."""


def answer(status: int, body: bytes, envelope: dict[str, Any], named: Named) -> bytes:
    """A whole answer; an error as it is, for both formats have the same.

    Raises UpstreamError for what cannot be read.
    """
    completion = parse(body)
    if status >= 400 or (isinstance(completion, dict) and completion.get("error")):
        return body
    choice = choice_of(completion)
    if choice is None or not isinstance(choice.get("message"), dict):
        raise UpstreamError("The model provider sent an answer that cannot be read.")
    message = said(choice["message"])
    written = _Items(completion.get("id"), named)
    written.add(message)
    reason = string(choice.get("finish_reason"))
    written.close(_status_of(reason))
    ended = _ended(envelope, completion, reason, written.items, usage_of(completion))
    return msgspec.json.encode(ended)


def _status_of(reason: Any) -> str:
    return "incomplete" if reason in _INCOMPLETE else "completed"


def _begun(envelope: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    named = {"id": f"resp_{event.get('id') or ''}", "model": str(event.get("model") or "")}
    return {**envelope, **named, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}


def _ended(
    envelope: dict[str, Any], event: dict[str, Any], reason: Any, items: list[dict[str, Any]], usage: Usage
) -> dict[str, Any]:
    why = {"reason": _INCOMPLETE[reason]} if reason in _INCOMPLETE else None
    told = {"status": _status_of(reason), "incomplete_details": why, "output": items, "usage": figures_of(usage)}
    return {**_begun(envelope, event), **told}


def figures_of(usage: Usage) -> dict[str, Any]:
    """Usage as responses tell it: what was cached is part of the input, what was reasoned part of the output."""
    details = {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens}
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": details,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }


class _Items:
    """The items of one response as they grow, and the events that tell it. Calls stay open to the end.

    items: all of them, as they are once they are closed.
    """

    def __init__(self, id_: Any, named: Named) -> None:
        self.items: list[dict[str, Any]] = []
        self._named = named
        self._id = str(id_ or "")
        self._open: set[int] = set()
        self._texts: dict[int, list[str]] = {}
        """What has come of the last part of each open item, or of a call's arguments, in pieces."""
        self._calls = Calls()
        self._outputs: list[int] = []
        """The index of each call among the items."""

    def add(self, new: Said) -> list[dict[str, Any]]:
        """What is new, and the events that tell it."""
        texts = {"reasoning_text": new.reasoning, "output_text": new.text, "refusal": new.refusal}
        events = [event for kind, text in texts.items() if text for event in self._grow(kind, text)]
        return events + [event for piece in new.calls for event in self._call(piece)]

    def _grow(self, kind: str, text: str) -> list[dict[str, Any]]:
        """More of a message, or of reasoning. kind: of the part."""
        item_kind = "reasoning" if kind == "reasoning_text" else "message"
        events: list[dict[str, Any]] = []
        index = len(self.items) - 1
        if index not in self._open or self.items[index]["type"] != item_kind:
            events += self._close_told("completed")
            empty: dict[str, Any] = {"summary": []} if item_kind == "reasoning" else {"role": "assistant"}
            events += self._add({"type": item_kind, **empty, "content": []})
            index = len(self.items) - 1
        item = self.items[index]
        if not item["content"] or item["content"][-1]["type"] != kind:
            events += self._part_done(index)
            part: dict[str, Any] = {"type": kind, _FIELDS[kind]: ""}
            if kind == "output_text":
                part["annotations"] = []
            item["content"].append(part)
            self._texts[index] = []
            events.append(_event("content_part.added", **self._place(index), part=dict(part)))
        self._texts[index].append(text)
        return [*events, _event(f"{kind}.delta", **self._place(index), delta=text, **_more(kind))]

    def _call(self, piece: CallPiece) -> list[dict[str, Any]]:
        """A call, or more of one."""
        number, is_new = self._calls.number(piece)
        events: list[dict[str, Any]] = []
        if is_new:
            events += self._close_told("completed")
            id_ = call_id(piece, self._id, number)
            name = self._named.get(piece.name, {"name": piece.name})
            events += self._add({"type": "function_call", "call_id": id_, **name, "arguments": ""})
            self._outputs.append(len(self.items) - 1)
        index = self._outputs[number]
        if piece.arguments:
            self._texts[index].append(piece.arguments)
            place = {"item_id": self.items[index]["id"], "output_index": index}
            events.append(_event("function_call_arguments.delta", **place, delta=piece.arguments))
        return events

    def close(self, status: str) -> list[dict[str, Any]]:
        """The end of all items that are open; status: of each of them."""
        return [event for index in sorted(self._open) for event in self._closed(index, status)]

    def _close_told(self, status: str) -> list[dict[str, Any]]:
        """The end of what is open, but for calls."""
        told = [index for index in sorted(self._open) if index not in self._outputs]
        return [event for index in told for event in self._closed(index, status)]

    def _add(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        index = len(self.items)
        named = {"id": f"{_PREFIXES[item['type']]}_{self._id}_{index}", **item, "status": "in_progress"}
        self.items.append(named)
        self._open.add(index)
        self._texts[index] = []
        added = {**named, "content": []} if "content" in named else dict(named)
        return [_event("output_item.added", output_index=index, item=added)]

    def _place(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        return {"item_id": item["id"], "output_index": index, "content_index": len(item["content"]) - 1}

    def _part_done(self, index: int) -> list[dict[str, Any]]:
        item = self.items[index]
        if not item["content"]:
            return []
        part = item["content"][-1]
        field = _FIELDS[part["type"]]
        part[field] = "".join(self._texts[index])
        told = {field: part[field], **_more(part["type"])}
        done = _event(f"{part['type']}.done", **self._place(index), **told)
        return [done, _event("content_part.done", **self._place(index), part=part)]

    def _closed(self, index: int, status: str) -> list[dict[str, Any]]:
        self._open.discard(index)
        item = self.items[index]
        if item["type"] == "function_call":
            item["arguments"] = "".join(self._texts.pop(index)) or "{}"
            place = {"item_id": item["id"], "output_index": index}
            told = {"name": item["name"], "arguments": item["arguments"]}
            events = [_event("function_call_arguments.done", **place, **told)]
        else:
            events = self._part_done(index)
            del self._texts[index]
        item["status"] = status
        return [*events, _event("output_item.done", output_index=index, item=item)]


class ResponsesOfChat(StreamTranslator):
    """One stream."""

    def __init__(self, envelope: dict[str, Any], named: Named) -> None:
        super().__init__()
        self._envelope = envelope
        self._named = named
        self._sequence = 0
        self._first: dict[str, Any] | None = None
        self._items = _Items("", named)
        self._usage: Usage = NOTHING
        self._reason: str | None = None

    def _said_otherwise(self, data: bytes) -> bytes:
        return self._finished() if data.startswith(b"[DONE]") and self._reason is not None else b""

    def _said(self, event: dict[str, Any]) -> bytes:
        self._usage = self._usage.merged(usage_of(event))
        choice = choice_of(event)
        if choice is None:
            return b""
        events = self._begun(event)
        events += self._items.add(said(choice.get("delta")))
        if self._reason is None and choice.get("finish_reason"):
            self._reason = str(choice["finish_reason"])
        return self._numbered(events)

    def _begun(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        if self._first is not None:
            return []
        self._first = {"id": event.get("id"), "model": event.get("model")}
        self._items = _Items(event.get("id"), self._named)
        response = _begun(self._envelope, self._first)
        return [_event("created", response=response), _event("in_progress", response=response)]

    def _finished(self) -> bytes:
        self.ended = True
        events = [*self._begun({}), *self._items.close(_status_of(self._reason))]
        assert self._first is not None
        response = _ended(self._envelope, self._first, self._reason, self._items.items, self._usage)
        return self._numbered([*events, _event(response["status"], response=response)])

    def _closed(self) -> bytes:
        return self._failed(BROKEN_OFF) if self._reason is None else self._finished()

    def _at_limit(self) -> bytes:
        self._reason = self._reason or "length"
        return self._finished()

    def _error(self, error: dict[str, Any], status: int) -> bytes:
        """As the reference has it, and with `error` beside it, as OpenAI's SDK for Python looks for."""
        kind = "invalid_request_error" if 400 <= status < 500 else "server_error"
        told = {"type": kind, "code": error.get("code"), "message": str(error.get("message", "")), "param": None}
        flat = {name: told[name] for name in ("code", "message", "param")}
        return self._numbered([{"type": "error", **flat, "error": told}])

    def _numbered(self, events: list[dict[str, Any]]) -> bytes:
        out = []
        for event in events:
            data = msgspec.json.encode({**event, "sequence_number": self._sequence})
            out.append(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data))
            self._sequence += 1
        return b"".join(out)


def _more(kind: str) -> dict[str, Any]:
    """What an event about a text has beside it."""
    return {"logprobs": []} if kind == "output_text" else {}


def _event(name: str, /, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{name}", **fields}
