"""One request, from its first byte to its usage record.

    identify -> parse -> count -> reserve -> forward -> relay -> settle

Read `Exchange.run` first; the phases follow below it in this order. Settle always runs: after success, refusal
upstream, a broken stream, a client that left, and at shutdown.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog

from sentinel.cache.subscription import SubscriptionCache
from sentinel.clock import monotonic
from sentinel.error import (
    AppError,
    InternalError,
    RequestTimeout,
    RequestTooLarge,
    ServiceUnavailable,
    UpstreamError,
    body_of,
    event_of,
    headers_of,
)
from sentinel.limits.output_estimator import OutputEstimator
from sentinel.limits.policy import Ask, Triple, Verdict
from sentinel.memory_budget import SMALL_BYTES, Claim, MemoryBudget
from sentinel.middleware import auth, rate_limiter
from sentinel.middleware.lease_keeper import Held, LeaseKeeper
from sentinel.proxy import headers as passing
from sentinel.proxy import late
from sentinel.proxy.additions import Additions
from sentinel.proxy.body import (
    Body,
    Changes,
    asks_usage,
    changed,
    choices_of,
    client_max,
    codings_of,
    decoded,
    forget_prompt,
    read_chat,
    read_completion,
)
from sentinel.proxy.client import ClientGone, ClientSide
from sentinel.proxy.keepalive import StreamKeepAlive, Watched
from sentinel.proxy.logging import RequestContext
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.provider import AiProvider, ProviderAnswer, ProviderRequest, ProviderStream
from sentinel.proxy.relay import (
    ABANDONED_SECONDS,
    LARGE_EVENT_BYTES,
    LAST_USAGE_SECONDS,
    MOST_DRAINS,
    SHUTDOWN_USAGE_SECONDS,
    UNSEEN_TOKENS_PER_SECOND,
    Drains,
    Relay,
)
from sentinel.tasks import Tasks
from sentinel.tokens.answer import read_answer
from sentinel.tokens.counter import TokenCounter, is_large
from sentinel.tokens.loose import Reading
from sentinel.tokens.output import COMPLETION_DEFAULT_TOKENS, hides_output, is_known, output_ceiling
from sentinel.tokens.request import ChatRequest, CompletionRequest
from sentinel.tokens.usage import NOTHING, Usage
from sentinel.usage.tracker import BatchingUsageTracker
from sentinel.zion.models import AuthenticatedUser

log = structlog.get_logger()
T = TypeVar("T")

_LARGE_AT_ONCE = 4
"""Bodies of over a megabyte that are read and counted: each is in memory twice meanwhile, or more often."""
_LEAST_DECODED_BYTES, _USUALLY_DECODED = 64 * 1024, 8
"""So many bytes, and times as many as came, text has for the most part once it is decoded."""

_WHOLE = re.compile(rb"^content-type: *(application/json|text/html)\b", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Kind:
    """What differs between the routes: the path at the provider, the route's name, the reader of its body."""

    path: bytes
    route: str
    read: Callable[[bytes], Body]


CHAT = Kind(b"/chat/completions", "/v1/chat/completions", read_chat)
COMPLETION = Kind(b"/completions", "/v1/completions", read_completion)


@dataclass(frozen=True, slots=True)
class Parts:
    """What every exchange works with. counting: threads that count large prompts and decode bodies.

    on_end gets the finished context: it logs and measures.
    answers: bounds what is in memory of answers.
    """

    cache: SubscriptionCache
    ledger: rate_limiter.Ledger
    counter: TokenCounter
    provider: AiProvider
    tracker: BatchingUsageTracker
    leases: LeaseKeeper
    keepalive: StreamKeepAlive
    tasks: Tasks
    max_body_bytes: int
    body_timeout_seconds: float
    typical: OutputEstimator
    drain_abandoned: bool
    counting: Executor
    on_end: Callable[[RequestContext], None]
    additions: Additions = field(default_factory=Additions)
    drains: Drains = field(default_factory=Drains)
    answers: MemoryBudget = field(default_factory=MemoryBudget)
    large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_LARGE_AT_ONCE))


