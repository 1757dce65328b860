"""A stand-in for OpenAI: chat, completions, responses, embeddings and models, with a ledger of what it would bill.

Other formats of its are in media.py. And for vendors who speak Anthropic's messages (messages.py) and Gemini's format
(gemini.py) beside it.
"""

from __future__ import annotations

import secrets
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from sentinel.dev import embeddings, gemini, gemini_checks, media, messages, realtime, sockets
from sentinel.dev.bodies import Envelope
from sentinel.dev.clock import unix_seconds
from sentinel.dev.control import PREFIX as CONTROL_PREFIX
from sentinel.dev.control import control, set_faults
from sentinel.dev.directive import BadDirective, Directive, find_directive
from sentinel.dev.exchange import Call, Exchange
from sentinel.dev.faults import Faults, misbehave
from sentinel.dev.generation import Billed, Job, generate
from sentinel.dev.objects import ObjectStore
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
    check_common,
    check_completion,
    check_embedding,
    decode_body,
    status_body,
    unfit_schema,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Receive, Scope, Send

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
MODELS = "/v1/models"

_OF_ANTHROPIC = (messages.PATH, messages.COUNT_PATH)
_MAXIMA = ("max_completion_tokens", "max_tokens", "max_output_tokens")

DEFAULT_MODELS = (
    *("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "gpt-5", "gpt-5-mini", "o3", "o4-mini"),
    *("gpt-4-turbo", "gpt-4", "gpt-3.5-turbo", "gpt-3.5-turbo-instruct", "davinci-002"),
    *embeddings.DIMENSIONS,
    *("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"),
    *gemini.MODELS,
    *media.MODELS,
)

_BACKGROUND_SECONDS = 0.5
"""So long a response in the background takes, and as long as its directive has it wait."""
_MAX_CALLS = 20_000  # Enough for any test to look back; bodies of a benchmark must not fill the memory.
_MAX_RESPONSES = 1_000  # Remembered, for those that go on from them.
_MAX_BILLED = 1_000_000  # Far above the requests of a kill campaign.


class OpenAISimulator:
    """Speaks OpenAI's API; `app` is the ASGI app, `faults` hits all requests, a directive in a prompt hits that one."""

    def __init__(self, api_key: str = "sk-sim-openai-key", models: Iterable[str] = DEFAULT_MODELS) -> None:
        self.api_key = api_key
        self.models = frozenset(models)
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
        fault = self.faults.take(exchange.path)
        is_messages = exchange.path in _OF_ANTHROPIC
        is_gemini = gemini.is_its(exchange.path)
        error_body = messages.status_body if is_messages else gemini.status_body if is_gemini else status_body
        if fault is not None and await misbehave(exchange, fault, self.faults, error_body):
            return
        try:
            await (self._gemini(exchange) if is_gemini else self._route(exchange))
        except Refused as refused:
            if is_gemini:
                await exchange.answer(refused.status, gemini.error_body(refused.status, str(refused)), gemini.headers())
            elif is_messages:
                body = messages.error_body(refused.status, str(refused))
                await exchange.answer(refused.status, body, messages.headers())
            else:
                await exchange.answer(refused.status, refused.body, _headers())

    async def _route(self, exchange: Exchange) -> None:
        self._demand_api_key(exchange)
        path, method = exchange.path, exchange.method
        known = (
            "POST"
            if path in {CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, *_OF_ANTHROPIC, *media.PLANS}
            or path in realtime.SECRET_PATHS
            else "GET"
            if path == MODELS or path.startswith(f"{MODELS}/")
            else ""
        )
        segments = self.objects.place_of(path)
        if segments is not None and method != known:
            await self.objects.answer(exchange, segments, _headers())
            return
        if not known:
            raise Refused(404, f"Invalid URL ({method} {path})")
        if method != known:
            raise Refused(405, f"Not allowed to {method} on {path}.", code="method_not_supported")
        if known == "GET":
            await exchange.answer_json(200, self._models(path), _headers())
        elif path == EMBEDDINGS:
            await self._embed(exchange)
        elif path in realtime.SECRET_PATHS:
            await exchange.answer_json(200, self.secrets.make(path, decode_body(exchange.raw or b"{}")), _headers())
        elif path == messages.COUNT_PATH:
            await exchange.answer_json(200, messages.counted(exchange, self.models), messages.headers())
        elif path == messages.PATH:
            await self._message(exchange)
        elif path in media.PLANS:
            await media.serve(exchange, self.models, self.billed.append, _headers)
        else:
            await self.complete(exchange)

    def _demand_api_key(self, exchange: Exchange) -> None:
        # Anthropic is shown it in a header of its own; who speaks its format beside OpenAI's takes it as a bearer's.
        if exchange.path in _OF_ANTHROPIC and exchange.headers.get("x-api-key") == self.api_key:
            return
        self.demand_api_key(exchange.headers)

    def demand_api_key(self, headers: dict[str, str]) -> None:
        """Raises Refused where the headers of a request do not have our key."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Refused(401, "You didn't provide an API key in an Authorization header using Bearer auth.")
        if key != self.api_key:
            masked = f"{key[:8]}{'*' * 8}{key[-4:]}"
            message = (
                f"Incorrect API key provided: {masked}. Find yours at https://platform.openai.com/account/api-keys."
            )
            raise Refused(401, message, code="invalid_api_key")

    def _models(self, path: str) -> dict[str, Any]:
        if path == MODELS:
            return {"object": "list", "data": [_model(name) for name in sorted(self.models)]}
        name = path.removeprefix(f"{MODELS}/")
        if name not in self.models:
            raise Refused(404, f"The model '{name}' does not exist", param="model", code="model_not_found")
        return _model(name)

    async def complete(self, exchange: Exchange, kept: dict[str, list[dict[str, Any]]] | None = None) -> None:
        """Answer a request that generates text. kept: what responses that are not stored said, where that is known."""
        body = decode_body(exchange.raw)
        check_common(body, self.models)
        directive = _directive(body, exchange.path)
        if directive.status is not None:
            retry_after = [] if directive.retry_after is None else [("retry-after", directive.retry_after)]
            await exchange.answer(directive.status, status_body(directive.status), [*_headers(), *retry_after])
            return
        earlier = self._earlier(body, kept or {}) if exchange.path == RESPONSES else []
        job = _job(exchange, body, directive, earlier)
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
            await exchange.answer_json(200, self.objects.keep_in_background(whole, seconds), _headers())
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
        if directive.status is not None:
            retry_after = [] if directive.retry_after is None else [("retry-after", directive.retry_after)]
            answer = messages.status_body(directive.status)
            await exchange.answer(directive.status, answer, [*messages.headers(), *retry_after])
            return
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
        if directive.status is not None:
            retry_after = [] if directive.retry_after is None else [("retry-after", directive.retry_after)]
            answer = gemini.status_body(directive.status)
            await exchange.answer(directive.status, answer, [*gemini.headers(), *retry_after])
        elif method == "countTokens":
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
        directive = _directive(body, exchange.path)
        if directive.status is not None:
            await exchange.answer(directive.status, status_body(directive.status), _headers())
            return
        counted = prompts_tokens(encoding_of(body["model"]), body["input"])
        tokens = counted if directive.usage_prompt is None else directive.usage_prompt
        request_id = exchange.headers.get("x-request-id", "")
        bill = Billed(request_id, body["model"], tokens, 0, "running", stream=False, path=exchange.path)
        self.billed.append(bill)
        answer = embeddings.answer(body, None if directive.no_usage else tokens)
        bill.state = "complete"
        await exchange.answer_json(200, answer, _headers())

    def _control_actions(self) -> dict[tuple[str, str], Any]:
        return {
            ("GET", "/_sim/faults"): lambda _: self.faults.as_json(),
            ("POST", "/_sim/faults"): lambda body: set_faults(self.faults, body),
            ("GET", "/_sim/calls"): lambda _: [call.as_json() for call in list(self.calls)],
            ("GET", "/_sim/billed"): lambda _: list(self.billed),
        }


def _directive(body: dict[str, Any], path: str) -> Directive:
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


def _job(exchange: Exchange, body: dict[str, Any], directive: Directive, earlier: list[dict[str, Any]]) -> Job:
    """earlier: the messages that a response goes on from."""
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
        return Job(response, replies, directive, bill, _headers, goes_on=goes_on)
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
    return Job(envelope, _replies(body, directive, encoding, left), directive, bill, _headers)


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


def _said(reply: Reply) -> dict[str, Any]:
    return {"role": "assistant", "content": reply.tool + reply.text}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_715_367_049, "owned_by": "system"}


def _headers() -> list[tuple[str, str]]:
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
