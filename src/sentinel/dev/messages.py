"""Anthropic's messages as a vendor speaks them: POST /v1/messages, whole and as a stream, and its count of tokens.

It is as strict as Anthropic is: a field that it does not know is refused.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from sentinel.dev.bodies import BAD_LINE, Event
from sentinel.dev.directive import BadDirective, Directive, find_directive
from sentinel.dev.generation import Billed, Job
from sentinel.dev.reply import Encoding, Reply, answer_in_json, call_tool, encoding_of, say, texts_of, think
from sentinel.dev.schema import Unfit
from sentinel.dev.validation import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentinel.dev.exchange import Exchange

PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"

_FIELDS = frozenset(
    (
        *("cache_control", "container", "context_management", "inference_geo", "max_tokens", "mcp_servers", "messages"),
        *("metadata", "model", "output_config", "output_format", "service_tier", "stop_sequences", "stream", "system"),
        *("temperature", "thinking", "tool_choice", "tools", "top_k", "top_p"),
    )
)
_OF_ANSWERS = frozenset(("max_tokens", "metadata", "service_tier", "stop_sequences", "stream", "temperature", "top_k"))
_BLOCKS = {
    "text": "text",
    "image": "source",
    "document": "source",
    "tool_use": "input",
    "server_tool_use": "input",
    "tool_result": "tool_use_id",
    "thinking": "signature",
    "redacted_thinking": "data",
    "search_result": "source",
}
"""The types of blocks, and a field that each must have."""
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_LEAST_BUDGET = 1024
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def is_its(path: str) -> bool:
    """Whether this is a path of Anthropic's, wherever those begin."""
    return path.endswith((PATH, COUNT_PATH))


