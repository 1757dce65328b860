"""What an answer says, whatever its format, whole or as a stream."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.support.client import Answer

_CUT = ("length", "max_tokens", "MAX_TOKENS", "incomplete")
_LAST = ("response.completed", "response.incomplete", "message_stop")


class Said(NamedTuple):
    """text: what was generated. is_whole: it has come to its end, is_cut: at its maximum."""

    text: str
    is_whole: bool
    is_cut: bool


def said_by(answer: Answer) -> Said:
    """Read it."""
    is_stream = answer.headers["content-type"].startswith("text/event-stream")
    events = answer.events if is_stream else [answer.json]
    texts, reasons = list[str](), list[str]()
    is_whole = not is_stream
    for event in events:
        if event == "[DONE]":
            is_whole = True
            continue
        texts += _texts(event)
        found = [reason for reason in _reasons(event) if reason]
        reasons += found
        is_whole |= event.get("type") in _LAST or ("candidates" in event and bool(found))
    return Said("".join(texts), is_whole, bool(reasons) and reasons[-1] in _CUT)


def _texts(event: dict[str, Any]) -> list[str]:
    """Of an event, or of a whole answer; not of what repeats the events before."""
    texts = [_of_choice(choice) for choice in event.get("choices") or ()]
    for candidate in event.get("candidates") or ():
        texts += [part.get("text", "") for part in candidate.get("content", {}).get("parts", ())]
    kind, delta = event.get("type"), event.get("delta")
    if kind == "response.output_text.delta":
        texts.append(event["delta"])
    elif kind == "content_block_delta" and isinstance(delta, dict):
        texts.append(delta.get("text", ""))
    elif kind == "message":
        texts += [block.get("text", "") for block in event["content"]]
    elif event.get("object") == "response":
        texts += [part.get("text", "") for item in event["output"] for part in item.get("content", ())]
    return texts


def _of_choice(choice: dict[str, Any]) -> str:
    said = choice.get("delta") or choice.get("message") or {}
    return said.get("content") or choice.get("text") or ""


def _reasons(event: dict[str, Any]) -> list[str | None]:
    """Why it ended, in the words of its format."""
    reasons = [choice.get("finish_reason") for choice in event.get("choices") or ()]
    reasons += [candidate.get("finishReason") for candidate in event.get("candidates") or ()]
    if event.get("type") in ("response.completed", "response.incomplete"):
        reasons.append(event["response"]["status"])
    elif event.get("object") == "response":
        reasons.append(event["status"])
    elif event.get("type") == "message_delta":
        reasons.append(event["delta"].get("stop_reason"))
    elif event.get("type") == "message":
        reasons.append(event.get("stop_reason"))
    return reasons
