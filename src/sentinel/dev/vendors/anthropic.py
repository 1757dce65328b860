"""Anthropic: messages with a key in a header of their own, and a door for OpenAI's clients beside them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from sentinel.dev import messages
from sentinel.dev.bodies import Envelope
from sentinel.dev.chat import CHAT
from sentinel.dev.faults import retry_headers
from sentinel.dev.validation import Refused, decode_body
from sentinel.dev.vendors.altered import Altered, without
from sentinel.dev.vendors.vendor import CLAUDE, LISTING, Vendor

if TYPE_CHECKING:
    from sentinel.dev.exchange import Exchange
    from sentinel.dev.generation import Job
    from sentinel.dev.vendors.vendor import Headers

_IGNORED = (
    *("logprobs", "metadata", "response_format", "prediction", "presence_penalty", "frequency_penalty", "seed"),
    *("service_tier", "audio", "logit_bias", "store", "user", "modalities", "top_logprobs", "reasoning_effort"),
)


class Anthropic(Vendor):
    """Source of what the door for OpenAI's clients does: platform.claude.com/docs/en/api/openai-sdk."""

    name = "anthropic"
    lines = 'type = "anthropic"'
    base = ""
    model = CLAUDE[-1]
    models = frozenset(CLAUDE)

    def admit(self, exchange: Exchange, key: str) -> None:
        """See Vendor. The key is in `x-api-key`, or a Bearer token, as the door wants it."""
        headers, path = exchange.headers, exchange.path
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        given = bearer if path == CHAT else headers.get("x-api-key") or bearer
        if given != key:
            # Source of the words: emilsvennesson/opencode-websearch#15.
            raise Refused(401, "invalid x-api-key" if given else "x-api-key header is required")
        if path == CHAT:
            self._admit_chat(exchange)
        elif path.startswith(LISTING) and "anthropic-version" not in headers:
            raise Refused(400, "anthropic-version: header is required")
        elif not (messages.is_its(path) or path.startswith(LISTING)):
            raise Refused(404, "Not found")

    def _admit_chat(self, exchange: Exchange) -> None:
        body = decode_body(exchange.raw)
        model, temperature = body.get("model"), body.get("temperature")
        if isinstance(model, str) and model not in self.models:
            raise Refused(404, f"model: {model}")
        if body.get("n") not in (None, 1):
            raise Refused(400, "n: must be exactly 1")
        capped = {"temperature": min(temperature, 1)} if isinstance(temperature, int | float) else {}
        exchange.raw = msgspec.json.encode({**without(body, *_IGNORED), **capped})

    def listed(self, path: str) -> dict[str, Any]:
        """Source: platform.claude.com/docs/en/api/models-list."""
        if path != LISTING:
            return super().listed(path)
        names = sorted(self.models)
        cards = [self.card(name) for name in names]
        return {"data": cards, "has_more": False, "first_id": names[0], "last_id": names[-1]}

    def card(self, name: str) -> dict[str, Any]:
        """A model in the list."""
        return {"type": "model", "id": name, "display_name": name, "created_at": "2026-09-01T00:00:00Z"}

    def said(self, job: Job) -> Job:
        """See Vendor."""
        form = _Form(job) if isinstance(job.form, Envelope) else job.form
        return replace(job, form=form, headers=partial(self.headers, CHAT))

    def error_body(self, path: str, refused: Refused) -> bytes:
        """The door has OpenAI's fields, and its kind as a code. Source: anthropics/anthropic-sdk-typescript#711."""
        body = messages.error_body(refused.status, str(refused))
        if path != CHAT:
            return body
        error = msgspec.json.decode(body)["error"]
        told = {"code": error["type"], "message": error["message"], "param": None, "type": "invalid_request_error"}
        return msgspec.json.encode({"error": told})

    def trouble(self, path: str, status: int, retry_after: str | None) -> tuple[bytes, Headers]:
        """Source of 529: platform.claude.com/docs/en/api/errors."""
        message = "Overloaded" if status == 529 else "The simulator was told to refuse this request."
        return self.error_body(path, Refused(status, message)), [*self.headers(path), *retry_headers(retry_after)]

    def headers(self, path: str) -> Headers:
        """Those of its own, and the door's."""
        more = [("openai-version", "2020-10-01")] if path == CHAT else []
        return [*messages.headers(), *more]


class _Form(Altered):
    """What the door leaves empty, it leaves out."""

    def usage(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
        return without(super().usage(prompt_tokens, completion_tokens), *_DETAILS)

    def answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        for choice in answer["choices"]:
            choice["message"] = without(choice["message"], "refusal", "annotations")
            del choice["logprobs"]
        return without(answer, "service_tier", "system_fingerprint")

    def chunk(self, chunk: dict[str, Any]) -> dict[str, Any]:
        for choice in chunk["choices"]:
            choice["delta"] = without(choice["delta"], "refusal")
            del choice["logprobs"]
        return without(chunk, "service_tier", "system_fingerprint", "obfuscation")


_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
