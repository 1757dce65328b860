"""How a request ended, in one word for metrics and the log line, and what its provider's status means. Decides."""

from __future__ import annotations

from typing import Literal

from sentinel.error import AppError

Outcome = Literal["ok", "refused", "upstream_error", "broken", "client_gone", "limit", "shutdown", "error"]
"""refused: by us, before anything was spent. broken: a stream, in its middle. limit: a stream was ended at one."""

_OUR_AFFAIR = (401, 402, 403, 407)
"""About our key, our bill, or our password at a forward proxy."""


def of_stream(*, at_limit: bool, is_broken: bool) -> Outcome:
    """Of a stream that was relayed to its end."""
    return "limit" if at_limit else "broken" if is_broken else "ok"


def of_error(error: AppError, before: Outcome, *, has_begun: bool) -> Outcome:
    """Of a request that ended with this error. has_begun: the client has a part of the provider's answer."""
    if error.side == "provider":
        return "broken" if has_begun else "upstream_error"
    return "refused" if before == "error" and error.side == "client" else before


def leads_on(status: int) -> bool:
    """Whether another target is tried instead: this one is limited, away, or broken, or does not take our key."""
    return status in (408, 429) or status in _OUR_AFFAIR or status >= 500


def concerns_the_client(status: int) -> bool:
    """Whether a provider's refusal is passed on; its 5xx is no affair of the client's."""
    return 400 <= status < 500 and status not in _OUR_AFFAIR
