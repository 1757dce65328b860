"""vLLM: a server of one's own with one model, its context's length, and fields of its own.

Where no other source stands beside a habit it is the code: vllm-project/vllm, vllm/entrypoints/openai/.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from sentinel.dev.bodies import DONE, Envelope
from sentinel.dev.chat import CHAT, COMPLETIONS, RESPONSES
from sentinel.dev.faults import retry_headers
from sentinel.dev.messages import COUNT_PATH, PATH
from sentinel.dev.reply import chat_prompt_tokens, encoding_of
from sentinel.dev.validation import Refused, decode_body, trouble_of
from sentinel.dev.vendors.altered import Altered, as_event, with_usage, without
from sentinel.dev.vendors.vendor import LISTING, Vendor, dialect_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentinel.dev.bodies import Event
    from sentinel.dev.directive import Directive
    from sentinel.dev.exchange import Exchange
    from sentinel.dev.generation import Job
    from sentinel.dev.reply import Reply
    from sentinel.dev.vendors.vendor import Headers

_PATHS = frozenset((CHAT, COMPLETIONS, RESPONSES, PATH, COUNT_PATH, LISTING))
_ROLES = frozenset(("developer", "system", "user", "assistant", "tool"))
_TYPES = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
"""serving.py, `create_error_response`; of others it is the name of the status."""


class Vllm(Vendor):
    """context: the most tokens of prompt and answer together.

    is_old: errors without a shell and thoughts in `reasoning_content`, as versions of 2024 have them.
    """

    name = "vllm"
    lines = 'type = "compatible"\npreset = "vllm"'
    model = "openai/gpt-oss-120b"
    models = frozenset((model,))

    def __init__(self, context: int = 32_768, *, is_old: bool = False) -> None:
        self.context = context
        self.is_old = is_old

    def admit(self, exchange: Exchange, key: str) -> None:
        """See Vendor."""
        if exchange.headers.get("authorization") != f"Bearer {key}":
            raise _Unauthorized(401, "Unauthorized")
        if exchange.path not in _PATHS:
            raise Refused(404, "Not Found")
        if exchange.method == "POST":
            body = decode_body(exchange.raw)
            self._check(body)
            if body.get("max_completion_tokens") is not None:
                # It comes before the older name, which OpenAI refuses beside it.
                exchange.raw = msgspec.json.encode(without(body, "max_tokens"))

    def _check(self, body: dict[str, Any]) -> None:
        model = body.get("model")
        if isinstance(model, str) and model not in self.models:
            raise Refused(404, f"The model `{model}` does not exist.", param="model")
        messages = [each for each in body.get("messages") or () if isinstance(each, dict)]
        for message in messages:
            if message.get("role") not in _ROLES:
                # Source: vllm-project/vllm#53071.
                raise Refused(400, f"Unknown role: {message.get('role')}")
        prompt = chat_prompt_tokens(encoding_of(self.model), messages) if messages else 0
        most = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        if isinstance(most, int) and prompt + most > self.context:
            # Source: vllm-project/vllm#20409, ogx-ai/ogx#4534.
            raise Refused(
                400,
                f"This model's maximum context length is {self.context} tokens. However, you requested {prompt + most} "
                f"tokens ({prompt} in the messages, {most} in the completion). Please reduce the length of the "
                "messages or completion.",
            )

    def card(self, name: str) -> dict[str, Any]:
        """A model in the list."""
        served: dict[str, Any] = {
            "owned_by": "vllm",
            "root": name,
            "parent": None,
            "max_model_len": self.context,
            "permission": [],
        }
        return {"id": name, "object": "model", "created": 1_715_367_049, **served}

    def said(self, job: Job) -> Job:
        """See Vendor."""
        form = job.form
        if isinstance(form, Envelope) and form.chat:
            form = _Form(job, is_old=self.is_old)
        return replace(job, form=form, headers=list)

    def error_body(self, path: str, refused: Refused) -> bytes:
        """A number for its code. Without a key it is no more than a word."""
        if isinstance(refused, _Unauthorized):
            return b'{"error":"Unauthorized"}'
        if dialect_of(path) is not None:
            return super().error_body(path, refused)
        error = _error(refused)
        # Source of the older one: vllm-project/vllm#4667.
        return msgspec.json.encode({"object": "error", **error} if self.is_old else {"error": error})

    def trouble(self, path: str, status: int, retry_after: str | None) -> tuple[bytes, Headers]:
        """See Vendor."""
        refused = _Unauthorized(401, "") if status == 401 else trouble_of(status)
        return self.error_body(path, refused), retry_headers(retry_after)

    def headers(self, path: str) -> Headers:  # noqa: ARG002  It has none of its own.
        """None of its own."""
        return []


class _Unauthorized(Refused):
    """What the guard before the routes says (`AuthenticationMiddleware`)."""


def _error(refused: Refused) -> dict[str, Any]:
    kind = _TYPES.get(refused.status, HTTPStatus(refused.status).phrase)
    return {"message": str(refused), "type": kind, "param": refused.param, "code": refused.status}


class _Form(Altered):
    """protocol.py has its fields; chunks have those alone that have been set, and what was thought as deltas."""

    def __init__(self, job: Job, *, is_old: bool) -> None:
        super().__init__(job)
        self.thoughts = ("reasoning_content",) if is_old else ("reasoning",)
        self.tells_all_along = bool((job.asked.get("stream_options") or {}).get("continuous_usage_stats"))

    def usage(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
        total = prompt_tokens + completion_tokens
        told = {"prompt_tokens": prompt_tokens, "total_tokens": total, "completion_tokens": completion_tokens}
        return {**told, "prompt_tokens_details": None}

    def answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        for choice in answer["choices"]:
            choice |= {"stop_reason": None, "token_ids": None}
            choice["message"] = {self.thoughts[0]: None, "function_call": None, "audio": None, **choice["message"]}
        empty = dict.fromkeys(("service_tier", "system_fingerprint", "prompt_logprobs", "prompt_token_ids"))
        return {**answer, **empty, "kv_transfer_params": None}

    def chunk(self, chunk: dict[str, Any]) -> dict[str, Any]:
        for choice in chunk["choices"]:
            choice["delta"] = without(choice["delta"], "refusal")
            if choice["finish_reason"] is not None:
                choice["stop_reason"] = None
        unset = ("usage",) if chunk.get("usage") is None else ()
        return without(chunk, "service_tier", "system_fingerprint", "obfuscation", *unset)

    def events(self, replies: list[Reply], directive: Directive) -> Iterator[Event]:
        for event in super().events(replies, directive):
            yield with_usage(event, self.usage_so_far(event.tokens)) if self.tells_all_along else event

    def failure(self) -> bytes:
        return as_event({"error": _error(trouble_of(500))}) + DONE
