"""Google: Gemini's own format with a key in a header of its own, and a door for OpenAI's clients, strict on fields."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from sentinel.dev import gemini
from sentinel.dev.bodies import Envelope
from sentinel.dev.gemini_checks import Detailed, no_key, unknown
from sentinel.dev.validation import Refused, decode_body
from sentinel.dev.vendors.altered import Altered, with_usage, without
from sentinel.dev.vendors.vendor import LISTING, Vendor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentinel.dev.bodies import Event
    from sentinel.dev.directive import Directive
    from sentinel.dev.exchange import Exchange
    from sentinel.dev.generation import Job
    from sentinel.dev.reply import Reply
    from sentinel.dev.vendors.vendor import Headers

_DOOR = "/v1beta/openai/"
_BEHIND = frozenset(("/v1/chat/completions", "/v1/embeddings", LISTING))
_PREFIX = "models/"
_FIELDS = frozenset(
    (
        *("model", "messages", "stream", "stream_options", "temperature", "top_p", "n", "stop", "tools", "tool_choice"),
        *("max_tokens", "max_completion_tokens", "response_format", "reasoning_effort", "extra_body", "modalities"),
        *("input", "encoding_format", "dimensions", "presence_penalty", "frequency_penalty", "parallel_tool_calls"),
    )
)
"""What the door knows. Source: ai.google.dev/gemini-api/docs/openai; of `store`, that it does not: openhanako#394."""


class Gemini(Vendor):
    """Its own paths, and OpenAI's below /v1beta/openai."""

    name = "gemini"
    lines = 'type = "gemini"'
    base = ""
    model = "gemini-2.5-flash"
    models = frozenset(gemini.MODELS)

    def admit(self, exchange: Exchange, key: str) -> None:
        """See Vendor. Its own paths want the key in `x-goog-api-key` or `?key=`, the door in a Bearer token."""
        path = f"/v1/{exchange.path.removeprefix(_DOOR)}"
        if not exchange.path.startswith(_DOOR):
            given = parse_qs(exchange.query).get("key", [])
            if given:
                exchange.headers["x-goog-api-key"] = given[0]
            return  # gemini.py looks at the rest.
        scheme, _, given_key = exchange.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer":
            # Source: sipeed/picoclaw#2374.
            raise Refused(400, "Missing or invalid Authorization header.")
        if given_key != key:
            raise no_key()
        if path not in _BEHIND and not path.startswith(LISTING):
            raise Refused(404, "")
        exchange.path = path
        if exchange.method == "POST":
            body = decode_body(exchange.raw)
            for name in body.keys() - _FIELDS:
                raise unknown(name)
            model = str(body.get("model")).removeprefix(_PREFIX)
            if model not in self.models:
                raise Refused(404, f"models/{model} is not found for API version v1main, or is not supported.")
            exchange.raw = msgspec.json.encode({**body, "model": model})

    def listed(self, path: str) -> dict[str, Any]:
        """Names have a prefix, which requests need not have."""
        return super().listed(path.replace("/models/models/", "/models/"))

    def card(self, name: str) -> dict[str, Any]:
        """Source: ai.google.dev/gemini-api/docs/openai."""
        return {"id": f"{_PREFIX}{name}", "object": "model", "owned_by": "google", "display_name": name}

    def said(self, job: Job) -> Job:
        """See Vendor."""
        if isinstance(job.form, Envelope):
            job = replace(job, form=_Form(replace(job, form=replace(job.form, include_usage=False))))
        return replace(job, headers=partial(self.headers, _DOOR))

    def error_body(self, path: str, refused: Refused) -> bytes:
        """At the door it is in a list. Source: continuedev/continue#8516, bytedance/deer-flow#1515."""
        details = refused.details if isinstance(refused, Detailed) else []
        return _at(path, gemini.error_body(refused.status, str(refused), details))

    def trouble(self, path: str, status: int, retry_after: str | None) -> tuple[bytes, Headers]:
        """When to come again is told in the body alone. Source: googleapis/python-genai#1875."""
        return _at(path, gemini.status_body(status, retry_after)), self.headers(path)

    def headers(self, path: str) -> Headers:  # noqa: ARG002  They are the same everywhere.
        """Those of Google."""
        return gemini.headers()


def _at(path: str, error: bytes) -> bytes:
    return b"[%b\n]" % error if path.startswith(_DOOR) else error


class _Form(Altered):
    """Usage in each chunk, asked for or not. Source: ogx-ai/ogx#5122, discuss.ai.google.dev/t/92785."""

    def usage(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
        total = prompt_tokens + completion_tokens
        return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}

    def answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        for choice in answer["choices"]:
            choice["message"] = without(choice["message"], "refusal", "annotations")
            del choice["logprobs"]
        return without(answer, "service_tier", "system_fingerprint")

    def chunk(self, chunk: dict[str, Any]) -> dict[str, Any]:
        for choice in chunk["choices"]:
            choice["delta"] = without({"role": "assistant", **choice["delta"]}, "refusal")
            del choice["logprobs"]
        return without(chunk, "service_tier", "system_fingerprint", "obfuscation")

    def events(self, replies: list[Reply], directive: Directive) -> Iterator[Event]:
        for event in super().events(replies, directive):
            yield event if directive.no_usage else with_usage(event, self.usage_so_far(event.tokens))
