"""What a request reserves, and what its provider must be told because of what was granted. Decides."""

from __future__ import annotations

from sentinel.endpoints.endpoint import OutputBound
from sentinel.governance.port import AuthenticatedUser
from sentinel.limits.output_estimator import OutputEstimator
from sentinel.limits.policy import Reservation, Verdict
from sentinel.proxy.billing import Spent
from sentinel.tokens.output import is_known, output_ceiling


def of(
    request_id: str,
    user: AuthenticatedUser,
    model: str,
    input_tokens: int,
    bound: OutputBound,
    estimator: OutputEstimator,
) -> Reservation:
    """How much to reserve. Output that the client does not bound depends on whether we can watch it (ADR 0005)."""
    n, most, fair = bound.choices, bound.client_max, 0
    if most is None:
        most = bound.default_max
    if most is not None:
        output = most * n
    elif bound.grows_in_sight:
        output = estimator.tokens(user.id, model) * n
    else:
        output, fair = output_ceiling(model, input_tokens) * n, estimator.default_tokens * n
    # What is watched is told the least maximum, and ended at its limit; of what is not, nobody could hold less.
    least = n if bound.grows_in_sight else min(bound.least_max * n, max(n, output))
    return Reservation(request_id, user.id, user.email, model, input_tokens, output, least, fair)


def least(request_id: str, user: AuthenticatedUser) -> Reservation:
    """The least that a request can be, to learn whether its user has anything left at all."""
    return Reservation(f"{request_id}-peek", user.id, user.email, "", 1, 1)


def output_max(bound: OutputBound, reservation: Reservation, verdict: Verdict) -> int | None:
    """The most output tokens of a choice that the provider must be told; None where it need not.

    It need where output is limited and could exceed what was granted: an answer of unknown length that is not watched
    is bounded by its model, if we know that, and was granted so much.
    """
    if not verdict.output_is_limited:
        return None
    is_open = bound.client_max is None and not bound.grows_in_sight and not is_known(reservation.model)
    return (
        max(bound.least_max, verdict.granted_output // bound.choices)
        if is_open or verdict.granted_output < reservation.output_tokens
        else None
    )


def has_open_end(bound: OutputBound, reservation: Reservation, verdict: Verdict) -> bool:
    """Whether the provider knows no maximum: the stream is held by us alone."""
    return bound.grows_in_sight and bound.client_max is None and verdict.granted_output == reservation.output_tokens


def learn(estimator: OutputEstimator, reservation: Reservation, bound: OutputBound, spent: Spent) -> None:
    """So long was a choice of an answer that ended by itself, not at a maximum."""
    estimator.note(reservation.user, reservation.model, spent.cost.output // max(1, bound.choices))
