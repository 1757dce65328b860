"""Gemini's API as Google speaks it: answers whole, as events and as an array, the count of tokens, and vectors.

It is as strict as Google is (gemini_checks.py).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import msgspec

from sentinel.dev import embeddings
from sentinel.dev.bodies import BAD_LINE, Event
from sentinel.dev.gemini_checks import check_signatures, texts, wrong
from sentinel.dev.generation import Billed, Job
from sentinel.dev.reply import Encoding, Piece, Reply, answer_in_json, call_tool, encoding_of, say, think
from sentinel.dev.schema import Unfit
from sentinel.dev.validation import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentinel.dev.directive import Directive
    from sentinel.dev.exchange import Exchange

MODELS = ("gemini-3-pro-preview", "gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.0-flash", "gemini-embedding-001")

_PATH = re.compile(r"/v1(?:beta)?/(?:models|tunedModels)/(.+):(\w+)")
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_FINISH_REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"}
_DIMENSIONS = 768
_SIGNING = "gemini-3"
"""Models that sign their calls, and want them back so, begin with this."""
_SIGNATURE = "c2ltdWxhdGVk"


def is_its(path: str) -> bool:
    """Whether this is a path of Gemini's."""
    return path.startswith("/v1beta/") or _PATH.fullmatch(path) is not None


def error_body(status: int, message: str) -> bytes:
    """An error in Google's shape."""
    word = _STATUSES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
    return msgspec.json.encode({"error": {"code": status, "message": message, "status": word}})


def status_body(status: int) -> bytes:
    """The error that Google sends with a status of its own making."""
    message = "The model is overloaded." if status == 503 else "The simulator was told to refuse this request."
    return error_body(status, message)


def headers() -> list[tuple[str, str]]:
    """The headers that Google puts on every answer."""
    return [
        ("vary", "Origin, X-Origin, Referer"),
        ("server", "scaffolding on HTTPServer2"),
        ("x-frame-options", "SAMEORIGIN"),
    ]


def asked(exchange: Exchange, key: str, models: frozenset[str]) -> tuple[str, str]:
    """The model that a path names, and what it is to do. Raises Refused."""
    given = exchange.headers.get("x-goog-api-key", "")
    if not given:
        raise Refused(403, "Method doesn't allow unregistered callers (callers without established identity).")
    if "authorization" in exchange.headers:
        raise Refused(400, "Multiple authentication credentials received. Please pass only one.")
    if given != key:
        raise Refused(400, "API key not valid. Please pass a valid API key.")
    found = _PATH.fullmatch(exchange.path)
    if exchange.method != "POST" or found is None or found[2] not in _METHODS:
        raise Refused(404, "")
    if found[1] not in models:
        message = f"models/{found[1]} is not found for API version v1beta, or is not supported for {found[2]}."
        raise Refused(404, message)
    return found[1], found[2]


