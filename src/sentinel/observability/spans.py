"""What the spans of a request say, once it has ended: one of ours, and one for each request to a provider.

Names of the conventions for HTTP (1.44) and for GenAI (November 2026: `gen_ai.client.inference`), else `sentinel.*`.
Nothing is told that the log line has not, and all as it has it: no prompt, no token, no key, no e-mail address (P4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sentinel.proxy.logging import RequestContext, RequestLine, log_word
from sentinel.proxy.trace import SentRequest, Trace

Value = str | int | float | bool | tuple[str, ...]

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
_OTHER = "_OTHER"

CHAT, TEXT, EMBEDDINGS, CONTENT = "chat", "text_completion", "embeddings", "generate_content"
COUNT, MODERATION = "count_tokens", "moderation"
_OPERATIONS = {
    "/v1/chat/completions": CHAT,
    "/native/v1/chat/completions": CHAT,
    "/v1/responses": CHAT,
    "/v1/responses/compact": CHAT,
    "/v1/messages": CHAT,
    "/v1/realtime": CHAT,
    "/v1/completions": TEXT,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/images/generations": CONTENT,
    "/v1/images/edits": CONTENT,
    "/v1/images/variations": CONTENT,
    "/v1/audio/speech": CONTENT,
    "/v1/audio/transcriptions": CONTENT,
    "/v1/audio/translations": CONTENT,
    "/v1/responses/input_tokens": COUNT,
    "/v1/messages/count_tokens": COUNT,
    "/v1/moderations": MODERATION,
}
_OPERATIONS_OF_GEMINI = {
    "generateContent": CONTENT,
    "streamGenerateContent": CONTENT,
    "embedContent": EMBEDDINGS,
    "batchEmbedContents": EMBEDDINGS,
    "countTokens": COUNT,
}


class FinishedSpan(NamedTuple):
    """A span. began, ended: monotonic seconds. error: of which type, None where there is none."""

    name: str
    span_id: int
    parent_id: int
    is_ours: bool
    began: float
    ended: float
    error: str | None
    attributes: Mapping[str, Value]


def operation_of(route: str | None) -> str | None:
    """What a request to this route does, as conventions name it; None for what is no work of a model."""
    if route is None:
        return None
    return _OPERATIONS.get(route) or _OPERATIONS_OF_GEMINI.get(route.rpartition(":")[2])


def spans_of(context: RequestContext, trace: Trace, now: float, *, old_names: bool) -> Iterator[FinishedSpan]:
    """The spans of a request that has ended, ours first. old_names: those of earlier conventions, too."""
    line = context.line(now, "")
    yield _ours(context, trace, line, now)
    sent = trace.sent or _over_a_socket(context, trace)
    for number, each in enumerate(sent):
        is_last = number == len(sent) - 1
        ended = min(now, _end_of_last(context, each) if is_last else each.ended or now)
        error = _error_at_provider(context, each, is_last=is_last)
        operation = operation_of(context.route)
        attributes = _told_of(each, number, line.method)
        if error is not None:
            attributes["error.type"] = error
        if operation is not None:
            attributes |= _genai(each, operation, context)
            if is_last:
                attributes |= _spent(context, each, line)
            if old_names:
                attributes |= _by_old_names(attributes)
        name = " ".join(filter(None, (operation or _method(line.method)[1], log_word(each.model))))
        yield FinishedSpan(name, each.span_id, trace.span_id, False, each.began, ended, error, attributes)


def _ours(context: RequestContext, trace: Trace, line: RequestLine, now: float) -> FinishedSpan:
    method, shown = _method(line.method)
    route, error = line.route, _error_here(context)
    told: dict[str, Value | None] = {
        "http.request.method": method,
        "http.route": route,
        "url.path": line.path or route,
        "url.scheme": "http",
        "http.response.status_code": line.status or None,
        "client.address": line.client,
        "user_agent.original": line.user_agent,
        "error.type": error,
        "user.id": line.user_id,
        "sentinel.request_id": line.request_id,
        "sentinel.outcome": line.outcome,
        "sentinel.error": line.error,
        "sentinel.provider": line.provider,
        "sentinel.model": line.model or None,
        "sentinel.tokens_from": line.tokens_from,
        "sentinel.cost_usd": line.cost_usd,
        "sentinel.overhead_ms": line.overhead_ms,
    }
    if line.tokens_from != "none":
        told |= {"sentinel.input_tokens": line.input_tokens, "sentinel.output_tokens": line.output_tokens}
    name = f"{shown} {route}" if route else shown
    return FinishedSpan(name, trace.span_id, trace.parent_id, True, context.started, now, error, _given(told))


def _method(method: str | None) -> tuple[str, str]:
    """A method as an attribute has it, and as a name of a span has it."""
    return (method, method) if method in _METHODS else (_OTHER, "HTTP")


def _given(told: Mapping[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in told.items() if value is not None}


def _error_here(context: RequestContext) -> str | None:
    """What has gone wrong on our side; a client's own mistake is none, nor is it that a client leaves."""
    if context.status >= 500:
        return context.error_code or str(context.status)
    failed = context.outcome in ("broken", "error", "shutdown")
    # An error that comes with status 200.
    if failed or (context.outcome == "upstream_error" and context.status < 400):
        return context.error_code or context.outcome
    return None


