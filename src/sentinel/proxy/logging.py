"""What is known of one request, and the one log line that it ends with.

Never in here: a prompt, a token, a key, an e-mail address.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sentinel.limits.policy import Verdict
from sentinel.zion.models import AuthenticatedUser


@dataclass(slots=True)
class RequestContext:
    """Facts gathered while a request passes its phases. Moments are monotonic seconds, 0 = not reached.

    outcome: `ok`, `refused` (by us, before anything was spent), `upstream_error`, `broken`, `client_gone`, `limit`
    (ended at a limit), `shutdown` or `error`. tokens_from: `provider`, `count`, or `none` where nothing was spent.
    """

    id: str
    route: str
    started: float
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
    stale: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def overhead_seconds(self, now: float) -> float:
        """Time that we took ourselves: all but what the provider took."""
        return max(0.0, now - self.started - self.provider_seconds)

    def line(self, now: float) -> dict[str, Any]:
        """The log line at the end of the request; durations in milliseconds."""
        total = now - self.started
        return {
            "request_id": self.id,
            "upstream_request_id": self.upstream_request_id,
            "user_id": self.user.id if self.user else None,
            "model": self.model[:96],
            "route": self.route,
            "stream": self.streamed,
            "status": self.status,
            "outcome": self.outcome,
            "error": self.error_code,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "tokens_from": self.tokens_from,
            "total_ms": round(total * 1000, 2),
            "provider_ms": round(self.provider_seconds * 1000, 2),
            "overhead_ms": round(self.overhead_seconds(now) * 1000, 2),
            "first_byte_ms": round((self.first_byte - self.started) * 1000, 2) if self.first_byte else None,
            "stale": self.stale or None,
            **self.extra,
        }
