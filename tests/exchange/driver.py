"""One exchange with a scripted client and a scripted provider, on a real ledger: this arrives, that must leave."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sentinel.cache import keys
from sentinel.cache.contexts import ContextRecords
from sentinel.cache.owners import OwnerRecords
from sentinel.cache.redis import Store
from sentinel.cache.redis_ledger import RedisLedger, read_account
from sentinel.clock import monotonic
from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.endpoint import Endpoint
from sentinel.error import AppError
from sentinel.governance.port import AuthenticatedUser
from sentinel.governance.tiers import TierModel
from sentinel.limits.output_estimator import OutputEstimator
from sentinel.limits.policy import Cost, Policy, Quota
from sentinel.memory_budget import Claim, MemoryBudget
from sentinel.middleware.lease_keeper import LeaseKeeper
from sentinel.middleware.ownership import Ownership
from sentinel.middleware.tier_router import TierRouter
from sentinel.prices.catalog import UNPRICED, Prices
from sentinel.proxy.chunk import TakeChunk
from sentinel.proxy.client import ClientSide
from sentinel.proxy.exchange import Exchange
from sentinel.proxy.job_follower import JobFollower, JobTimings
from sentinel.proxy.keepalive import StreamKeepAlive
from sentinel.proxy.logging import RequestContext
from sentinel.proxy.passthrough import Passthrough
from sentinel.proxy.provider import PassedStream, ProviderAnswer, ProviderRequest
from sentinel.proxy.redaction import NO_SECRET
from sentinel.proxy.registry import Registry, Target
from sentinel.proxy.state import Dependencies
from sentinel.routes.passthrough import PATH, passed_path
from sentinel.tasks import Tasks, patient_threads
from sentinel.tokens.counter import TokenCounter
from sentinel.usage.job_store import JobStore
from sentinel.usage.spool import Spool
from sentinel.usage.tracker import BatchingUsageTracker
from tests.support.damage import chunk_of, inside_of
from tests.support.memory_governance import MemoryGovernance
from tests.support.streams import entries

USER = AuthenticatedUser("ana", "ana@corp.test")
PROMPT = "Say hello"
INPUT_TOKENS = 9
"""Of PROMPT as one user message: 3 for the reply, 3 for the message, 1 for the role, 2 for the text."""


def event(text: str | None = None, **fields: Any) -> bytes:
    """A chunk of a chat stream."""
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return (
        b"data: "
        + json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": choices, **fields}).encode()
        + b"\n\n"
    )


def usage(prompt: int, completion: int) -> dict[str, int]:
    """A provider's usage."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


DONE = b"data: [DONE]\n\n"
KEEP_ALIVE_SECONDS = 15
COUNTING = patient_threads(1, "counting")


