"""What OpenAI has beside answers: moderations, the count of a response's input, and its compaction."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from sentinel.dev.plan import Asked, Plan
from sentinel.dev.reply import chat_prompt_tokens, encoding_of, say
from sentinel.dev.responses import messages_of
from sentinel.dev.validation import missing

_CREATED = 1_794_000_000


def moderation(asked: Asked) -> Plan:
    """What is wrong with each text: nothing. Raises Refused."""
    given = asked.fields.get("input")
    if given is None:
        raise missing("input")
    result = {"flagged": False, "categories": {}, "category_scores": {}, "category_applied_input_types": {}}
    results = [result] * (len(given) if isinstance(given, list) else 1)
    answer = {"id": f"modr-{secrets.token_hex(12)}", "model": asked.model, "results": results}
    return Plan(0, 0, msgspec.json.encode(answer))


def input_tokens(asked: Asked) -> Plan:
    """How many tokens the input has. Raises Refused."""
    answer = {"object": "response.input_tokens", "input_tokens": _prompt_tokens(asked)}
    return Plan(0, 0, msgspec.json.encode(answer))


def compaction(asked: Asked) -> Plan:
    """A conversation, shorter. Raises Refused."""
    if asked.fields.get("input") is None:
        raise missing("input")
    prompt, directive = _prompt_tokens(asked), asked.directive
    output = say(directive, 0, None).tokens
    name = secrets.token_hex(12)
    sealed = {"id": f"cmp_{name}", "type": "compaction", "encrypted_content": "gAAAAAB" + "x" * 64}
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + output,
    }
    told: dict[str, Any] = {} if directive.no_usage else {"usage": usage}
    answer = {"id": f"resp_{name}", "object": "response.compaction", "created_at": _CREATED, "output": [sealed], **told}
    return Plan(prompt, output, msgspec.json.encode(answer))


def _prompt_tokens(asked: Asked) -> int:
    fields = asked.fields
    instructions = [{"role": "system", "content": fields["instructions"]}] if fields.get("instructions") else []
    messages = messages_of(fields) if fields.get("input") is not None else []
    return chat_prompt_tokens(encoding_of(asked.model), [*instructions, *messages])
