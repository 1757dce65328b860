"""OpenRouter: models of many vendors, comments in streams, what an answer has cost, and errors of those behind it."""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from sentinel.dev.bodies import Envelope, Event
from sentinel.dev.chat import CHAT
from sentinel.dev.clock import unix_seconds
from sentinel.dev.faults import retry_headers
from sentinel.dev.validation import Refused, decode_body, trouble_of
from sentinel.dev.vendors.altered import Altered, as_event, without
from sentinel.dev.vendors.vendor import LISTING, Vendor, dialect_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentinel.dev.directive import Directive
    from sentinel.dev.exchange import Exchange
    from sentinel.dev.generation import Job
    from sentinel.dev.reply import Reply
    from sentinel.dev.vendors.vendor import Headers

_API = "/api"
_USER = "user_simulator"
_MAXIMA = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_DEFAULT_MAXIMUM = 65_536
"""What a request asks for that names no maximum. Source: can1357/oh-my-pi#9569."""
_USD_PER_TOKEN = (15e-8, 60e-8)
_PROVIDER = "OpenAI"


class OpenRouter(Vendor):
    """credits: the most output tokens that are still paid for, None for any."""

    name = "openrouter"
    lines = 'type = "compatible"\npreset = "openrouter"'
    base = "/api/v1"
    model = "openai/gpt-4o-mini"
    models = frozenset(("openai/gpt-4o-mini", "openai/gpt-4o", "anthropic/claude-haiku-5-5", "google/gemini-2.5-flash"))

    def __init__(self, credits: int | None = None) -> None:  # noqa: A002  The vendor's word.
        self.credits = credits

    def admit(self, exchange: Exchange, key: str) -> None:
        """See Vendor. The list of models is there for everybody (docs.rs/synaps, `fetch_openrouter_catalog_models`)."""
        path = exchange.path.removeprefix(_API)
        if path == exchange.path:
            raise Refused(404, "Not Found")
        exchange.path = path
        if exchange.method == "GET" and path.startswith(LISTING):
            return
        given = exchange.headers.get("authorization", "")
        if given != f"Bearer {key}":
            # Source: musistudio/claude-code-router#227, apurvsinghgautam/robin#103.
            raise Refused(401, "User not found." if given else "No auth credentials found")
        if exchange.method == "POST":
            body = decode_body(exchange.raw)
            self._check(body)
            if path == CHAT and body.get("stream"):
                # Usage always comes. Source: openrouter.ai/docs/cookbook/administration/usage-accounting.
                exchange.raw = msgspec.json.encode({**body, "stream_options": {"include_usage": True}})

    def _check(self, body: dict[str, Any]) -> None:
        model = body.get("model")
        if isinstance(model, str) and model not in self.models:
            # Source: OpenRouterTeam/openrouter-examples#74.
            raise Refused(400, f"{model} is not a valid model ID")
        asked = next((body[name] for name in _MAXIMA if isinstance(body.get(name), int)), _DEFAULT_MAXIMUM)
        if self.credits is not None and asked > self.credits:
            raise _unpaid(asked, self.credits)

    def listed(self, path: str) -> dict[str, Any]:
        """Source: openrouter.ai/docs/api-reference/list-available-models. Nothing says that it is a list."""
        if path == LISTING:
            return {"data": [self.card(name) for name in sorted(self.models)]}
        return {"data": super().listed(path)}

    def card(self, name: str) -> dict[str, Any]:
        """A model in the list."""
        prompt, completion = (f"{price:.8f}" for price in _USD_PER_TOKEN)
        pricing = {"prompt": prompt, "completion": completion, "request": "0", "image": "0"}
        return {"id": name, "name": name, "created": 1_715_367_049, "context_length": 128_000, "pricing": pricing}

    def said(self, job: Job) -> Job:
        """See Vendor."""
        headers = partial(self.headers, LISTING)
        if not isinstance(job.form, Envelope) or not job.form.chat:
            return replace(job, headers=headers)
        envelope = replace(job.form, id=f"gen-{int(unix_seconds())}-{secrets.token_hex(10)}")
        return replace(job, form=_Form(replace(job, form=envelope)), headers=headers)

    def error_body(self, path: str, refused: Refused) -> bytes:
        """A number for its code, and whose it is. Source: openrouter.ai/docs/api/reference/errors-and-debugging."""
        if dialect_of(path) is not None:
            return super().error_body(path, refused)
        metadata = {"metadata": refused.metadata} if isinstance(refused, _Detailed) else {}
        error = {"message": str(refused), "code": refused.status, **metadata}
        return msgspec.json.encode({"error": error, "user_id": _USER})

    def trouble(self, path: str, status: int, retry_after: str | None) -> tuple[bytes, Headers]:
        """What those behind it say is told as theirs. Source: open-webui/computer#293; a 401 is about our own key."""
        limited = "openai/gpt-4o-mini is temporarily rate-limited upstream. Please retry shortly."
        metadata = {"raw": limited if status == 429 else "ERROR", "provider_name": _PROVIDER}
        refused: Refused = _Detailed(status, "Provider returned error", metadata)
        if status == 402:
            refused = _unpaid(_DEFAULT_MAXIMUM, 0)
        elif status in (400, 401, 403, 404):
            refused = Refused(status, "User not found." if status == 401 else str(trouble_of(status)))
        return self.error_body(path, refused), [*self.headers(path), *retry_headers(retry_after)]

    def headers(self, path: str) -> Headers:
        """Source: openrouter.ai/docs/api/reference/streaming (X-Generation-Id)."""
        if dialect_of(path) is not None:
            return super().headers(path)
        ray = secrets.token_hex(8)
        return [("x-generation-id", f"gen-{ray}"), ("cf-ray", f"{ray}-SIM"), ("server", "cloudflare")]