@dataclass
class Gate:
    """A place where a provider waits until the test lets it go on."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def pass_through(self) -> None:
        self.reached.set()
        await self.opened.wait()


@dataclass
class Provider:
    """Answers as it is told: `pieces` of a stream or `body`; an exception among the pieces is raised.

    objects: what it tells of these paths, an exception is raised. kept: it does not delete these. refuses: status and
    body of the answers to the first requests. gate: before the head of an answer. header_lines: of a stream,
    and of what passes through; whole_lines: of a whole answer. blanks: come before the
    rest of a whole answer, one by one.
    """

    status: int = 200
    pieces: list[bytes | Exception | Gate] = field(default_factory=list)
    body: bytes = b""
    blanks: list[bytes | Exception | Gate] = field(default_factory=list)
    gate: Gate | None = None
    header_lines: bytes = b"content-type: text/event-stream\r\n"
    whole_lines: bytes = b"content-type: application/json\r\n"
    failure: AppError | None = None
    refuses: list[tuple[int, bytes] | AppError] = field(default_factory=list)
    requests: list[ProviderRequest] = field(default_factory=list)
    objects: dict[str, bytes | Exception] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    read: list[bytes] = field(default_factory=list)
    opened: int = 0
    closed: int = 0

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of all requests."""
        return [request.body for request in self.requests if isinstance(request.body, bytes)]

    async def post(self, request: ProviderRequest, on_blank: Any, room: Any) -> ProviderAnswer:
        await asyncio.sleep(0)  # As a connection is made.
        self.requests.append(copy(request))
        request.sent = True
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        refusal = self.refuses.pop(0) if self.refuses else (self.status, self.body)
        if isinstance(refusal, AppError):
            raise refusal
        status, body = refusal
        for blank in self.blanks:
            if isinstance(blank, Exception):
                raise blank
            if isinstance(blank, Gate):
                await blank.pass_through()
            else:
                await on_blank(ProviderAnswer(200, b"content-type: application/json\r\n", b"up_1", blank))
        return ProviderAnswer(status, self.whole_lines, b"up_1", body)

    async def stream(self, request: ProviderRequest, room: Any) -> _Stream:
        await asyncio.sleep(0)  # As a connection is made.
        self.requests.append(copy(request))
        request.sent = True
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.pass_through()
        if self.failure is not None:
            raise self.failure
        self.opened += 1
        refusal = self.refuses.pop(0) if self.refuses else (self.status, self.body)
        if isinstance(refusal, AppError):
            raise refusal
        return _Stream(self, *refusal)

    async def pass_on(self, request: ProviderRequest, room: Any) -> PassedStream:
        """One of `objects`, cut into pieces of 100 bytes, and gone if it is deleted; to a POST the answer as told."""
        if request.method == b"POST":
            await self.stream(request, room)
            return _Passed(self, self.status, self.body)
        path = request.path.decode()
        self.asked.append(path)
        request.sent = True
        told = self.objects.get(path, b"")
        if isinstance(told, Exception):
            raise told
        is_there = path in self.objects
        if request.method == b"DELETE" and path in self.kept:
            return _Passed(self, 400, b"{}")
        if request.method == b"DELETE" and is_there:
            del self.objects[path]
            told = b'{"deleted":true}'
        cut = Provider(pieces=[told[start : start + 100] for start in range(0, len(told), 100)])
        cut.header_lines = b"content-type: application/json\r\n"
        return _Passed(cut, 200 if is_there else 404, told)

    async def get(self, path: str, request_id: str) -> ProviderAnswer:
        await asyncio.sleep(0)
        self.asked.append(path)
        told = self.objects.get(path)
        if isinstance(told, Exception):
            raise told
        return ProviderAnswer(404 if told is None else 200, b"", b"up_2", told or b"{}")

    async def close(self) -> None:
        return


class _Stream:
    redactor = NO_SECRET

    def __init__(self, provider: Provider, status: int, body: bytes) -> None:
        self._provider = provider
        self._pieces = iter(provider.pieces)
        self._body = body
        self._closed = False
        self.status = status
        self.header_lines, self.id = provider.header_lines, b"up_1"

    async def read(self) -> bytes | None:
        await asyncio.sleep(0)
        piece = next(self._pieces, None)
        while isinstance(piece, Gate):
            await piece.pass_through()
            piece = next(self._pieces, None)
        if isinstance(piece, Exception):
            raise piece
        if piece is not None:
            self._provider.read.append(piece)
        return piece

    async def flow(self, take: Callable[[bytes], bytes | None], take_chunk: TakeChunk | None = None) -> bytes | None:
        while (piece := await self.read()) is not None:
            if take_chunk is not None and take_chunk(chunk_of(piece)):
                continue
            if (rest := take(piece)) is not None:
                return rest
        return None

    async def peek(self) -> bytes:
        await asyncio.sleep(0)
        first = self._provider.pieces[0] if self._provider.pieces else self._provider.body
        assert isinstance(first, bytes)
        return first

    async def whole(self) -> ProviderAnswer:
        await asyncio.sleep(0)
        self.close()
        return ProviderAnswer(self.status, self.header_lines, self.id, self._body)

    def close(self) -> None:
        self._provider.closed += not self._closed
        self._closed = True


