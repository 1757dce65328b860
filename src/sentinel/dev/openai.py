"""A stand-in for a provider of OpenAI's API, in the habits of one vendor, with a ledger of what it would bill.

What is said is made in chat.py, messages.py (Anthropic's), gemini.py and media.py; what differs between vendors is in
vendors/.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from sentinel.dev import chat, embeddings, gemini, gemini_checks, media, messages, realtime, sockets
from sentinel.dev.chat import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES
from sentinel.dev.control import PREFIX as CONTROL_PREFIX
from sentinel.dev.control import control, set_faults
from sentinel.dev.directive import Ordered
from sentinel.dev.exchange import Call, Exchange
from sentinel.dev.faults import Faults, misbehave
from sentinel.dev.generation import Billed, Job, generate
from sentinel.dev.objects import ObjectStore
from sentinel.dev.reply import Reply, encoding_of, prompts_tokens
from sentinel.dev.responses import ResponseEnvelope, messages_of
from sentinel.dev.validation import Refused, check_common, decode_body
from sentinel.dev.vendors.vendor import LISTING, Vendor, demand_bearer

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_BACKGROUND_SECONDS = 0.5
"""So long a response in the background takes, and as long as its directive has it wait."""
_MAX_CALLS = 20_000  # Enough for any test to look back; bodies of a benchmark must not fill the memory.
_MAX_RESPONSES = 1_000  # Remembered, for those that go on from them.
_MAX_BILLED = 1_000_000  # Far above the requests of a kill campaign.


class OpenAISimulator:
    """Speaks OpenAI's API; `app` is the ASGI app, `faults` hits all requests, a directive in a prompt hits that one.

    vendor: whose habits it has; none has OpenAI's, and speaks Anthropic's and Gemini's formats besides.
    """

    def __init__(self, api_key: str = "sk-sim-openai-key", vendor: Vendor | None = None) -> None:
        self.api_key = api_key
        self.vendor = vendor or Vendor()
        self.models = self.vendor.models
        self.faults = Faults()
        self.calls: deque[Call] = deque(maxlen=_MAX_CALLS)
        self.billed: deque[Billed] = deque(maxlen=_MAX_BILLED)
        self.app = self.__call__
        self.secrets = realtime.Secrets()
        self._responses: dict[str, list[dict[str, Any]]] = {}
        self.objects = ObjectStore(self.billed.append)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        if scope["type"] == "websocket":
            await sockets.serve(self, scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        if not await exchange.read():
            return
        if exchange.path.startswith(CONTROL_PREFIX):
            await control(exchange, self._control_actions())
            return
        self.calls.append(exchange.record())
        path, vendor = exchange.path, self.vendor
        fault = self.faults.take(path)
        if fault is not None and await misbehave(exchange, fault, self.faults, partial(vendor.trouble, path)):
            return
        try:
            vendor.admit(exchange, self.api_key)
            await (self._gemini(exchange) if gemini.is_its(exchange.path) else self._route(exchange))
        except Refused as refused:
            await exchange.answer(refused.status, vendor.error_body(path, refused), vendor.headers(path))
        except Ordered as ordered:
            await exchange.answer(ordered.status, *vendor.trouble(path, ordered.status, ordered.retry_after))

    async def _route(self, exchange: Exchange) -> None:
        path, method = exchange.path, exchange.method
        headers = partial(self.vendor.headers, path)
        known = (
            "POST"
            if path in {CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, messages.PATH, messages.COUNT_PATH, *media.PLANS}
            or path in realtime.SECRET_PATHS
            else "GET"
            if path == LISTING or path.startswith(f"{LISTING}/")
            else ""
        )
        segments = self.objects.place_of(path)
        if segments is not None and method != known:
            await self.objects.answer(exchange, segments, headers())
            return
        if not known:
            raise Refused(404, f"Invalid URL ({method} {path})")
        if method != known:
            raise Refused(405, f"Not allowed to {method} on {path}.", code="method_not_supported")
        if known == "GET":
            await exchange.answer_json(200, self.vendor.listed(path), headers())
        elif path == EMBEDDINGS:
            await self._embed(exchange)
        elif path in realtime.SECRET_PATHS:
            await exchange.answer_json(200, self.secrets.make(path, decode_body(exchange.raw or b"{}")), headers())
        elif path == messages.COUNT_PATH:
            await exchange.answer_json(200, messages.counted(exchange, self.models), headers())
        elif path == messages.PATH:
            await self._message(exchange)
        elif path in media.PLANS:
            await media.serve(exchange, self.models, self.billed.append, headers)
        else:
            await self.complete(exchange)

    def demand_api_key(self, headers: dict[str, str]) -> None:
        """Raises Refused where the headers of a request do not have our key."""
        demand_bearer(headers, self.api_key)

    async def complete(self, exchange: Exchange, kept: dict[str, list[dict[str, Any]]] | None = None) -> None:
        """Answer a request that generates text. Raises Refused, Ordered.

        kept: what responses that are not stored said, where that is known.
        """
        body = decode_body(exchange.raw)
        check_common(body, self.models)
        directive = chat.directive_of(body, exchange.path)
        directive.check_status()
        earlier = self._earlier(body, kept or {}) if exchange.path == RESPONSES else []
        job = self.vendor.said(chat.job(exchange, body, directive, earlier))
        whole = self._keep(job, body)
        keeps = kept if body.get("store") is False else self._responses
        if isinstance(job.form, ResponseEnvelope) and keeps is not None:
            keeps[job.form.id] = [*earlier, *messages_of(body), _said(job.replies[0])]
            if len(keeps) > _MAX_RESPONSES:
                del keeps[next(iter(keeps))]
        self.billed.append(job.bill)
        if whole is not None and body.get("background") and not body.get("stream"):
            job.usage()
            job.bill.state = "complete"
            seconds = _BACKGROUND_SECONDS + directive.delay * len(job.replies[0].pieces)
            await exchange.answer_json(200, self.objects.keep_in_background(whole, seconds), job.headers())
            return
        await generate(exchange, job)

    def _keep(self, job: Job, body: dict[str, Any]) -> dict[str, Any] | None:
        """Keep what OpenAI keeps: a response unless it was told not to, a chat completion if it was told to."""
        is_response, store = isinstance(job.form, ResponseEnvelope), body.get("store")
        if store is False or not (is_response or store is True):
            return None
        usage = job.form.usage(job.bill.prompt_tokens, sum(reply.tokens for reply in job.replies))
        whole: dict[str, Any] = msgspec.json.decode(job.form.whole(job.replies, usage))
        self.objects.keep("responses" if is_response else "chat/completions", whole)
        for number, item in enumerate(messages_of(body) if is_response else ()):
            kept = {"id": f"msg_{number}{whole['id'][5:]}", "type": "message", **item}
            self.objects.keep(f"responses/input_items {whole['id']}", kept)
        return whole

    async def _message(self, exchange: Exchange) -> None:
        body, directive = messages.read(exchange, self.models)
        directive.check_status()
        job = messages.job(exchange, body, directive)
        self.billed.append(job.bill)
        await generate(exchange, job)

    async def _gemini(self, exchange: Exchange) -> None:
        """Answer a request to one of Gemini's own paths. Raises Refused."""
        model, method = gemini.asked(exchange, self.api_key, self.models)
        with gemini_checks.refusing_odd_values():
            await self._generate(exchange, model, method)

    async def _generate(self, exchange: Exchange, model: str, method: str) -> None:
        body, directive = gemini_checks.read(exchange.raw, method)
        directive.check_status()
        if method == "countTokens":
            await exchange.answer_json(200, gemini.counted(model, body), gemini.headers())
        elif "mbed" in method:
            bill = gemini.embedding_bill(exchange, model, body, directive)
            self.billed.append(bill)
            bill.state = "complete"
            told = None if directive.no_usage else bill.prompt_tokens
            await exchange.answer_json(200, gemini.vectors(model, body, told), gemini.headers())
        else:
            job = gemini.job(exchange, model, method, body, directive)
            self.billed.append(job.bill)
            await generate(exchange, job)

    def _earlier(self, body: dict[str, Any], kept: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """What was said before, in the response that this one goes on from. Raises Refused."""
        name = body.get("previous_response_id")
        if name is not None and name not in kept and name not in self._responses:
            message = f"Previous response with id '{name}' not found."
            raise Refused(400, message, param="previous_response_id", code="previous_response_not_found")
        return [] if name is None else kept[name] if name in kept else self._responses[name]

    async def _embed(self, exchange: Exchange) -> None:
        body = decode_body(exchange.raw)
        check_common(body, self.models)
        directive = chat.directive_of(body, exchange.path)
        directive.check_status()
        counted = prompts_tokens(encoding_of(body["model"]), body["input"])
        tokens = counted if directive.usage_prompt is None else directive.usage_prompt
        request_id = exchange.headers.get("x-request-id", "")
        bill = Billed(request_id, body["model"], tokens, 0, "running", stream=False, path=exchange.path)
        self.billed.append(bill)
        answer = embeddings.answer(body, None if directive.no_usage else tokens)
        bill.state = "complete"
        await exchange.answer_json(200, answer, self.vendor.headers(exchange.path))

    def _control_actions(self) -> dict[tuple[str, str], Any]:
        return {
            ("GET", "/_sim/faults"): lambda _: self.faults.as_json(),
            ("POST", "/_sim/faults"): lambda body: set_faults(self.faults, body),
            ("GET", "/_sim/calls"): lambda _: [call.as_json() for call in list(self.calls)],
            ("GET", "/_sim/billed"): lambda _: list(self.billed),
        }


def _said(reply: Reply) -> dict[str, Any]:
    return {"role": "assistant", "content": reply.tool + reply.text}
