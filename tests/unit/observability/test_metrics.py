"""What a request adds to the metrics."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sentinel.clock import monotonic
from sentinel.observability.metrics import Metrics
from sentinel.proxy.logging import RequestContext


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples, by name and labels."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics).get((name, tuple(sorted(labels.items()))), 0.0)


def ended(**fields: object) -> RequestContext:
    now = monotonic()
    context = RequestContext("req_1", "/v1/chat/completions", now - 2.0)
    context.model_label, context.status, context.outcome = "gpt-4o", 200, "ok"
    for name, field in fields.items():
        setattr(context, name, field)
    return context


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, "success"),
        ({"streamed": True}, "streaming"),
        ({"streamed": True, "outcome": "limit"}, "streaming"),
        ({"streamed": True, "outcome": "broken"}, "error"),
        ({"status": 404, "outcome": "upstream_error"}, "error"),
        ({"status": 502, "outcome": "upstream_error", "error_code": "upstream_error"}, "error"),
        ({"status": 429, "outcome": "refused", "error_code": "rate_limit_exceeded"}, "refused"),
        ({"status": 0, "outcome": "client_gone"}, "error"),
    ],
)
def test_each_end_counts_once(fields: dict[str, object], status: str) -> None:
    """A request adds one to one status."""
    metrics = Metrics()
    metrics.exchange_ended(ended(**fields), monotonic())
    counts = {name: n for name, n in samples(metrics).items() if name[0] == "sentinel_requests_total" and n}
    assert counts == {("sentinel_requests_total", (("model", "gpt-4o"), ("status", status))): 1}
    assert value(metrics, "sentinel_request_duration_seconds_count", model="gpt-4o") == 1


def test_tokens_are_added_by_kind() -> None:
    """Prompt and completion, and how far our count was off; a count that a client asked for charges nothing."""
    metrics = Metrics()
    for context in (
        ended(tokens_from="provider", input_tokens=110, output_tokens=7, counted_input=100),
        ended(tokens_from="count", input_tokens=5, output_tokens=3, counted_input=5),
        ended(tokens_from="none", input_tokens=99, output_tokens=99),
        ended(tokens_from="count", counted_input=5),
    ):
        metrics.exchange_ended(context, monotonic())
    assert value(metrics, "sentinel_tokens_processed_total", type="prompt", model="gpt-4o") == 115
    assert value(metrics, "sentinel_tokens_processed_total", type="completion", model="gpt-4o") == 10
    assert value(metrics, "sentinel_token_estimation_fallback_total", model="gpt-4o") == 1
    for name in ("sentinel_token_estimation_diff", "sentinel_token_estimation_diff_pct"):
        assert value(metrics, f"{name}_bucket", model="gpt-4o", le="1.0") == 0
        assert value(metrics, f"{name}_bucket", model="gpt-4o", le="10.0") == 1
        assert value(metrics, f"{name}_count", model="gpt-4o") == 1


def test_durations_fall_into_real_buckets() -> None:
    """A request of two seconds is in the bucket of 2.5 and not in that of 1, however often metrics are read."""
    metrics = Metrics()
    for _ in range(3):
        metrics.exchange_ended(ended(), monotonic())
        metrics.render()
    name = "sentinel_request_duration_seconds"
    assert value(metrics, f"{name}_bucket", model="gpt-4o", le="1.0") == 0
    assert value(metrics, f"{name}_bucket", model="gpt-4o", le="2.5") == 3
    assert value(metrics, f"{name}_bucket", model="gpt-4o", le="+Inf") == 3
    assert value(metrics, f"{name}_sum", model="gpt-4o") == pytest.approx(6, abs=0.5)


@pytest.mark.parametrize(("route", "endpoint"), [("/v1/chat/completions", "chat"), ("/v1/completions", "completions")])
def test_bad_events_count_by_endpoint(route: str, endpoint: str) -> None:
    """The older implementation's labels."""
    metrics = Metrics()
    metrics.exchange_ended(ended(route=route, malformed_events=3), monotonic())
    assert value(metrics, "sentinel_sse_parse_errors_total", endpoint=endpoint, model="gpt-4o") == 3


def test_time_to_the_first_byte_is_observed_where_there_was_one() -> None:
    """A refused request has none."""
    metrics = Metrics()
    metrics.exchange_ended(ended(first_byte=monotonic() - 1.0, provider_seconds=1.5), monotonic())
    metrics.exchange_ended(ended(status=400, outcome="refused"), monotonic())
    assert value(metrics, "sentinel_time_to_first_byte_seconds_count", model="gpt-4o") == 1
    assert value(metrics, "sentinel_overhead_seconds_count") == 1


def test_other_requests_count_by_their_errors_alone() -> None:
    """What is refused before it is an exchange is in the errors, and in nothing about exchanges."""
    metrics = Metrics()
    metrics.request_ended(ended(), monotonic(), "debug")
    metrics.request_ended(ended(status=404, error_code="unknown_url"), monotonic(), "info")
    counts = {name: n for name, n in samples(metrics).items() if name[0].endswith("_total") and n}
    assert counts == {("sentinel_errors_total", (("code", "unknown_url"),)): 1}
