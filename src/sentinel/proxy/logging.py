"""What is known of one request, and the one log line that it ends with: every request of every route has one.

Never in here: a prompt, a token, a key, an e-mail address. docs/logging.md tells the fields.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal

import msgspec

from sentinel.governance.port import AuthenticatedUser
from sentinel.limits.policy import Cost, Verdict
from sentinel.observability.logs import log_name
from sentinel.proxy.outcome import Outcome
from sentinel.proxy.trace import Trace

# Ids must differ between all processes; nobody has to be unable to guess them, and the system's source takes 4 us.
_bits = random.Random(os.urandom(32)).getrandbits  # noqa: S311


def new_request_id() -> str:
    """An id for a request: `req_` and 96 random bits."""
    return f"req_{_bits(96):024x}"


_MOST_NAME = 96
_MOST_AGENT_BYTES = 200
_MOST_WORDS = 1024
"""Names of models and reasons whose form in the log is remembered: 1 MB if all of them are long."""
_MOST_AGENTS = 1024
"""User agents whose form in the log is remembered: 400 KB. An installation knows a few dozen."""
_MOST_WORD = 40
"""Words of a user agent are shorter; tokens and keys are longer."""
_KEY = re.compile(r"(?i)(?<![a-z])(sk|pk|key|token|bearer)[-_=:]|eyJ")

_MOST_PATH, _MOST_SEGMENTS = 200, 8
_HUMPS = "[A-Za-z][a-z]{0,14}([A-Z][a-z]{1,14}){0,3}"
_WORDS = re.compile(rf"\.?{_HUMPS}([-_.:]{_HUMPS}){{0,2}}|v[0-9]{{1,2}}((alpha|beta)[0-9]?)?")
"""A segment of a path as APIs have them. Keys and tokens have digits in between, addresses an @, prompts spaces."""


_CREDENTIALS = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
_LEAST_SECRET = 4


def secrets_of(headers: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """What a request's headers have for tokens and keys. headers: names in lower case."""
    words = (headers.get(name, b"").decode("latin-1").rpartition(" ")[2] for name in _CREDENTIALS)
    return tuple(word for word in words if len(word) >= _LEAST_SECRET)


def log_path(path: str, secrets: Iterable[str] = ()) -> str:
    """A path that is no route's, as the log has it: words stay, what could be a token, a name or a prompt is `*`.

    path: decoded, and without its query, which may hold keys. secrets: masked although they may have the form of words.
    """
    for secret in secrets:
        path = path.replace(secret, "*")
    segments = path[:_MOST_PATH].replace("\\", "/").split("/")
    kept = [
        segment if not segment or (_WORDS.fullmatch(segment) and not _KEY.search(segment)) else "*"
        for segment in segments[: _MOST_SEGMENTS + 1]
    ]
    return "/".join([*kept, "..."] if len(segments) > _MOST_SEGMENTS + 1 or len(path) > _MOST_PATH else kept)


def _printable(text: str) -> str:
    """What somebody else has written, without what would steer a terminal; JSON escapes a part of that only."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


@lru_cache(maxsize=_MOST_WORDS)
def log_word(text: str) -> str:
    """A name that comes again and again, such as a model's, as the log has it."""
    return _printable(text[:_MOST_NAME])


@lru_cache(maxsize=_MOST_AGENTS)
def _agent(value: bytes) -> str:
    """A user agent as the log has it: harmless to terminals, without what looks like an address or a key."""
    words = _printable(value.decode("latin-1")).split(" ")
    return " ".join("*" if "@" in word or len(word) > _MOST_WORD or _KEY.search(word) else word for word in words)


Level = Literal["debug", "info"]


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """At one target of several. model: its name there; result: the status of its answer, or an error's code."""

    provider: str
    model: str
    result: str
    took_ms: float