class _Passed(_Stream):
    length: int | None = None


class Connection:
    """The client's connection, as the server shows it. is_full: every write waits once."""

    body_is_there = True
    half_closed = False

    def __init__(self, client: Client, *, is_full: bool) -> None:
        self.is_full = is_full
        self.gone = False
        self.tell: Any = None
        self.task: asyncio.Task[None] | None = None
        self._client = client

    def on_gone(self, tell: Any) -> None:
        self.tell = tell

    def take_body(self) -> bytes:
        return self._client.body

    def claim_for(self, user: str) -> Claim:
        claim = MemoryBudget().claim()
        claim.belongs_to(user)
        return claim

    async def has_room(self) -> None:
        await asyncio.sleep(0)

    def send_head(
        self, status: int, header_lines: bytes, body: bytes, length: int | None, *, close: bool, more: bool
    ) -> None:
        self._client.status = status
        self.send_piece(body, more=more)

    def chunk_writer(self, stop: Callable[[], None]) -> Callable[[bytes], None] | None:
        def write(chunk: bytes) -> None:
            self.send_piece(inside_of(chunk), more=True)
            if self.is_full:
                stop()

        return None if self.is_full else write

    def send_piece(self, piece: bytes, *, more: bool) -> None:
        client = self._client
        client.got += piece
        client.complete = not more
        if client.complete:
            client.watched_to_the_end = self.tell is not None


class Client:
    """A client that sends one chat request; `got` is what reached it, complete: also the last piece did.

    slow: it must be waited for. side: how it is written to.
    """

    def __init__(self, *, slow: bool = True, side: type[ClientSide] = ClientSide, **fields: Any) -> None:
        self.connection = Connection(self, is_full=slow)
        self.status: int | None = None
        self.got = b""
        self.complete = self.watched_to_the_end = False
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}], **fields}
        self.body = json.dumps(body).encode()
        headers = {b"authorization": b"Bearer token", b"content-type": b"application/json"}
        self.side = side(self.connection, self._never, self._never, headers, b"")

    async def _never(self, *_: Any) -> Any:
        raise AssertionError("with a connection nothing is sent or received as a message")

    def told(self) -> tuple[int | None, bytes]:
        """Status and bytes so far."""
        return self.status, self.got

    @property
    def text(self) -> str:
        """The text of the stream's chunks that came."""
        events = [line[6:] for line in self.got.split(b"\n") if line.startswith(b"data: {")]
        return "".join(
            choice["delta"].get("content") or "" for each in events for choice in json.loads(each).get("choices", ())
        )


class _Cache:
    """Knows the one caller, and no limits."""

    def __init__(self, ledger: RedisLedger) -> None:
        self._ledger = ledger

    def remembered(self, token: bytes) -> AuthenticatedUser | None:
        return None

    async def user(self, token: bytes, client: str | None = None) -> AuthenticatedUser:
        await asyncio.sleep(0)
        return USER

    async def fetch_limits(self, user: str, seq: int) -> None:
        await self._ledger.refresh(user, Quota(), seq)

    def refresh_limits_soon(self, user: str, seq: int) -> None:
        return


