"""One request to a path below /v1 that is no metered endpoint's: sent on as it came, and its answer as that comes.

    identify -> check -> admit -> forward -> relay -> settle

As in exchange.py, with these differences. What the path, the query and the body name must be the caller's (P7). Nothing
is counted: it is one request, and the tokens that its answer says it has cost. Bodies are streamed both ways; only JSON
is held, up to a bound, because the ids in it are judged on the way to the provider and recorded on the way back, before
the answer leaves (passed_answer.py). A request that the provider has answered with an error costs nothing.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import structlog

from sentinel.clock import monotonic
from sentinel.endpoints.endpoint import Endpoint
from sentinel.endpoints.families import ObjectPath
from sentinel.endpoints.named_models import models_in_pairs
from sentinel.endpoints.objects import in_query, query_without_credentials
from sentinel.endpoints.references import Reference
from sentinel.error import AppError, UpstreamError
from sentinel.limits.policy import Cost, Reservation
from sentinel.middleware import auth
from sentinel.middleware.model_check import ModelCheck
from sentinel.proxy import headers as passing
from sentinel.proxy import outcome, passed_body
from sentinel.proxy.admission import reserve
from sentinel.proxy.attempts import traced
from sentinel.proxy.batch_lines import check_lines
from sentinel.proxy.billing import SPENT_NOTHING, Spent
from sentinel.proxy.client import ClientGone, ClientSide
from sentinel.proxy.exchange import Exchange
from sentinel.proxy.forwarding import room_of
from sentinel.proxy.jobs import demand_followers
from sentinel.proxy.logging import RequestContext, secrets_of
from sentinel.proxy.passed_answer import PassedAnswer
from sentinel.proxy.passed_body import TakenBody
from sentinel.proxy.provider import PassedStream, ProviderRequest
from sentinel.proxy.registry import Target
from sentinel.proxy.state import Dependencies
from sentinel.proxy.whole import Complete

log = structlog.get_logger()

_LONG_QUERY_BYTES = 4 * 1024
"""Taken apart beside the event loop: 64 KB of parameters take 9 ms."""

_LOOKING = ("GET", "DELETE")
ONE_REQUEST = Spent(Cost(1, 0, 0))
FORMAT = "other"
"""What a target must speak that gets such a request."""


class Passthrough(Exchange):
    """One such request. speaks: the endpoint whose errors and headers a client of this path expects.

    about: what the path is about; path: as it is sent on, after `/v1`. context.method is the request's. in_query: the
    provider's objects that the query names.
    """

    __slots__ = ("about", "in_query", "path")

    def __init__(
        self,
        deps: Dependencies,
        speaks: Endpoint[Any],
        client: ClientSide,
        context: RequestContext,
        about: ObjectPath,
        path: bytes,
    ) -> None:
        super().__init__(deps, speaks, client, context)
        self.about = about
        self.path = path
        self.in_query: tuple[Reference, ...] = ()

    async def run(self) -> None:
        """Take the request through its phases. Never raises."""
        deps, client, context = self.deps, self.client, self.context
        try:
            user = context.user = await auth.identify(client.headers, deps.cache, context.client)
            context.identified = monotonic()
            check = partial(deps.ownership.check, user.id)
            creates = context.method not in _LOOKING
            models = ModelCheck(user, takes_model=creates and self.about.takes_model)
            # Before anything of the body is read: what is not there needs none.
            is_below_own = await check(self.about.ids)
            if query := client.query:
                is_long = len(query) > _LONG_QUERY_BYTES
                named = await deps.beside(in_query, query, self.about) if is_long else in_query(query, self.about)
                self.in_query = named
                await check(named)
                if creates and models.is_needed:
                    models.so_far(await deps.beside(models_in_pairs, query))
            body = await passed_body.read(self, check, models)
            context.model = body.asked.model
            # Nobody knows how many tokens; whoever has none left begins nothing that may cost some.
            least = int(creates and self.about.may_generate)
            self.reservation = Reservation(context.id, user.id, user.email, context.model, least, least, least)
            self.verdict = await reserve(self, self.reservation)
            try:
                complete = await self._relay(await self._forward(body), body, is_below_own=is_below_own)
            except (asyncio.CancelledError, ClientGone):
                self._abandon()
                raise
            finally:
                spent = self._end()
                await deps.tracker.settle(
                    self.reservation, spent.cost, self.verdict.now_ms, cost_micro_usd=context.cost_micro_usd or 0
                )
            # All is done for this client: if it leaves from here on, it leaves content.
            client.unwatch()
            if (rest := complete()) is not None:
                await rest
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (nobody above would answer)
            await self._ended_by(error)
        finally:
            self._release()
            deps.on_end(context)

    async def _forward(self, body: TakenBody) -> PassedStream:
        """Send the request on. Raises ClientGone, UpstreamError, UpstreamTimeout, what the body raises."""
        deps, client, context = self.deps, self.client, self.context
        self.lease = deps.leases.hold(self.reservation, self.verdict, context.identified)
        # Under another server than ours whoever watches the client takes the body from whoever reads it.
        if client.can_be_watched or isinstance(body.body, bytes):
            client.watch(deps.tasks)
        if client.gone:
            raise ClientGone
        if self.about.begins_job and context.method == "POST":
            demand_followers(self)
            # The provider goes on for who leaves now, too: until it is known with what, nothing is cancelled.
            client.unwatch()
        if context.method == "DELETE" and self.about.deletes is not None:
            if self.about.job_kind:
                await deps.follower.look_before(self.reservation.user, self.about.deletes)
            elif self.about.has_jobs:
                await deps.follower.look_below(self.reservation.user, self.about.deletes)
        context.forwarded = monotonic()
        if body.asked.input_file and self.about.form == "batches":
            provider = (await self._target(body)).provider
            await check_lines(
                self, provider, body.asked.input_file, partial(deps.ownership.check, self.reservation.user)
            )
        answer = await self._send(self._query(client.query), body)
        assert self.upstream is not None
        context.provider_answered(answer.id, monotonic())
        self.is_refused = answer.status >= 400
        if isinstance(body.body, bytes) and context.method != "GET":
            # An answer may take an hour, and only what lists is asked again.
            body.body = self.upstream.body = b""
            client.holds(0)
        return answer

    async def _send(self, query: bytes, body: TakenBody) -> PassedStream:
        target = await self._target(body)
        self.goes_to(target)
        return await traced(self, target, partial(self._send_to, target, query, body))

    async def _send_to(self, target: Target, query: bytes, body: TakenBody) -> PassedStream:
        client, context = self.client, self.context
        headers = {name: value for name, value in client.headers.items() if name != b"content-type"}
        if body.type is not None:
            headers[b"content-type"] = body.type
        header_lines = passing.passed_to_provider(headers, context.id.encode(), self.reservation.user)
        if context.trace is not None:
            header_lines += context.trace.header_lines()
        path = self.path + b"?" + query if query else self.path
        method = (context.method or "GET").encode()
        self.upstream = ProviderRequest(path, header_lines, body.body, method)
        stream = self.stream = await target.provider.pass_on(self.upstream, room_of(self))
        return stream

    async def _target(self, body: TakenBody) -> Target:
        """The provider that has what the request names; else the model's, or the one for all.

        All pages of a list are of whom its first one is of.
        """
        registry = self.deps.registry
        if self.target is not None and self.place:
            return registry.targets(FORMAT, self.context.model, self.place)[0]
        references = [*self.about.ids, *body.asked.references, *self.in_query] if registry.is_many else []
        place = await self.deps.ownership.place(references, registry.home) if references else ""
        return registry.targets(FORMAT, self.context.model, place)[0]

    def _query(self, query: bytes) -> bytes:
        if not query:
            return query
        secrets = [secret.encode("latin-1") for secret in secrets_of(self.client.headers)]
        return query_without_credentials(query, secrets)

    async def _relay(self, answer: PassedStream, body: TakenBody, *, is_below_own: bool) -> Complete:
        """Pass the answer on up to its last piece. Raises UpstreamError, UpstreamTimeout."""
        if self.is_refused:
            return await self._refused(answer)
        self.spent = ONE_REQUEST

        async def another_page(query: bytes) -> PassedStream:
            answer.close()
            return await self._send(self._query(query), body)

        relay = PassedAnswer(self, self.about, {reference.id for reference in body.asked.references}, another_page)
        try:
            complete = await relay.run(answer, is_below_own=is_below_own)
        finally:
            # What the client has nothing of, for it is not fit for clients, costs nothing.
            self.spent = relay.spent if self.client.started or self.client.gone else SPENT_NOTHING
        self.spent = relay.spent
        self.context.outcome = "ok"
        return complete

    async def _refused(self, answer: PassedStream) -> Complete:
        """What the provider has refused. Raises UpstreamError where that is not for the client."""
        client, context = self.client, self.context
        context.outcome = "upstream_error"
        whole = await answer.whole()
        if not outcome.concerns_the_client(whole.status) and whole.status not in self.endpoint.passed_statuses:
            log.warning("provider refuses", request_id=context.id, status=whole.status)
            raise UpstreamError("The model provider failed to process the request.")
        context.status = whole.status
        if (
            whole.status == 404
            and context.method == "DELETE"
            and self.about.is_known
            and self.about.deletes is not None
        ):
            await self.deps.ownership.forget(self.about.deletes)
        return partial(client.answer, whole.status, whole.header_lines + context.trace_lines(monotonic()), whole.body)

    def _abandon(self) -> None:
        """What was sent on whole for a client that left is one request, unless the provider has refused it."""
        upstream = self.upstream
        if not self.client.gone or upstream is None or not upstream.sent or self.is_refused:
            return
        if self.spent is SPENT_NOTHING and (isinstance(upstream.body, bytes) or upstream.body.is_whole):
            self.spent = ONE_REQUEST

    async def _fail(self, error: AppError) -> None:
        """As in exchange.py; a stream of events that has begun is broken."""
        await super()._fail(error)
        if self.context.streamed and error.side == "provider":
            self.context.outcome = "broken"

    def _end(self) -> Spent:
        """What it has cost; its reservation is about to be settled."""
        context, spent = self.context, self.spent
        self.deps.leases.release(self.lease)
        if context.forwarded:
            context.provider_seconds = max(0.0, monotonic() - context.forwarded)
        cost_micro_usd = spent.micro_usd(self.prices, self.priced_model, self.verdict.now_ms)
        usage = spent.usage
        context.has_spent(spent.cost, spent.source, usage.cached_tokens, usage.reasoning_tokens, cost_micro_usd)
        return spent