class RequestContext(msgspec.Struct):
    """Facts gathered while a request passes its phases. Moments are monotonic seconds, 0 = not reached.

    route: as docs/openapi.yaml names it, None for a path that is none; that one is in `path`, decoded and without its
    query. secrets: what must not be seen of a path, although it has the form of words.
    client: the address of the connection, as it is: headers that name another one may come from anybody.
    agent: the header User-Agent as it came.

    body_seconds: until the client had sent its body. outcome: `ok`, `refused` (by us, before anything was spent),
    `upstream_error`, `broken`, `client_gone`, `limit` (ended at a limit), `shutdown` or `error`.
    provider: where it was sent last, by its name. attempts: at each target of several, with what came of it.
    tokens_from: `provider`, `count`, `estimate` (a count with another vocabulary than the model's), or `none` where
    nothing was spent; of a free count it is `none` where that is the provider's. cost_micro_usd: None where there is no
    price, or nothing that has one. trace: None without tracing.
    """

    id: str
    route: str | None
    started: float
    client: str | None = None
    agent: bytes = b""
    method: str | None = "POST"
    path: str | None = None
    secrets: tuple[str, ...] = ()
    identified: float = 0.0
    body_seconds: float = 0.0
    user: AuthenticatedUser | None = None
    model: str = ""
    model_label: str = "other"
    streamed: bool = False
    status: int = 0
    outcome: Outcome = "error"
    error_code: str | None = None
    upstream_request_id: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_micro_usd: int | None = None
    finish_reason: str | None = None
    counted_input: int = 0
    tokens_from: str = "none"
    verdict: Verdict | None = None
    forwarded: float = 0.0
    provider_seconds: float = 0.0
    first_byte: float = 0.0
    malformed_events: int = 0
    provider: str = ""
    attempts: list[Attempt] = msgspec.field(default_factory=list)
    trace: Trace | None = None

    def overhead_seconds(self, now: float) -> float:
        """Time that we took ourselves: all but what the provider took, and the client for its body."""
        return max(0.0, now - self.started - self.provider_seconds - self.body_seconds)

    def provider_answered(self, upstream_id: bytes | None, now: float, *, is_first: bool = True) -> None:
        """The provider's head is there. is_first: nothing of its answer has been passed on before."""
        if is_first:
            self.first_byte = now
        self.provider_seconds = now - self.forwarded
        self.upstream_request_id = None if upstream_id is None else upstream_id.decode("latin-1")

    def has_spent(
        self, cost: Cost, source: str, cached_tokens: int, reasoning_tokens: int, cost_micro_usd: int | None
    ) -> None:
        """Note what it has cost."""
        _, self.input_tokens, self.output_tokens = cost
        self.tokens_from, self.cost_micro_usd = source, cost_micro_usd
        self.cached_tokens, self.reasoning_tokens = cached_tokens, reasoning_tokens

    def trace_lines(self, now: float) -> bytes:
        """What helps to find a request again, on every answer: headers as they go over the wire."""
        overhead, upstream_id = self.overhead_seconds(now) * 1000, self.upstream_request_id
        lines = b"x-sentinel-overhead-ms: %.2f\r\n" % overhead
        if (cost := self.cost_micro_usd) is not None:
            lines += b"x-sentinel-cost-usd: %d.%06d\r\n" % divmod(cost, 1_000_000)
        if upstream_id is not None:
            lines = b"x-upstream-request-id: %b\r\n%b" % (upstream_id.encode("latin-1"), lines)
        return b"x-sentinel-provider: %b\r\n%b" % (self.provider.encode(), lines) if self.provider else lines

    def line(self, now: float, timestamp: str, level: Level = "info") -> RequestLine:
        """The log line at the end of the request."""
        first, provider, total = self.first_byte, self.provider_seconds, now - self.started
        agent, upstream_id = self.agent, self.upstream_request_id
        if upstream_id is not None and not (len(upstream_id) <= _MOST_NAME and upstream_id.isprintable()):
            upstream_id = _printable(upstream_id[:_MOST_NAME])
        line = RequestLine(
            self.id,
            upstream_id or None,
            log_name(self.user.id) if self.user else None,
            self.client,
            _agent(agent[:_MOST_AGENT_BYTES]) if agent else None,
            self.method,
            self.route,
            None if self.path is None else log_path(self.path, self.secrets),
            log_word(self.model),
            self.streamed,
            self.status,
            self.outcome,
            self.error_code,
            log_word(self.finish_reason) if self.finish_reason else None,
            self.input_tokens,
            self.output_tokens,
            self.cached_tokens,
            self.reasoning_tokens,
            self.tokens_from,
            None if self.cost_micro_usd is None else self.cost_micro_usd / 1_000_000,
            self.provider or None,
            self.attempts or None,
            int(total * 100_000 + 0.5) / 100,
            int(provider * 100_000 + 0.5) / 100,
            int(max(0.0, total - provider - self.body_seconds) * 100_000 + 0.5) / 100,
            int((first - self.started) * 100_000 + 0.5) / 100 if first else None,
            timestamp,
            "request",
            level,
        )
        trace = self.trace
        return line if trace is None else TracedLine(*(*msgspec.structs.astuple(line), trace.id, trace.span))


class RequestLine(msgspec.Struct, frozen=True, gc=False):
    """The fields of the log line, in their order (docs/logging.md); durations in milliseconds."""

    request_id: str
    upstream_request_id: str | None
    user_id: str | None
    client: str | None
    user_agent: str | None
    method: str | None
    route: str | None
    path: str | None
    model: str
    stream: bool
    status: int
    outcome: str
    error: str | None
    finish_reason: str | None
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    tokens_from: str
    cost_usd: float | None
    provider: str | None
    attempts: list[Attempt] | None
    total_ms: float
    provider_ms: float
    overhead_ms: float
    first_byte_ms: float | None
    timestamp: str
    event: str
    level: str


class TracedLine(RequestLine, frozen=True, gc=False):
    """The same with tracing. trace_id, span_id: of the request's own span."""

    trace_id: str
    span_id: str