class Stage:
    """Everything an exchange needs, and what it left behind."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        *,
        drain: bool = False,
        default_output: int = 1000,
        lease_seconds: float = 30,
        jobs_ledger: RedisLedger | None = None,
        prices: Prices = UNPRICED,
    ) -> None:
        self.ledger = RedisLedger(store, Policy((), 5, 30_000, 300_000, 3_600_000))
        self.tasks = Tasks()
        self.ended: list[RequestContext] = []
        self.provider = Provider()
        self._registry = Registry(Target("scripted", self.provider, prices=prices))
        cache = _Cache(self.ledger)
        self.leases = LeaseKeeper(self.ledger, cache, lease_seconds)
        self.keepalive = StreamKeepAlive(KEEP_ALIVE_SECONDS, self.tasks)
        self.governance, self.now = MemoryGovernance(), 0.0
        self.governance.tier_models = {"simple": [TierModel("openai", "gpt-4o-mini")]}
        self.billed: list[tuple[str, Cost]] = []
        self.unreadable: list[str] = []
        self.jobs = JobStore(self.ledger, self.unreadable.append)
        self.contexts = ContextRecords(store)
        self.follower = self.another_follower(jobs_ledger)
        self.deps = Dependencies(
            cache=cache,  # type: ignore[arg-type]
            ledger=self.ledger,
            counter=TokenCounter(),
            registry=self._registry,
            tiers=TierRouter(store, self.governance, session_seconds=60, config_seconds=60, clock=lambda: self.now),
            tracker=BatchingUsageTracker(self.ledger, Spool(folder), self.tasks, lambda: None),
            ownership=Ownership(OwnerRecords(store), ()),
            contexts=self.contexts,
            follower=self.follower,
            leases=self.leases,
            keepalive=self.keepalive,
            tasks=self.tasks,
            max_body_bytes=1 << 20,
            body_timeout_seconds=5,
            estimator=OutputEstimator(default_output),
            drain_abandoned=drain,
            threads=COUNTING,
            on_end=self.ended.append,
        )
        self._count = 0

    def exchange(self, client: Client, endpoint: Endpoint[Any] = CHAT) -> Exchange:
        self._count += 1
        return Exchange(
            self.deps, endpoint, client.side, RequestContext(f"req_{self._count}", endpoint.route, monotonic())
        )

    def passthrough(self, client: Client, method: str, path: str) -> Passthrough:
        """A request to a path that is passed through; one without a body, but for POST."""
        self._count += 1
        passed = passed_path(method, path, is_route=False)
        assert passed is not None
        about, sent = passed
        if method == "POST":
            client.side.headers = {**client.side.headers, b"content-length": b"%d" % len(client.body)}
        context = RequestContext(f"req_{self._count}", PATH, monotonic(), method=method)
        return Passthrough(self.deps, CHAT, client.side, context, about, sent)

    def another_follower(self, ledger: RedisLedger | None = None, missing: float = 60.0) -> JobFollower:
        """Who looks after jobs, as another process would, through a ledger of its own; missing: as in JobTimings."""
        return JobFollower(
            self.jobs if ledger is None else JobStore(ledger),
            self.contexts,
            self._registry,
            TokenCounter(),
            COUNTING,
            lease_seconds=30,
            on_billed=lambda model, cost, _micro_usd: self.billed.append((model, cost)),
            timings=JobTimings(pause=0, longest_pause=0, taken=20, missing=missing, patience=0),
        )

    async def limit(self, output: int) -> None:
        """Zion grants the caller so much output."""
        await self.ledger.refresh(USER.id, Quota(limit=(-1, -1, output)), -1)

    async def account(self) -> dict[str, Any]:
        """The caller's account."""
        packed = await self.ledger.store.command("GET", keys.account_keys(USER.id).account)
        return read_account(packed) if packed else {"held": [0, 0, 0], "open": 0, "pend": [0, 0, 0]}

    async def records(self) -> dict[str, tuple[int, int, int]]:
        """The usage records by request id. Fails if a request has two."""
        found: dict[str, tuple[int, int, int]] = {}
        for _, fields in await entries(self.ledger.store, keys.account_keys(USER.id).outbox):
            name = json.loads(fields[b"who"])[0]
            assert name not in found
            n, i, o, _, _ = struct.unpack("<5d", fields[b"sum"])
            found[name] = (int(n), int(i), int(o))
        return found

    async def settled(self) -> dict[str, tuple[int, int, int]]:
        """The usage records, once nothing runs any more. Fails if anything is still reserved."""
        await self.tasks.finish(5)
        account = await self.account()
        assert (account["held"], account["open"]) == ([0, 0, 0], 0)
        assert await self.ledger.store.command("HLEN", keys.account_keys(USER.id).leases) == 0
        assert len(self.leases) == 0
        return await self.records()