def counted(model: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request for its count of tokens."""
    tokens = _prompt_tokens(model, body)
    return {"totalTokens": tokens, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}]}


def embedding_bill(exchange: Exchange, model: str, body: dict[str, Any], directive: Directive) -> Billed:
    """What vectors cost: their input."""
    bodies = body.get("requests") or [body]
    tokens = sum(_texts_tokens(encoding_of(model), [each["content"]]) for each in bodies)
    tokens = tokens if directive.usage_prompt is None else directive.usage_prompt
    return _bill(exchange, model, tokens, stream=False)


def vectors(model: str, body: dict[str, Any], tokens: int | None) -> dict[str, Any]:
    """The answer with vectors. tokens: what usage tells, None for an answer without usage."""
    bodies = body.get("requests") or [body]
    found = []
    for each in bodies:
        asked = {
            "model": model,
            "input": " ".join(texts([each["content"]])) or " ",
            "dimensions": each.get("outputDimensionality") or _DIMENSIONS,
        }
        found.append({"values": embeddings.answer(asked, None)["data"][0]["embedding"]})
    told = {} if tokens is None else {"usageMetadata": {"promptTokenCount": tokens, "totalTokenCount": tokens}}
    return {**({"embeddings": found} if "requests" in body else {"embedding": found[0]}), **told}


def job(exchange: Exchange, model: str, method: str, body: dict[str, Any], directive: Directive) -> Job:
    """All that will be said, and its bill. Raises Refused."""
    if model.startswith(_SIGNING):
        check_signatures(body["contents"])
    config = body.get("generationConfig") or {}
    limit: int | None = None if directive.ignores_max else config.get("maxOutputTokens")
    reasoning = directive.reasoning if limit is None else min(directive.reasoning, limit)
    left = None if limit is None else limit - reasoning
    shows = bool((config.get("thinkingConfig") or {}).get("includeThoughts"))
    thoughts = [think(reasoning, None)] if shows and reasoning else []
    said = [_said(model, body, directive, index, left) for index in range(config.get("candidateCount") or 1)]
    is_stream = method == "streamGenerateContent"
    as_array = is_stream and "alt=sse" not in exchange.query.split("&")
    tokens = _prompt_tokens(model, body) if directive.usage_prompt is None else directive.usage_prompt
    form = _Form(
        secrets.token_urlsafe(16), model, tokens, directive.cached, thoughts, said, 0 if shows else reasoning, as_array
    )
    content_type = "application/json; charset=UTF-8" if as_array else "text/event-stream"
    bill = _bill(exchange, model, tokens, stream=is_stream)
    return Job(form, [*thoughts, *said], directive, bill, headers, content_type)


@dataclass(frozen=True, slots=True)
class _Form:
    """Gemini's way to say an answer. cached: of prompt_tokens. thoughts: those that are shown, of the first candidate.

    reasoning: thoughts that are not shown. as_array: a stream is one array.
    """

    id: str
    model: str
    prompt_tokens: int
    cached: int
    thoughts: list[Reply]
    said: list[Reply]
    reasoning: int
    as_array: bool

    def usage(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
        thoughts = min(completion_tokens, self.reasoning + sum(reply.tokens for reply in self.thoughts))
        return {
            "promptTokenCount": prompt_tokens,
            "candidatesTokenCount": completion_tokens - thoughts,
            "totalTokenCount": prompt_tokens + completion_tokens,
            **({"cachedContentTokenCount": self.cached} if self.cached else {}),
            **({"thoughtsTokenCount": thoughts} if thoughts else {}),
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt_tokens}],
        }

    def whole(self, replies: list[Reply], usage_object: dict[str, Any] | None) -> bytes:  # noqa: ARG002
        candidates = []
        for index, reply in enumerate(self.said):
            thoughts = [_part(thought, thought.text) for thought in self.thoughts] if index == 0 else []
            candidates.append(_candidate(index, [*thoughts, self._part(reply, reply.text)], reply))
        return msgspec.json.encode(self._answer(candidates, usage_object))

    def events(self, replies: list[Reply], directive: Directive) -> Iterator[Event]:  # noqa: ARG002
        so_far = self.reasoning
        is_first = True
        for number, (index, reply, text, tokens) in enumerate(self._pieces()):
            if number == 1 and directive.bad_line and not self.as_array:
                yield Event(BAD_LINE)
            so_far += tokens
            usage = None if directive.no_usage else self.usage(self.prompt_tokens, so_far)
            part = self._part(reply, text)
            if directive.big_event is not None and number == 0:
                part["thoughtSignature"] = "x" * directive.big_event
            yield Event(self._event([_candidate(index, [part])], usage, is_first=is_first), tokens)
            is_first = False

    def ending(self, replies: list[Reply], usage_object: dict[str, Any] | None, directive: Directive) -> list[bytes]:
        end = [b"\n]\n"] if self.as_array else []
        if directive.no_done:
            return end
        candidates = [_candidate(index, [{"text": ""}], reply) for index, reply in enumerate(self.said)]
        is_first = not any(reply.pieces for reply in replies)
        return [self._event(candidates, usage_object, is_first=is_first), *end]

    def _pieces(self) -> Iterator[tuple[int, Reply, str, int]]:
        """What each event has: candidate, reply, text, tokens. Candidates take turns; a call comes whole."""
        for reply in self.thoughts:
            for piece in reply.pieces:
                yield 0, reply, piece.text, piece.tokens
        turns = [
            [Piece(reply.text, reply.tokens)] if reply.kind == "tool" else list(reply.pieces) for reply in self.said
        ]
        for pieces in zip_longest(*turns):
            for index, piece in enumerate(pieces):
                if piece is not None:
                    yield index, self.said[index], piece.text, piece.tokens

    def _event(self, candidates: list[dict[str, Any]], usage: dict[str, Any] | None, *, is_first: bool) -> bytes:
        answer = msgspec.json.encode(self._answer(candidates, usage))
        if not self.as_array:
            return b"data: %b\r\n\r\n" % answer
        return (b"[" if is_first else b",\r\n") + msgspec.json.format(answer, indent=2)

    def _part(self, reply: Reply, text: str) -> dict[str, Any]:
        signed = {"thoughtSignature": _SIGNATURE} if reply.kind == "tool" and self.model.startswith(_SIGNING) else {}
        return {**_part(reply, text), **signed}

    def _answer(self, candidates: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        told = {} if usage is None else {"usageMetadata": usage}
        return {"candidates": candidates, **told, "modelVersion": self.model, "responseId": self.id}


def _candidate(index: int, parts: list[dict[str, Any]], ended: Reply | None = None) -> dict[str, Any]:
    reason = {}
    if ended is not None:
        reason = {"finishReason": "SAFETY" if ended.kind == "refusal" else _FINISH_REASONS[ended.finish_reason]}
    return {"content": {"parts": parts, "role": "model"}, **reason, "index": index}


def _part(reply: Reply, text: str) -> dict[str, Any]:
    match reply.kind:
        case "tool":
            # A maximum may have cut its JSON.
            args = msgspec.json.decode(text) if reply.finish_reason == "tool_calls" else {}
            return {"functionCall": {"name": reply.tool, "args": args}}
        case "thinking":
            return {"text": text, "thought": True}
        case _:
            return {"text": text}


def _said(model: str, body: dict[str, Any], directive: Directive, index: int, limit: int | None) -> Reply:
    config, encoding = body.get("generationConfig") or {}, encoding_of(model)
    tool, schema = _wanted_tool(body, directive), config.get("responseSchema")
    try:
        if tool is not None:
            parameters = tool.get("parametersJsonSchema") or _as_json_schema(
                tool.get("parameters") or {"type": "OBJECT"}
            )
            return call_tool(encoding, {"function": {"name": tool["name"], "parameters": parameters}}, limit)
        if config.get("responseMimeType") == "application/json":
            given = config.get("responseJsonSchema") or (schema and _as_json_schema(schema))
            form = {"type": "json_schema", "json_schema": {"schema": given}} if given else {"type": "json_object"}
            return answer_in_json(encoding, form, directive, limit)
    except Unfit as unfit:
        raise wrong(f"The schema has no value that fits: {unfit}") from unfit
    return say(directive, index, limit)


def _wanted_tool(body: dict[str, Any], directive: Directive) -> dict[str, Any] | None:
    tools: list[dict[str, Any]] = [
        declared for tool in body.get("tools") or [] for declared in tool.get("functionDeclarations") or []
    ]
    config = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    mode, names = config.get("mode", "AUTO"), config.get("allowedFunctionNames")
    tools = [tool for tool in tools if not names or tool["name"] in names]
    wanted = mode == "ANY" or (directive.tool and mode != "NONE")
    return tools[0] if tools and wanted else None


def _as_json_schema(schema: Any) -> Any:
    """A schema of Google's, whose types are in capitals, as a JSON Schema."""
    if isinstance(schema, list):
        return [_as_json_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {key: _as_json_schema(value) for key, value in schema.items() if key not in ("nullable", "enum")}
    if "enum" in schema:
        converted["enum"] = schema["enum"]
    if isinstance(schema.get("type"), str):
        converted["type"] = schema["type"].lower()
    return converted


def _bill(exchange: Exchange, model: str, prompt_tokens: int, *, stream: bool) -> Billed:
    request_id = exchange.headers.get("x-request-id", "")
    return Billed(request_id, model, prompt_tokens, 0, "running", stream=stream, path=exchange.path)


def _prompt_tokens(model: str, body: dict[str, Any]) -> int:
    instruction = body.get("systemInstruction")
    return 3 + _texts_tokens(encoding_of(model), [*body["contents"], *([instruction] if instruction else [])])


def _texts_tokens(encoding: Encoding, contents: list[Any]) -> int:
    return sum(encoding.count(text) for text in texts(contents))


_METHODS = frozenset(("generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents"))