class _Detailed(Refused):
    """An error with details in `metadata`."""

    def __init__(self, status: int, message: str, metadata: dict[str, Any]) -> None:
        super().__init__(status, message)
        self.metadata = metadata


def _unpaid(asked: int, afforded: int) -> Refused:
    """Source: Gitlawb/openclaude#1125."""
    message = (
        f"This request requires more credits, or fewer max_tokens. You requested up to {asked} tokens, but can only "
        f"afford {afforded}. To increase, visit https://openrouter.ai/settings/credits and upgrade to a paid account"
    )
    return _Detailed(402, message, {"provider_name": None})


class _Form(Altered):
    """Who answered, why that ended in their words, what it cost, and comments while nobody says anything.

    Source: a recorded stream in openrouter.ai/docs/api/reference/streaming's format (charmbracelet/fantasy,
    providertests/testdata/TestOpenRouterCommon), and openrouter.ai/docs/cookbook/administration/usage-accounting.
    """

    thoughts = ("reasoning",)

    def usage(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
        usage = super().usage(prompt_tokens, completion_tokens)
        cost = prompt_tokens * _USD_PER_TOKEN[0] + completion_tokens * _USD_PER_TOKEN[1]
        return {**usage, "cost": cost, "is_byok": False, "cost_details": {"upstream_inference_cost": None}}

    def answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        return self._told(answer)

    def chunk(self, chunk: dict[str, Any]) -> dict[str, Any]:
        chunk = self._told(without(chunk, "obfuscation", *(("usage",) if chunk.get("usage") is None else ())))
        for choice in chunk["choices"]:
            choice["delta"] = {"role": "assistant", "content": "", **without(choice["delta"], "refusal")}
        # Usage comes with a choice that says nothing.
        return chunk if chunk["choices"] else {**chunk, "choices": [_choice(None)]}

    def events(self, replies: list[Reply], directive: Directive) -> Iterator[Event]:
        yield Event(b": OPENROUTER PROCESSING\n\n")
        yield from super().events(replies, directive)

    def failure(self) -> bytes:
        """Source: openrouter.ai/docs/api/reference/errors-and-debugging, diegosouzapw/OmniRoute#8210."""
        assert isinstance(self.form, Envelope)
        error = {
            "code": 502,
            "message": "Provider disconnected unexpectedly",
            "metadata": {"error_type": "provider_unavailable"},
        }
        head = {"id": self.form.id, "object": "chat.completion.chunk", "created": self.form.created}
        ended = {"provider": _PROVIDER, "error": error, "choices": [_choice("error")]}
        return as_event({**head, "model": self.form.model, **ended})

    def _told(self, said: dict[str, Any]) -> dict[str, Any]:
        choices = [{**choice, "native_finish_reason": choice["finish_reason"]} for choice in said["choices"]]
        return {**without(said, "service_tier"), "provider": _PROVIDER, "choices": choices}


def _choice(finish_reason: str | None) -> dict[str, Any]:
    ended = {"finish_reason": finish_reason, "native_finish_reason": finish_reason}
    return {"index": 0, "delta": {"role": "assistant", "content": ""}, **ended, "logprobs": None}
