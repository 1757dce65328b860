"""What is known of one request, and the one log line that it ends with.

Never in here: a prompt, a token, a key, an e-mail address.
"""

from __future__ import annotations

import os
import random

import msgspec

from sentinel.limits.policy import Verdict
from sentinel.logs import log_name
from sentinel.zion.models import AuthenticatedUser

# Ids must differ between all processes; nobody has to be unable to guess them, and the system's source takes 4 us.
_bits = random.Random(os.urandom(32)).getrandbits  # noqa: S311


def new_request_id() -> str:
    """An id for a request: `req_` and 96 random bits."""
    return f"req_{_bits(96):024x}"


class RequestContext(msgspec.Struct):
    """Facts gathered while a request passes its phases. Moments are monotonic seconds, 0 = not reached.

    body_seconds: until the client had sent its body. outcome: `ok`, `refused` (by us, before anything was spent),
    `upstream_error`, `broken`, `client_gone`, `limit` (ended at a limit), `shutdown` or `error`.
    tokens_from: `provider`, `count`, or `none` where nothing was spent.
    """

    id: str
    route: str
    started: float
    identified: float = 0.0
    body_seconds: float = 0.0
    user: AuthenticatedUser | None = None
    model: str = ""
    model_label: str = "other"
    streamed: bool = False
    status: int = 0
    outcome: str = "error"
    error_code: str | None = None
    upstream_request_id: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    counted_input: int = 0
    tokens_from: str = "none"
    verdict: Verdict | None = None
    sent: float = 0.0
    provider_seconds: float = 0.0
    first_byte: float = 0.0
    malformed_events: int = 0
    finish_reason: str | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def overhead_seconds(self, now: float) -> float:
        """Time that we took ourselves: all but what the provider took, and the client for its body."""
        return max(0.0, now - self.started - self.provider_seconds - self.body_seconds)

    def line(self, now: float, timestamp: str) -> RequestLine:
        """The log line at the end of the request."""
        first, provider, total = self.first_byte, self.provider_seconds, now - self.started
        return RequestLine(
            self.id,
            self.upstream_request_id,
            log_name(self.user.id) if self.user else None,
            self.model[:96],
            self.route,
            self.streamed,
            self.status,
            self.outcome,
            self.error_code,
            self.input_tokens,
            self.output_tokens,
            self.tokens_from,
            int(total * 100_000 + 0.5) / 100,
            int(provider * 100_000 + 0.5) / 100,
            int(self.overhead_seconds(now) * 100_000 + 0.5) / 100,
            int((first - self.started) * 100_000 + 0.5) / 100 if first else None,
            timestamp,
            "request",
            "info",
        )


class RequestLine(msgspec.Struct, frozen=True, gc=False):
    """The fields of the log line, in their order; durations in milliseconds."""

    request_id: str
    upstream_request_id: str | None
    user_id: str | None
    model: str
    route: str
    stream: bool
    status: int
    outcome: str
    error: str | None
    input_tokens: int
    output_tokens: int
    tokens_from: str
    total_ms: float
    provider_ms: float
    overhead_ms: float
    first_byte_ms: float | None
    timestamp: str
    event: str
    level: str