def _error_at_provider(context: RequestContext, sent: SentRequest, *, is_last: bool) -> str | None:
    if sent.error is not None:
        return sent.error
    if sent.status >= 400:
        return str(sent.status)
    if is_last and context.outcome in ("broken", "upstream_error"):
        return context.error_code or context.outcome
    return None


def _end_of_last(context: RequestContext, sent: SentRequest) -> float:
    """When the last request to a provider was over: its answer had come whole, or nobody waited for it any more."""
    return max(sent.began, sent.ended, context.forwarded + context.provider_seconds)


def _over_a_socket(context: RequestContext, trace: Trace) -> list[SentRequest]:
    """What was asked for in a realtime session, which no request of its own asks for."""
    if trace.over is None or not context.forwarded:
        return []
    over = trace.over
    return [SentRequest(trace.span_id ^ 1, over.place, over.provider, context.model, False, context.forwarded)]


def _told_of(sent: SentRequest, number: int, method: str | None) -> dict[str, Value]:
    """What every request to a provider tells."""
    return _given(
        {
            "http.request.method": _method(method)[0],
            "http.request.resend_count": number or None,
            "http.response.status_code": sent.status or None,
            "server.address": sent.place.address or None,
            "server.port": sent.place.port or None,
            "sentinel.provider": sent.provider,
            "sentinel.retry_after_seconds": sent.retry_after_seconds,
            "sentinel.translated": sent.is_translated or None,
        }
    )


def _genai(sent: SentRequest, operation: str, context: RequestContext) -> dict[str, Value]:
    return _given(
        {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": sent.place.system,
            "gen_ai.request.model": log_word(sent.model) or None,
            "gen_ai.request.stream": context.streamed or None,
        }
    )


def _spent(context: RequestContext, sent: SentRequest, line: RequestLine) -> dict[str, Value]:
    """What the answer was, and has cost. The input has what was cached of it; the output what was reasoning."""
    is_stream = context.streamed and context.first_byte >= sent.began
    told: dict[str, Value | None] = {
        "sentinel.upstream_request_id": line.upstream_request_id,
        "gen_ai.response.finish_reasons": (line.finish_reason,) if line.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": context.first_byte - sent.began if is_stream else None,
    }
    if line.tokens_from != "none":
        told |= {
            "gen_ai.usage.input_tokens": line.input_tokens,
            "gen_ai.usage.output_tokens": line.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": line.cached_tokens or None,
            "gen_ai.usage.reasoning.output_tokens": line.reasoning_tokens or None,
            "sentinel.cost_usd": line.cost_usd,
        }
    return _given(told)


_OLD_NAMES = {
    "gen_ai.provider.name": "gen_ai.system",
    "gen_ai.usage.input_tokens": "gen_ai.usage.prompt_tokens",
    "gen_ai.usage.output_tokens": "gen_ai.usage.completion_tokens",
}
"""What attributes were called until 1.36, and until 1.26 the last two."""


def _by_old_names(attributes: Mapping[str, Value]) -> dict[str, Value]:
    return {old: attributes[new] for new, old in _OLD_NAMES.items() if new in attributes}
