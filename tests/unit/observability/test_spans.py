"""What spans say of a request, moment by moment. What a collector gets: tests/integration/test_tracing.py."""

from __future__ import annotations

import pytest

from sentinel.observability.spans import FinishedSpan, operation_of, spans_of
from sentinel.proxy.logging import RequestContext
from sentinel.proxy.trace import Place, Trace
from sentinel.routes.gemini import ROUTES
from sentinel.routes.passthrough import PATH
from sentinel.routes.table import ENDPOINTS, SOCKETS

PLACE = Place("openai", "api.test", 443)


def spans(context: RequestContext, now: float = 20.0) -> list[FinishedSpan]:
    assert context.trace is not None
    return list(spans_of(context, context.trace, now, old_names=False))


def context(**fields: object) -> RequestContext:
    trace = Trace(1, 2, 0, 1)
    made = RequestContext("req_1", "/v1/chat/completions", 10.0, model="m", status=200, outcome="ok", trace=trace)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_a_failed_attempt_ends_before_the_next_begins() -> None:
    """The last lasts as long as the provider took for its answer."""
    made = context(forwarded=11.0, provider_seconds=7.0, first_byte=16.0, streamed=True)
    assert made.trace is not None
    first = made.trace.goes_to(PLACE, "first", "m", 11.0, is_translated=False)
    first.failed("upstream_timeout", 13.0)
    made.trace.goes_to(PLACE, "second", "m", 14.0, is_translated=True).answered(200, None, 16.0)
    server, one, two = spans(made)
    assert [(each.began, each.ended) for each in (server, one, two)] == [(10.0, 20.0), (11.0, 13.0), (14.0, 18.0)]
    assert (one.error, two.error, server.error) == ("upstream_timeout", None, None)
    assert two.attributes["gen_ai.response.time_to_first_chunk"] == 2.0
    assert "gen_ai.response.time_to_first_chunk" not in one.attributes


def test_one_that_nobody_waits_for_is_no_error() -> None:
    """Its client has left, or the process ends."""
    made = context(outcome="client_gone", status=0, forwarded=11.0, provider_seconds=1.0)
    assert made.trace is not None
    made.trace.goes_to(PLACE, "first", "m", 11.0, is_translated=False).failed(None, 12.5)
    server, client = spans(made)
    assert (server.error, client.error, client.ended) == (None, None, 12.5)
    assert "http.response.status_code" not in server.attributes


@pytest.mark.parametrize(
    ("status", "outcome", "code", "error"),
    [
        (200, "ok", None, None),
        (404, "refused", "not_found", None),
        (429, "upstream_error", None, None),
        (200, "upstream_error", None, "upstream_error"),
        (200, "broken", "upstream_timeout", "upstream_timeout"),
        (200, "shutdown", None, "shutdown"),
        (503, "shutdown", "service_unavailable", "service_unavailable"),
        (502, "upstream_error", "upstream_error", "upstream_error"),
        (500, "error", None, "500"),
        (200, "limit", None, None),
    ],
)
def test_what_is_an_error_of_ours(status: int, outcome: str, code: str | None, error: str | None) -> None:
    """Not what a client has done wrong; but what went wrong under a status of 200."""
    (server,) = spans(context(status=status, outcome=outcome, error_code=code))
    assert (server.error, server.attributes.get("error.type")) == (error, error)


def test_every_format_is_an_operation() -> None:
    """Whatever asks a model for something; not keys, nor what is passed through."""
    secret = [route for route in ENDPOINTS if route.startswith("/v1/realtime/")]
    routes = [*ENDPOINTS, *SOCKETS, *(route.path_format for route in ROUTES if ":" in route.path_format)]
    assert sorted(route for route in routes if operation_of(route) is None) == secret
    assert operation_of(PATH) is operation_of(None) is None


def test_names_are_harmless() -> None:
    """A model's name is what a client likes."""
    made = context(model="a\x9b2J" + "m" * 500, forwarded=11.0)
    assert made.trace is not None
    made.trace.goes_to(PLACE, "first", made.model, 11.0, is_translated=False).answered(200, None, 12.0)
    _, client = spans(made)
    assert client.name == f"chat {client.attributes['gen_ai.request.model']}"
    assert client.name.isprintable()
    assert len(client.name) < 110
