"""What a batch of chats costs that the OpenAI simulator answers: plain values in, plain values out.

Its requests are lines of a file, and their directives say how long the answers are. With `no_usage` in one of them the
batch does not sum its usage up, as with most servers that are not OpenAI's: the lines of its results alone tell it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from sentinel.dev.directive import NONE, BadDirective, find_directive
from sentinel.dev.generation import Billed
from sentinel.dev.reply import chat_prompt_tokens, encoding_of, say, texts_of

_PATH = "/v1/batches"


@dataclass(frozen=True, slots=True)
class Answered:
    """A batch that has ended. bill: of all its requests. results: the file of answers. told: what it says then."""

    bill: Billed
    results: bytes
    told: dict[str, Any]


def answered(lines: bytes, request_id: str) -> Answered | None:
    """What becomes of a batch of these requests; None where one of them is no chat with a directive."""
    results, inputs, outputs, model, is_summed = list[bytes](), 0, 0, "", True
    for line in filter(None, lines.split(b"\n")):
        try:
            asked = msgspec.json.decode(line)
            model, messages = asked["body"]["model"], asked["body"]["messages"]
            directive = find_directive(texts_of(messages[-1]["content"])[-1])
        except (msgspec.DecodeError, BadDirective, LookupError, TypeError):
            return None
        if directive is NONE:
            return None
        prompt, said = chat_prompt_tokens(encoding_of(model), messages), say(directive, 0, None)
        inputs, outputs, is_summed = inputs + prompt, outputs + said.tokens, is_summed and not directive.no_usage
        usage = {"prompt_tokens": prompt, "completion_tokens": said.tokens, "total_tokens": prompt + said.tokens}
        message = {"role": "assistant", "content": said.text}
        body = {"object": "chat.completion", "model": model, "choices": [{"message": message}], "usage": usage}
        result = {"custom_id": asked.get("custom_id"), "response": {"status_code": 200, "body": body}, "error": None}
        results.append(msgspec.json.encode(result) + b"\n")
    if not results:
        return None
    count = len(results)
    bill = Billed(request_id, model, inputs, outputs, "complete", stream=False, path=_PATH, requests=count)
    told: dict[str, Any] = {"request_counts": {"total": count, "completed": count, "failed": 0}, "model": model}
    if is_summed:
        told["usage"] = {"input_tokens": inputs, "output_tokens": outputs, "total_tokens": inputs + outputs}
    return Answered(bill, b"".join(results), told)