def error_body(status: int, message: str) -> bytes:
    """An error in Anthropic's shape."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    error = {"type": "error", "error": {"type": kind, "message": message}, "request_id": _request_id()}
    return msgspec.json.encode(error)


def status_body(status: int) -> bytes:
    """The error that Anthropic sends with a status of its own making."""
    return error_body(status, "Overloaded" if status == 529 else "The simulator was told to refuse this request.")


def headers() -> list[tuple[str, str]]:
    """The headers that Anthropic puts on every answer."""
    return [
        ("request-id", _request_id()),
        ("anthropic-organization-id", "org-simulator"),
        ("anthropic-ratelimit-requests-limit", "4000"),
        ("anthropic-ratelimit-requests-remaining", "3999"),
        ("anthropic-ratelimit-requests-reset", "2026-11-29T00:00:00Z"),
    ]


def read(exchange: Exchange, models: frozenset[str]) -> tuple[dict[str, Any], Directive]:
    """The body of a request for a message, and its directive. Raises Refused."""
    body = _body(exchange, models, _FIELDS)
    limit = body.get("max_tokens")
    if limit is None:
        raise _wrong("max_tokens", "Field required")
    if type(limit) is not int:
        raise _wrong("max_tokens", "Input should be a valid integer")
    if limit < 1:
        raise _wrong("max_tokens", "must be greater than or equal to 1")
    if not isinstance(body.get("stream", False), bool):
        raise _wrong("stream", "Input should be a valid boolean")
    _check_thinking(body.get("thinking"), limit)
    asked = [message for message in body["messages"] if message["role"] == "user"]
    texts = texts_of(asked[-1]["content"]) if asked else []
    try:
        return body, find_directive(texts[-1] if texts else "")
    except BadDirective as mistake:
        raise Refused(400, str(mistake)) from mistake


def counted(exchange: Exchange, models: frozenset[str]) -> dict[str, int]:
    """The answer to a request for its count of tokens. Raises Refused."""
    return {"input_tokens": _prompt_tokens(_body(exchange, models, _FIELDS - _OF_ANSWERS))}


def job(exchange: Exchange, body: dict[str, Any], directive: Directive) -> Job:
    """All that will be said, and its bill. Raises Refused."""
    bill = Billed(
        request_id=exchange.headers.get("x-request-id", ""),
        model=body["model"],
        prompt_tokens=_prompt_tokens(body) if directive.usage_prompt is None else directive.usage_prompt,
        completion_tokens=0,
        state="running",
        stream=body.get("stream", False),
        path=exchange.path,
    )
    form = _Form(f"msg_{secrets.token_hex(12)}", body["model"], bill.prompt_tokens, directive.cached)
    return Job(form, _replies(body, directive), directive, bill, headers)


@dataclass(frozen=True, slots=True)
class _Form:
    """Anthropic's way to say an answer: each reply is a block. cached: of prompt_tokens."""

    id: str
    model: str
    prompt_tokens: int
    cached: int
    reasoning: int = 0  # It is a reply of its own.

    def usage(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
        return {
            "input_tokens": prompt_tokens - self.cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self.cached,
            "output_tokens": completion_tokens,
        }

    def whole(self, replies: list[Reply], usage_object: dict[str, Any] | None) -> bytes:
        message = self._message([self._block(index, reply) for index, reply in enumerate(replies)])
        message["stop_reason"] = _stop_reason(replies)
        if usage_object is not None:
            message["usage"] = usage_object
        return msgspec.json.encode(message)

    def events(self, replies: list[Reply], directive: Directive) -> Iterator[Event]:
        message = self._message([])
        if not directive.no_usage:
            message["usage"] = self.usage(self.prompt_tokens, 1)
        yield Event(_sse("message_start", message=message))
        yield Event(_sse("ping"))
        for index, reply in enumerate(replies):
            yield from self._events_of_block(index, reply, directive)

    def ending(self, replies: list[Reply], usage_object: dict[str, Any] | None, directive: Directive) -> list[bytes]:
        told = {} if usage_object is None else {"usage": usage_object}
        ended = _sse("message_delta", delta={"stop_reason": _stop_reason(replies), "stop_sequence": None}, **told)
        return [ended] if directive.no_done else [ended, _sse("message_stop")]

    def failure(self) -> bytes:
        return b"event: error\ndata: %b\n\n" % status_body(529)

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        ended = {"stop_reason": None, "stop_sequence": None}
        return {"id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content, **ended}

    def _block(self, index: int, reply: Reply, *, begun: bool = False) -> dict[str, Any]:
        text = "" if begun else reply.text
        match reply.kind:
            case "tool":
                # A maximum may have cut its JSON.
                is_whole = not begun and reply.finish_reason == "tool_calls"
                given = msgspec.json.decode(text) if is_whole else {}
                return {"type": "tool_use", "id": f"toolu_{self.id[4:]}{index}", "name": reply.tool, "input": given}
            case "thinking":
                return {"type": "thinking", "thinking": text, "signature": "" if begun else _SIGNATURE}
            case _:
                return {"type": "text", "text": text}

    def _events_of_block(self, index: int, reply: Reply, directive: Directive) -> Iterator[Event]:
        name = {"tool": "partial_json", "thinking": "thinking"}.get(reply.kind, "text")
        kind = {"tool": "input_json_delta", "thinking": "thinking_delta"}.get(reply.kind, "text_delta")
        pieces = reply.pieces
        is_tool = reply.kind == "tool" and bool(pieces)
        block = self._block(index, reply, begun=True)
        yield Event(_sse("content_block_start", index=index, content_block=block), pieces[0].tokens if is_tool else 0)
        for position, piece in enumerate(pieces[1:] if is_tool else pieces):
            if position == len(pieces) // 2 and directive.bad_line:
                yield Event(BAD_LINE)
            delta = {"type": kind, name: piece.text}
            yield Event(_sse("content_block_delta", index=index, delta=delta), piece.tokens)
        if reply.kind == "thinking":
            delta = {"type": "signature_delta", "signature": _SIGNATURE}
            yield Event(_sse("content_block_delta", index=index, delta=delta))
        yield Event(_sse("content_block_stop", index=index))


_SIGNATURE = "c2ltdWxhdGVk"


def _sse(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))


def _request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


def _stop_reason(replies: list[Reply]) -> str:
    last = replies[-1]
    return "refusal" if last.kind == "refusal" else _STOP_REASONS[last.finish_reason]


def _replies(body: dict[str, Any], directive: Directive) -> list[Reply]:
    encoding = encoding_of(body["model"])
    left: int | None = None if directive.ignores_max else body["max_tokens"]
    replies = []
    if directive.reasoning:
        replies.append(think(directive.reasoning, left))
        left = None if left is None else left - replies[-1].tokens
        if left == 0:
            return replies
    tool, form = _wanted_tool(body, directive), _wanted_form(body)
    try:
        if tool is not None:
            return [*replies, call_tool(encoding, _as_function(tool), left)]
        if form is not None and not directive.refusal:
            return [*replies, answer_in_json(encoding, form, directive, left)]
    except Unfit as unfit:
        field = "output_config.format.schema" if tool is None else f"tools.{body['tools'].index(tool)}.input_schema"
        raise _wrong(field, f"JSON schema is invalid: {unfit}") from unfit
    return [*replies, say(directive, 0, left)]


def _wanted_form(body: dict[str, Any]) -> dict[str, Any] | None:
    """The form of the answer, as a chat has it; it has an old name, too."""
    given = (body.get("output_config") or {}).get("format") or body.get("output_format")
    return given and {"type": "json_schema", "json_schema": given}


def _wanted_tool(body: dict[str, Any], directive: Directive) -> dict[str, Any] | None:
    tools: list[dict[str, Any]] = [tool for tool in body.get("tools") or [] if "input_schema" in tool]
    choice = body.get("tool_choice") or {"type": "auto"}
    if choice["type"] == "tool":
        return next((tool for tool in tools if tool["name"] == choice.get("name")), None)
    wanted = choice["type"] == "any" or (directive.tool and choice["type"] != "none")
    return tools[0] if tools and wanted else None


def _as_function(tool: dict[str, Any]) -> dict[str, Any]:
    return {"function": {"name": tool["name"], "parameters": tool["input_schema"]}}


def _prompt_tokens(body: dict[str, Any]) -> int:
    encoding: Encoding = encoding_of(body["model"])
    contents = [body.get("system"), *(message["content"] for message in body["messages"])]
    return 3 + sum(3 + sum(encoding.count(text) for text in texts_of(content)) for content in contents if content)


def _wrong(field: str, reason: str) -> Refused:
    return Refused(400, f"{field}: {reason}")


def _body(exchange: Exchange, models: frozenset[str], fields: frozenset[str]) -> dict[str, Any]:
    if "anthropic-version" not in exchange.headers:
        raise _wrong("anthropic-version", "header is required")
    try:
        body = msgspec.json.decode(exchange.raw)
    except msgspec.DecodeError as cause:
        raise Refused(400, "The request body is not valid JSON") from cause
    if not isinstance(body, dict):
        raise Refused(400, "Input should be an object")
    unknown = sorted(body.keys() - fields)
    if unknown:
        raise _wrong(unknown[0], "Extra inputs are not permitted")
    for name in ("model", "messages"):
        if name not in body:
            raise _wrong(name, "Field required")
    if not isinstance(body["model"], str):
        raise _wrong("model", "Input should be a valid string")
    if body["model"] not in models:
        raise Refused(404, f"model: {body['model']}")
    # What the system says in between is of a version to come: it has to be asked for.
    roles = (
        "user",
        "assistant",
        *(("system",) if "mid-conversation" in exchange.headers.get("anthropic-beta", "") else ()),
    )
    _check_messages(body["messages"], roles)
    _check_tools(body)
    return body


def _check_messages(messages: Any, roles: tuple[str, ...]) -> None:
    if not isinstance(messages, list):
        raise _wrong("messages", "Input should be a valid list")
    if not messages:
        raise _wrong("messages", "at least one message is required")
    for index, message in enumerate(messages):
        place = f"messages.{index}"
        if not isinstance(message, dict):
            raise _wrong(place, "Input should be an object")
        if message.get("role") not in roles:
            raise _wrong(f"{place}.role", f"Input should be {' or '.join(map(repr, roles))}")
        content = message.get("content")
        if not isinstance(content, str | list):
            raise _wrong(f"{place}.content", "Input should be a valid list")
        if not content:
            raise _wrong(place, "all messages must have non-empty content")
        for number, block in enumerate(content if isinstance(content, list) else []):
            _check_block(block, f"{place}.content.{number}")


def _check_block(block: Any, place: str) -> None:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(kind, str) or kind not in _BLOCKS:
        tags = ", ".join(f"'{name}'" for name in _BLOCKS)
        raise _wrong(place, f"Input tag '{kind}' found using 'type' does not match any of the expected tags: {tags}")
    if _BLOCKS[kind] not in block:
        raise _wrong(f"{place}.{kind}.{_BLOCKS[kind]}", "Field required")


def _check_tools(body: dict[str, Any]) -> None:
    tools, choice = body.get("tools", []), body.get("tool_choice")
    if not isinstance(tools, list):
        raise _wrong("tools", "Input should be a valid list")
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise _wrong(f"tools.{index}.name", "Field required")
        if tool.get("type", "custom") == "custom" and not isinstance(tool.get("input_schema"), dict):
            raise _wrong(f"tools.{index}.custom.input_schema", "Field required")
    if choice is not None and (
        not isinstance(choice, dict) or choice.get("type") not in ("auto", "any", "tool", "none")
    ):
        raise _wrong("tool_choice.type", "Input should be 'auto', 'any', 'tool' or 'none'")


def _check_thinking(thinking: Any, limit: int) -> None:
    if thinking is None:
        return
    if not isinstance(thinking, dict) or thinking.get("type") not in ("enabled", "disabled", "adaptive"):
        raise _wrong("thinking.type", "Input should be 'enabled', 'disabled' or 'adaptive'")
    if thinking["type"] != "enabled":
        return
    budget = thinking.get("budget_tokens")
    if type(budget) is not int or budget < _LEAST_BUDGET:
        raise _wrong("thinking.enabled.budget_tokens", f"Input should be greater than or equal to {_LEAST_BUDGET}")
    if budget >= limit:
        raise _wrong("max_tokens", "must be greater than `thinking.budget_tokens`")
