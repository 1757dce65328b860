"""OpenAI's chat, completions and responses: what a request orders, and all that will be said to it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from sentinel.dev import embeddings
from sentinel.dev.bodies import Envelope
from sentinel.dev.clock import unix_seconds
from sentinel.dev.directive import BadDirective, Directive, find_directive
from sentinel.dev.generation import Billed, Job
from sentinel.dev.reply import (
    Encoding,
    Reply,
    answer_in_json,
    call_tool,
    chat_prompt_tokens,
    encoding_of,
    prompts_tokens,
    say,
    texts_of,
)
from sentinel.dev.responses import ResponseEnvelope, as_in_a_chat, messages_of
from sentinel.dev.responses_checks import check_response
from sentinel.dev.schema import Unfit
from sentinel.dev.validation import (
    JSON_FORMS,
    Refused,
    check_chat,
    check_completion,
    check_embedding,
    unfit_schema,
)

if TYPE_CHECKING:
    from sentinel.dev.exchange import Exchange

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"

_MAXIMA = ("max_completion_tokens", "max_tokens", "max_output_tokens")


def headers() -> list[tuple[str, str]]:
    """The headers that OpenAI and its edge put on every answer."""
    request_id = secrets.token_hex(16)
    return [
        ("x-request-id", f"req_{request_id}"),
        ("openai-processing-ms", "41"),
        ("openai-organization", "org-simulator"),
        ("openai-project", "proj_simulator"),
        ("openai-version", "2020-10-01"),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-limit-tokens", "2000000"),
        ("x-ratelimit-remaining-requests", "9999"),
        ("x-ratelimit-remaining-tokens", "1999985"),
        ("x-ratelimit-reset-requests", "6ms"),
        ("x-ratelimit-reset-tokens", "0s"),
        ("set-cookie", f"__cf_bm={request_id}; path=/; domain=.api.openai.com; HttpOnly; Secure; SameSite=None"),
        ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
        ("x-content-type-options", "nosniff"),
        ("cf-ray", f"{request_id[:16]}-SIM"),
        ("server", "cloudflare"),
    ]


def directive_of(body: dict[str, Any], path: str) -> Directive:
    """Read the directive of a request after checking the part of its body where that stands. Raises Refused."""
    if path == CHAT:
        check_chat(body)
        asked = [message for message in body["messages"] if message["role"] == "user"]
        texts = texts_of(asked[-1].get("content")) if asked else []
    elif path == RESPONSES:
        check_response(body)
        asked = [message for message in messages_of(body) if message["role"] == "user"]
        texts = texts_of(asked[-1]["content"]) if asked else []
    else:
        if path == EMBEDDINGS:
            check_embedding(body, embeddings.DIMENSIONS)
        else:
            check_completion(body)
        prompt = body["input" if path == EMBEDDINGS else "prompt"]
        texts = [prompt] if isinstance(prompt, str) else [part for part in prompt if isinstance(part, str)]
    try:
        return find_directive(texts[-1] if texts else "")
    except BadDirective as mistake:
        raise Refused(400, str(mistake), code="bad_directive") from mistake


def job(exchange: Exchange, body: dict[str, Any], directive: Directive, earlier: list[dict[str, Any]]) -> Job:
    """All that will be said, and its bill. earlier: the messages that a response goes on from. Raises Refused."""
    path, model, encoding = exchange.path, body["model"], encoding_of(body["model"])
    counted = _prompt_tokens(encoding, path, body, earlier)
    bill = Billed(
        request_id=exchange.headers.get("x-request-id", ""),
        model=model,
        prompt_tokens=counted if directive.usage_prompt is None else directive.usage_prompt,
        completion_tokens=0,
        state="running",
        stream=bool(body.get("stream")),
        path=path,
    )
    limit = None if directive.ignores_max else next((body[name] for name in _MAXIMA if body.get(name)), None)
    reasoning = directive.reasoning if limit is None else min(directive.reasoning, limit)
    left = None if limit is None else limit - reasoning
    created = int(unix_seconds())
    if path == RESPONSES:
        response = ResponseEnvelope(f"resp_{secrets.token_hex(24)}", model, created, body, reasoning)
        replies, goes_on = _replies(as_in_a_chat(body), directive, encoding, left), bool(body.get("background"))
        return Job(response, replies, directive, bill, headers, goes_on=goes_on, asked=body)
    chat = path == CHAT
    envelope = Envelope(
        id=f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(14)}",
        model=model,
        created=created,
        chat=chat,
        logprobs=bool(body.get("logprobs")) and chat,
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        reasoning=reasoning,
    )
    return Job(envelope, _replies(body, directive, encoding, left), directive, bill, headers, asked=body)


def _prompt_tokens(encoding: Encoding, path: str, body: dict[str, Any], earlier: list[dict[str, Any]]) -> int:
    if path == COMPLETIONS:
        return prompts_tokens(encoding, body["prompt"])
    if path == CHAT:
        return chat_prompt_tokens(encoding, body["messages"])
    instructions = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    return chat_prompt_tokens(encoding, [*instructions, *earlier, *messages_of(body)])


def _replies(body: dict[str, Any], directive: Directive, encoding: Encoding, limit: int | None) -> list[Reply]:
    """limit: the most tokens of each that are said."""
    prompt, prompts = body.get("prompt"), 1
    if isinstance(prompt, list) and not all(isinstance(part, int) for part in prompt):
        prompts = len(prompt)
    choices = (body.get("n") or 1) * prompts
    tool, form = (None, {}) if "prompt" in body else (_wanted_tool(body, directive), body.get("response_format") or {})
    try:
        if tool is not None:
            return [call_tool(encoding, tool, limit)] * choices
        if form.get("type") in JSON_FORMS and not directive.refusal:
            return [answer_in_json(encoding, form, directive, limit)] * choices
    except Unfit as unfit:
        raise unfit_schema(body, tool, str(unfit)) from unfit
    return [say(directive, choice, limit) for choice in range(choices)]


def _wanted_tool(body: dict[str, Any], directive: Directive) -> dict[str, Any] | None:
    tools = [tool for tool in body.get("tools") or [] if tool.get("type") != "custom"]
    choice = body.get("tool_choice")
    if not tools:
        return None
    if isinstance(choice, dict):
        name = choice["function"].get("name")
        named: dict[str, Any] | None = next((tool for tool in tools if tool["function"]["name"] == name), None)
        if named is None:
            raise Refused(400, f"Tool choice '{name}' not found in 'tools' parameter.", param="tool_choice")
        return named
    # One that was just called is not ordered anew: whoever calls it each time would go on for ever.
    is_called = any(message["role"] == "tool" for message in body.get("messages", [])[-1:])
    wanted = choice == "required" or (directive.tool and choice != "none" and not is_called)
    return tools[0] if wanted else None