class Spent(msgspec.Struct, frozen=True, gc=False):
    """What an exchange cost. source: `provider`, `count`, or `none` where nothing was spent."""

    tokens: Triple = (0, 0, 0)
    source: str = "none"


class Exchange:
    """One request of one caller."""

    def __init__(self, parts: Parts, kind: Kind, client: ClientSide, context: RequestContext) -> None:
        self.parts = parts
        self.kind = kind
        self.client = client
        self.context = context
        self.body = b""
        self.answer: Claim | None = None
        self.spent = Spent()
        self.relay: Relay | None = None
        self.watched: Watched | None = None
        self.sent = False
        self.refused = False
        self.settled = False

    async def run(self) -> None:
        """Take the request through its phases. Never raises."""
        try:
            # Nothing is read before we know who sends it: a stranger costs us no memory.
            user = self.context.user = await auth.identify(self.client.headers, self.parts.cache, self.context.client)
            self.context.identified = monotonic()
            await self.receive(user)
            # The reservation must know the input; what is wrong with a request has cost nothing so far.
            if len(self.body) > SMALL_BYTES:
                async with self.parts.large:
                    request, ask = await self.parse_and_count()
            else:
                request, ask = await self.parse_and_count()
            verdict = await self.reserve(ask)
            try:
                await self.forward(request, ask, verdict)
            finally:
                await self.settle(ask, verdict)
        except AppError as error:
            await self.fail(error)
        except ClientGone:
            self.context.outcome = "client_gone"
        except asyncio.CancelledError:
            await self.cancelled()
        except Exception:
            log.exception("request failed", request_id=self.context.id)
            await self.fail(InternalError("The server had an error while processing your request."))
        finally:
            if self.answer is not None:
                self.answer.release()
            self.parts.on_end(self.context)

    # ---------------------------------------------------------------------------------------------- parse and count

    async def receive(self, user: AuthenticatedUser) -> None:
        """Read the body, without its content codings. Raises what is wrong with it, and the refusal of a large one."""
        codings, most_bytes, seconds = codings_of(self.client.headers), self.parts.max_body_bytes, self._body_seconds
        if codings or self.client.is_sending_much:
            await self.peek(user)
        try:
            self.body = await self.client.read_body(most_bytes, seconds, user.id)
        finally:
            self.context.body_seconds = monotonic() - self.context.identified
        if codings:
            # As much as text usually holds, and all that is allowed for the rare one that holds more.
            usual = min(most_bytes, max(_LEAST_DECODED_BYTES, _USUALLY_DECODED * len(self.body)))
            self.body = await self._decoded(codings, usual, user) or await self._decoded(codings, most_bytes, user)
        self.client.holds(len(self.body))

    @property
    def _body_seconds(self) -> float:
        return self.parts.body_timeout_seconds

    async def _decoded(self, codings: tuple[str, ...], most_bytes: int, user: AuthenticatedUser) -> bytes:
        """The body without its codings; nothing where more comes out, but not more than may. Raises what is wrong."""
        # What comes out is in memory twice: in pieces, and as one.
        await self.client.make_room(2 * most_bytes, self._body_seconds, user.id)
        try:
            # Whatever its size: a few bytes can hold megabytes.
            return await self._beside(decoded, self.body, codings, most_bytes)
        except RequestTooLarge:
            if most_bytes == self.parts.max_body_bytes:
                raise
            return b""

    async def parse_and_count(self) -> tuple[Body, Ask]:
        """What we decide on, and what we ask the ledger for."""
        request = await self.parse()
        return request, self.ask(request, await self.count(request))

    async def parse(self) -> Body:
        """What we decide on of the body. Raises what is wrong with it."""
        body = self.body
        request = await asyncio.to_thread(self.kind.read, body) if is_large(len(body)) else self.kind.read(body)
        self.context.model = request.model
        self.context.streamed = bool(request.stream)
        return request

    async def count(self, request: Body) -> int:
        """The input tokens; those of a large prompt are counted off the event loop."""
        if is_large(len(self.body)):
            tokens = await self._beside(self._count_large, request)
        else:
            tokens = self._count(request)
        self.context.counted_input = tokens
        return tokens

    def _count_large(self, request: Body) -> int:
        tokens = self._count(request)
        # A megabyte of tiny objects takes up to 14 ms to free: here, not in the loop's thread at the request's end.
        forget_prompt(request)
        return tokens

    def _count(self, request: Body) -> int:
        counter = self.parts.counter
        if isinstance(request, ChatRequest):
            return counter.count_chat(request, request.model)
        return counter.count_prompt(request.prompt, request.model, request.suffix)

    # ------------------------------------------------------------------------------------------------------ reserve

    def ask(self, request: Body, input_tokens: int) -> Ask:
        """How much to reserve. Output that the client does not bound depends on whether we can watch it (ADR 0005)."""
        user = self.context.user
        assert user is not None
        n, bound, typical = choices_of(request), client_max(request), self.parts.typical
        fair = 0
        if bound is not None:
            output = bound * n
        elif isinstance(request, CompletionRequest):
            output = COMPLETION_DEFAULT_TOKENS * n
        elif _grows_in_sight(request):
            output = typical.tokens(user.id, request.model) * n
        else:
            output, fair = output_ceiling(request.model, input_tokens) * n, typical.default_tokens * n
        return Ask(self.context.id, user.id, user.email, request.model, input_tokens, output, n, fair)

    async def peek(self, user: AuthenticatedUser) -> None:
        """Refuse a large request of a user who has nothing left before it is read, with the refusal it would get."""
        least = Ask(f"{self.context.id}-peek", user.id, user.email, "", 1, 1)
        try:
            verdict = await rate_limiter.peek(least, self.parts.ledger, self.parts.cache, self._patience)
        except asyncio.CancelledError:
            self.parts.tracker.give_back(least)
            raise
        if verdict is not None and verdict.admitted:
            await self.parts.tracker.settle(least, Spent().tokens, verdict.now_ms)
        elif verdict is not None:
            self._judge(verdict)

    @property
    def _patience(self) -> float:
        return rate_limiter.ZION_SECONDS - (self.context.identified - self.context.started)

    async def reserve(self, ask: Ask) -> Verdict:
        """Ask the ledger. Raises the refusal, which has changed nothing."""
        try:
            verdict = await rate_limiter.reserve(ask, self.parts.ledger, self.parts.cache, self._patience)
        except asyncio.CancelledError:
            # What was asked may yet be done.
            self.parts.tracker.give_back(ask)
            raise
        return self._judge(verdict)

    def _judge(self, verdict: Verdict) -> Verdict:
        self.context.verdict = verdict
        self.client.lines += rate_limiter.lines_of(verdict)
        if not verdict.admitted:
            self.context.outcome = "refused"
            raise rate_limiter.refusal_of(verdict)
        return verdict

    # ------------------------------------------------------------------------------------------------------ forward

    async def forward(self, request: Body, ask: Ask, verdict: Verdict) -> None:
        """Send the request on and relay its answer, while watching for a client that leaves."""
        changes = self.parts.additions.allowed(request.model, _changes(request, ask, verdict))
        held = self.parts.leases.hold(ask, verdict)
        self.client.watch(self.parts.tasks)
        if request.stream:
            self.watched = self.parts.keepalive.watch(self.client, self._early_head)
        try:
            if self.client.gone:
                raise ClientGone
            attempt: Changes | None = changes
            while attempt is not None:
                attempt = await self._attempt(request, attempt, held, verdict)
        except asyncio.CancelledError:
            # What was sent on is charged with its input, unless the provider has refused it.
            if self.client.gone and self.sent and self.relay is None and not self.refused and not self.settled:
                self.spent = self._bill(NOTHING, self._unseen(request, held))
            raise
        finally:
            if self.context.sent and not self.context.first_byte:
                self.context.provider_seconds = monotonic() - self.context.sent
            self.client.unwatch()
            self.parts.leases.release(held)
            self._keep_alive_no_more()

    async def _attempt(self, request: Body, changes: Changes, held: Held, verdict: Verdict) -> Changes | None:
        """Send the request once. Returns None when the client has its answer, else what to try instead."""
        upstream = ProviderRequest(
            self.kind.path,
            passing.to_provider(self.client.headers, self.context.id.encode(), held.ask.user),
            await self._changed(request, changes),
            self._is_sent,
            self._blank_came,
            self._room,
        )
        self.context.sent = self.context.sent or monotonic()
        if not request.stream:
            answer = await self.parts.provider.post(upstream)
            self._upstream_came(answer.id)
            return await self._whole(answer, request, changes, held, verdict)
        async with self.parts.provider.stream(upstream) as stream:
            self._upstream_came(stream.id)
            self.refused = stream.status != 200
            # Not all who are asked for a stream know how.
            if self.refused or await _is_whole(stream):
                return await self._whole(await stream.whole(), request, changes, held, verdict)
            self.parts.additions.taken(request.model, changes)
            # A stream may go on for an hour, and its request will not be sent again.
            del upstream
            self._let_go()
            await self._stream(stream, request, held, verdict)
        return None

    async def _changed(self, request: Body, changes: Changes) -> bytes:
        """The body as it is sent on."""
        body = self.body
        if not is_large(len(body)):
            return changed(body, request, changes)
        body = await asyncio.to_thread(changed, body, request, changes)
        if body is not self.body:
            self.client.holds(len(self.body) + len(body))
        return body

    async def _room(self, count: int) -> None:
        """Wait until so much more of an answer may be in memory."""
        if self.answer is None:
            self.answer = self.parts.answers.claim()
            assert self.context.user is not None
            self.answer.belongs_to(self.context.user.id)
        await self.answer.room(count)

    def _let_go(self) -> None:
        """The body is of no use any more."""
        self.body = b""
        self.client.holds(0)

    def _is_sent(self) -> None:
        self.sent = True

    def _early_head(self) -> bytes:
        """The head of a stream whose provider is silent: the client is told 200, so that it goes on waiting."""
        self.context.status = 200
        self.context.provider_seconds = monotonic() - self.context.sent
        return late.HEAD + self._traces() + passing.STREAM

    def _keep_alive_no_more(self) -> None:
        if self.watched is not None:
            self.parts.keepalive.release(self.watched)
            # It knows a method of ours: what has ended goes at once, and not when the garbage collector looks.
            self.watched = None

    async def _blank_came(self, begun: ProviderAnswer) -> None:
        """Pass on what a provider sends to keep the connection alive until its whole answer is ready."""
        if not self.client.started:
            self._upstream_came(begun.id)
            self.context.status = 200
            await self.client.start(200, begun.lines + self._traces())
        await self.client.write(begun.body)

    async def _whole(
        self, answer: ProviderAnswer, request: Body, changes: Changes, held: Held, verdict: Verdict
    ) -> Changes | None:
        if answer.status != 200:
            again = self.parts.additions.again(request, changes, answer.status, answer.body)
            if again is None:
                await self._refused_upstream(answer, held.ask, verdict)
            return again
        self.parts.additions.taken(request.model, changes)
        self._let_go()
        body = answer.body
        if self.answer is not None:
            self.answer.keep(len(body))
        read = read_answer(body) if len(body) <= LARGE_EVENT_BYTES else await self._beside(read_answer, body)
        if read is None:
            raise UpstreamError("The model provider gave a broken answer.")
        self.spent = self._bill_told(read) or await self._bill_counted(read, len(body))
        if self.context.outcome == "ok":
            self._learn(held.ask, verdict, open_end=False)
        # Durable before the first byte leaves: whoever has the answer has paid for it (P2).
        await self.settle(held.ask, verdict)
        self.context.status = 200
        if not self.client.started:
            await self.client.answer(200, answer.lines + self._traces(), answer.body)
        else:
            await self.client.end(late.answer(answer.body) if self.context.streamed else answer.body)
        return None

    # -------------------------------------------------------------------------------------------------------- relay

    async def _stream(self, answer: ProviderStream, request: Body, held: Held, verdict: Verdict) -> None:
        meter = StreamMeter(
            request.model,
            chat=isinstance(request, ChatRequest),
            withhold_usage=not asks_usage(request),
            redactor=answer.redactor,
        )
        claim = self.answer = self.parts.answers.claim()
        relay = self.relay = Relay(
            self.client,
            meter,
            # Also where the provider was told a maximum: not all know the field.
            held if verdict.output_is_limited and _shows_its_cost(request) else None,
            partial(self.parts.leases.extend, held),
            self.parts.counting,
            claim,
        )
        held.sent = relay.sent
        self.context.status = 200
        try:
            if not self.client.started:
                await self.client.start(200, answer.lines + self._traces() + passing.STREAM)
            await relay.run(answer)
        except asyncio.CancelledError:
            await self._drain(relay, answer, request)
            raise
        finally:
            self._bill_stream(relay, request, held)
        self.context.outcome = "limit" if relay.at_limit else "broken" if meter.is_broken else "ok"
        if self.context.outcome == "ok":
            self._learn(held.ask, verdict, open_end=_has_open_end(request, held.ask, verdict))
        self.parts.leases.release(held)
        # Durable before the stream's last event leaves (P2).
        await self.settle(held.ask, verdict)
        # All is done for this client: if it leaves from here on, it leaves content.
        self.client.unwatch()
        await self.client.end(self._last_event(request, relay))
        if not relay.at_limit:
            await relay.finish(answer)

    async def _drain(self, relay: Relay, answer: ProviderStream, request: Body) -> None:
        """Learn the usage of a stream that is relayed no more, where that is worth waiting for (ADR 0005)."""
        drains, gone = self.parts.drains, self.client.gone
        relay.meter.count()
        is_worth_it = relay.meter.has_finished(request.n or 1) or (gone and hides_output(request.model))
        seconds = ABANDONED_SECONDS if gone and self.parts.drain_abandoned else LAST_USAGE_SECONDS if is_worth_it else 0
        if not seconds or drains.now >= MOST_DRAINS:
            return
        drains.now += 1
        try:
            await relay.drain(answer, seconds if gone else SHUTDOWN_USAGE_SECONDS)
        finally:
            drains.now -= 1

    def _unseen(self, request: Body, held: Held) -> int:
        """The most that a model may have thought unseen for a client that left, and was billed for: by the time."""
        if not hides_output(request.model):
            return 0
        seconds = monotonic() - self.context.sent
        return min(held.output, round(seconds * UNSEEN_TOKENS_PER_SECOND) * choices_of(request))

    def _last_event(self, request: Body, relay: Relay) -> bytes:
        if not relay.at_limit:
            return relay.meter.done
        _, prompt, completion = self.spent.tokens
        usage = Usage(prompt, completion) if asks_usage(request) else None
        return relay.meter.ending(choices=choices_of(request), usage=usage)

    # ------------------------------------------------------------------------------------------------------- settle

    def _bill_stream(self, relay: Relay, request: Body, held: Held) -> None:
        """Charge the provider's numbers, else what was delivered, and what may have been thought unseen.

        Nothing is charged where an error or a break came before anything was generated (DESIGN section 5).
        """
        meter, sent = relay.meter, relay.sent()
        self.context.provider_seconds = monotonic() - self.context.sent
        self.context.malformed_events = meter.malformed
        self.context.finish_reason = "length" if relay.at_limit else meter.finish_reason
        if relay.at_limit:
            self.spent = self._bill(Usage(meter.usage.prompt_tokens), sent)
        elif sent >= 0 or self.client.gone or (relay.ended and not meter.is_broken):
            # Some tell usage all along: then it lags behind what was delivered, or tells of the input alone.
            final = relay.ended and meter.usage_is_final
            unseen = self._unseen(request, held) if self.client.gone and not final else 0
            self.spent = self._bill(meter.usage, max(0, sent, unseen), final=final)

    def _bill_told(self, answer: Reading) -> Spent | None:
        """The cost of a whole answer by the provider's usage, None where its texts have to be counted.

        An error that comes with status 200 costs no tokens, nor does an answer that says nothing.
        """
        if not answer.is_generated and (answer.failed or answer.usage == NOTHING):
            self.context.outcome = "upstream_error"
            return Spent()
        self.context.outcome = "ok"
        self.context.finish_reason = answer.finished[0][1] if answer.finished else None
        return None if answer.texts else self._bill(answer.usage, 0)

    async def _bill_counted(self, answer: Reading, size: int) -> Spent:
        """The cost of a whole answer of so many bytes by our own count."""
        count = partial(self.parts.counter.count_generated, answer.texts, self.context.model)
        return self._bill(answer.usage, await self._beside(count) if is_large(size) else count())

    async def _beside(self, work: Callable[..., T], *args: Any) -> T:
        """The result of work that takes long, done beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.parts.counting, work, *args)

    def _learn(self, ask: Ask, verdict: Verdict, *, open_end: bool) -> None:
        """So long was an answer that ended by itself, not at a maximum; least_output is one token for each choice."""
        output = self.spent.tokens[2]
        if open_end or output < verdict.granted_output:
            self.parts.typical.note(ask.user, ask.model, output // max(1, ask.least_output))

    def _bill(self, usage: Usage, counted_output: int, *, final: bool = True) -> Spent:
        """What usage tells, and our own count for what it does not tell. final: it tells of all that was generated."""
        told = usage.output_tokens
        output = told if told and final else max(told, counted_output)
        self.context.cached_tokens, self.context.reasoning_tokens = usage.cached_tokens, usage.reasoning_tokens
        source = "provider" if usage.prompt_tokens and output == told else "count"
        return Spent((1, usage.prompt_tokens or self.context.counted_input, output), source)

    async def settle(self, ask: Ask, verdict: Verdict) -> None:
        """Replace the reservation by what was spent, once, and durably."""
        if self.settled:
            return
        self.settled = True
        context = self.context
        _, context.input_tokens, context.output_tokens = self.spent.tokens
        context.tokens_from = self.spent.source
        await self.parts.tracker.settle(ask, self.spent.tokens, verdict.now_ms)

    # ------------------------------------------------------------------------------------------------------ answers

    def _upstream_came(self, upstream_id: bytes | None) -> None:
        context, now = self.context, monotonic()
        # A whole answer may have begun with white space.
        if context.streamed or not self.client.started:
            context.first_byte = now
        context.provider_seconds = now - context.sent
        context.upstream_request_id = None if upstream_id is None else upstream_id.decode("latin-1")

    def _traces(self) -> bytes:
        """What helps to find a request again, on every answer."""
        overhead = self.context.overhead_seconds(monotonic()) * 1000
        upstream_id = self.context.upstream_request_id
        if upstream_id is None:
            return b"x-sentinel-overhead-ms: %.2f\r\n" % overhead
        return b"x-upstream-request-id: %b\r\nx-sentinel-overhead-ms: %.2f\r\n" % (
            upstream_id.encode("latin-1"),
            overhead,
        )

    async def _refused_upstream(self, answer: ProviderAnswer, ask: Ask, verdict: Verdict) -> None:
        """Pass the provider's 4xx on. Its 5xx is no affair of the client's, nor is 401/403: that is about our key.

        A 407 is about our password at a forward proxy.
        """
        self.context.outcome = "upstream_error"
        if not 400 <= answer.status < 500 or answer.status in (401, 403, 407):
            log.warning("provider refuses", request_id=self.context.id, status=answer.status)
            raise UpstreamError("The model provider failed to process the request.")
        await self.settle(ask, verdict)
        if self.client.started:
            log.info("provider refuses what was told to be a stream", request_id=self.context.id, status=answer.status)
            await self.client.end(late.refusal(answer.status, answer.body))
            return
        self.context.status = answer.status
        await self.client.answer(answer.status, answer.lines + self._traces(), answer.body)

    async def fail(self, error: AppError) -> None:
        """Tell the client: as an answer, or as the last event of a stream that has begun.

        A whole answer that has begun is left unfinished, which ends the connection: nobody shall take it for one.
        """
        context = self.context
        context.error_code = error.code
        if error.side == "provider":
            # The head of a stream may have been sent before the provider's.
            has_begun = self.client.started and (self.relay is not None or not context.streamed)
            context.outcome = "broken" if has_begun else "upstream_error"
        elif context.outcome == "error" and error.side == "client":
            context.outcome = "refused"
        if self.client.started:
            if context.streamed:
                await self.client.end(event_of(error))
            return
        context.status = error.status
        early = isinstance(error, RequestTooLarge | RequestTimeout)
        send = self.client.answer_early if early else self.client.answer
        await send(error.status, passing.lines_of(headers_of(error)) + self._traces(), body_of(error))

    async def cancelled(self) -> None:
        """A client that left needs no answer; one that is still there at shutdown gets an error.

        The cancellation ends here: its task has nothing else to do.
        """
        if self.client.gone:
            self.context.outcome = "client_gone"
            return
        self.context.outcome = "shutdown"
        await self.fail(ServiceUnavailable("The server is shutting down.", retry_after_seconds=1))


async def _is_whole(answer: ProviderStream) -> bool:
    """Whether an answer is no stream, by its content type and its first byte; not all streams say what they are."""
    return _WHOLE.search(answer.lines) is not None and (await answer.peek()).lstrip()[:1] in (b"{", b"[", b"<")


def _grows_in_sight(request: Body) -> bool:
    """Whether we see all of the output as it grows, and so can extend its reservation, or end it."""
    return isinstance(request, ChatRequest) and bool(request.stream) and not hides_output(request.model)


def _shows_its_cost(request: Body) -> bool:
    """Whether what is delivered is output, and nothing else: an echo is the prompt."""
    return isinstance(request, ChatRequest) or not request.echo


def _changes(request: Body, ask: Ask, verdict: Verdict) -> Changes:
    """What the provider must be told: to give usage, and a maximum where output is limited and could exceed it.

    An answer of unknown length that is not watched is bounded by its model, if we know that, and was granted so much.
    """
    told = verdict.output_is_limited and (
        verdict.granted_output < ask.output_tokens
        or (client_max(request) is None and not _grows_in_sight(request) and not is_known(request.model))
    )
    return Changes(
        ask_usage=bool(request.stream) and not asks_usage(request),
        output_max=verdict.granted_output // choices_of(request) if told else None,
        output_field="max_completion_tokens" if isinstance(request, ChatRequest) else "max_tokens",
    )


def _has_open_end(request: Body, ask: Ask, verdict: Verdict) -> bool:
    """Whether the provider knows no maximum: the stream is held by us alone."""
    return client_max(request) is None and verdict.granted_output == ask.output_tokens and _grows_in_sight(request)
