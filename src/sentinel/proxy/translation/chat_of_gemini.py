"""An answer in Gemini's format as one in chat's, whole and as a stream.

Each event of a stream is a whole answer with what is new; no event says that it is the last one.
Source: Google's API reference, "GenerateContentResponse"; its guide "Thought signatures", for `extra_content`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from sentinel.error import UpstreamError
from sentinel.proxy.translation import chat_events
from sentinel.proxy.translation.chat_events import ChatEvents
from sentinel.proxy.translation.pair import BROKEN_OFF, StreamTranslator
from sentinel.tokens.loose import parse
from sentinel.tokens.usage import NOTHING, Usage, read_usage_metadata

_FILTERED: Final = frozenset(
    (
        *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"),
        *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
    )
)
_UNSAID: Final = ("", "FINISH_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED")


class _New(Struct, frozen=True, gc=False):
    """What is new of one candidate. calls: parts with one each; reason: Google's word, empty until it has ended."""

    index: int
    reasoning: str
    text: str
    calls: list[dict[str, Any]]
    reason: str


def answer(status: int, body: bytes, created: int, *, one_call: bool = False) -> bytes:
    """A whole answer, or an error. one_call: no choice has more. Raises UpstreamError for what cannot be read."""
    generated = parse(body)
    if status >= 400 or (isinstance(generated, dict) and generated.get("error")):
        return chat_events.refusal(status, body)
    candidates = _candidates_of(generated) if isinstance(generated, dict) else []
    if not candidates:
        raise UpstreamError("The model provider sent an answer that cannot be read.")
    id_ = _id_of(generated)
    envelope = {"id": id_, "created": created, "model": str(generated.get("modelVersion") or "")}
    choices = [_choice(new, id_, one_call=one_call) for new in sorted(candidates, key=lambda new: new.index)]
    return chat_events.completion(envelope, choices, read_usage_metadata(generated.get("usageMetadata")))


def _choice(new: _New, answer_id: str, *, one_call: bool) -> tuple[dict[str, Any], str]:
    calls = new.calls[:1] if one_call else new.calls
    said: dict[str, Any] = {"content": new.text if new.text or not new.calls else None}
    if new.reasoning:
        said["reasoning_content"] = new.reasoning
    if new.calls:
        said["tool_calls"] = [_call(part, answer_id, new.index, number) for number, part in enumerate(calls)]
    return said, _reason(new.reason, has_calls=bool(new.calls))


def _reason(reason: str, *, has_calls: bool) -> str:
    """Why a choice ended; Google says STOP beside calls, too."""
    if reason == "MAX_TOKENS":
        return "length"
    if reason in _FILTERED:
        return "content_filter"
    return "tool_calls" if has_calls else "stop"


def _id_of(generated: dict[str, Any]) -> str:
    return str(generated.get("responseId") or "")


def _candidates_of(generated: dict[str, Any]) -> list[_New]:
    """What each candidate says; a prompt that is blocked has none, and is a choice that was filtered."""
    listed = generated.get("candidates")
    found = [_new(each) for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    feedback = generated.get("promptFeedback")
    blocked = feedback.get("blockReason") if isinstance(feedback, dict) else None
    if not found and blocked and blocked not in _UNSAID:
        return [_New(0, "", "", [], "PROHIBITED_CONTENT")]
    return found


def _new(candidate: dict[str, Any]) -> _New:
    content, index = candidate.get("content"), candidate.get("index")
    listed = content.get("parts") if isinstance(content, dict) else None
    parts = [part for part in listed if isinstance(part, dict)] if isinstance(listed, list) else []
    reason = candidate.get("finishReason")
    return _New(
        index if isinstance(index, int) else 0,
        "".join(str(part.get("text") or "") for part in parts if part.get("thought")),
        "".join(str(part.get("text") or "") for part in parts if not part.get("thought")),
        [part for part in parts if isinstance(part.get("functionCall"), dict)],
        "" if reason in _UNSAID or reason is None else str(reason),
    )


def _call(part: dict[str, Any], answer_id: str, choice: int, number: int) -> dict[str, Any]:
    """A call as chat has it, with the signature that Google wants back."""
    called = part["functionCall"]
    arguments = msgspec.json.encode(called.get("args") or {}).decode()
    signature = part.get("thoughtSignature")
    extra = {"extra_content": {"google": {"thought_signature": signature}}} if isinstance(signature, str) else {}
    return {
        "id": str(called.get("id") or f"call_{answer_id}_{choice}_{number}"),
        "type": "function",
        "function": {"name": str(called.get("name") or ""), "arguments": arguments},
        **extra,
    }


class ChatOfGemini(StreamTranslator):
    """One stream. one_call: no choice is to have more."""

    def __init__(self, created: int, *, wants_usage: bool, one_call: bool = False) -> None:
        super().__init__()
        self._one_call = one_call
        self._out = ChatEvents(created, wants_usage=wants_usage)
        self._usage: Usage = NOTHING
        self._id: str | None = None
        self._calls: dict[int, int] = {}
        """How many calls each choice has, once it has begun."""
        self._finished: set[int] = set()

    def _said(self, event: dict[str, Any]) -> bytes:
        self._usage = self._usage.merged(read_usage_metadata(event.get("usageMetadata")))
        if self._id is None:
            self._id = _id_of(event)
            self._out.name(self._id, event.get("modelVersion"))
        return b"".join(self._grown(new) for new in _candidates_of(event))

    def _grown(self, new: _New) -> bytes:
        index, out = new.index, []
        before = self._calls.setdefault(index, 0)
        if new.reasoning:
            out.append(self._out.delta({"reasoning_content": new.reasoning}, index=index))
        if new.text:
            out.append(self._out.delta({"content": new.text}, index=index))
        for number, part in enumerate(new.calls, before):
            if self._one_call and number > 0:
                break
            call = _call(part, self._id or "", index, number)
            out.append(self._out.delta({"tool_calls": [{"index": number, **call}]}, index=index))
        self._calls[index] += len(new.calls)
        if new.reason and index not in self._finished:
            out.append(self._end(index, _reason(new.reason, has_calls=self._calls[index] > 0)))
        return b"".join(out)

    def _end(self, index: int, reason: str) -> bytes:
        self._finished.add(index)
        return self._out.delta({}, reason, index)

    def _closed(self) -> bytes:
        if not self._finished or self._finished != self._calls.keys():
            return self._failed(BROKEN_OFF)
        self.ended = True
        return self._out.done(self._usage)

    def _at_limit(self) -> bytes:
        self.ended = True
        open_choices = (self._calls.keys() or {0}) - self._finished
        return b"".join(self._end(index, "length") for index in sorted(open_choices)) + self._out.done(self._usage)

    def _error(self, error: dict[str, Any], status: int) -> bytes:
        return chat_events.error_event(error, status)
