"""Every metric, in one place; docs/metrics.md is compared with it by a test.

Labels are bounded: `model` is a name that the provider lists, else `other`. With several workers prometheus-client
sums over their files in PROMETHEUS_MULTIPROC_DIR, which `server/serve.py` sets before this module is imported.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Collection, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from sentinel.limits.policy import Cost
from sentinel.proxy.logging import Level, RequestContext

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_DIFF = (-1000, -100, -10, -1, 0, 1, 10, 100, 1000)
_MOST_WAITING = 500
"""Requests that are sorted into buckets at once: a tenth of a millisecond."""
_PERCENT = (-100, -50, -10, -1, 0, 1, 10, 50, 100)


class Metrics:
    """The metrics of one process. multiprocess: the values of all workers are summed when read."""

    def __init__(self, *, multiprocess: bool = False) -> None:
        # Longer than a function should be: a list of metrics.
        # Another server than ours may run several workers without the folder; each then tells of itself.
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")  # noqa: TID251 (where prometheus-client has its files)
        self._folder = Path(folder) if multiprocess and folder else None
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("sentinel_requests", "Requests that ended", ["status", "model"], registry=registry)
        self.duration = Histogram(
            "sentinel_request_duration_seconds",
            "First byte in to last byte out",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_byte = Histogram(
            "sentinel_time_to_first_byte_seconds",
            "First byte in to first byte of the provider's answer",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.overhead = Histogram(
            "sentinel_overhead_seconds",
            "What a whole answer took beside the provider",
            buckets=_OVERHEAD,
            registry=registry,
        )
        self.tokens = Counter("sentinel_tokens_processed", "Tokens charged", ["type", "model"], registry=registry)
        self.cost = Counter("sentinel_cost_usd", "US dollars of requests with a price", ["model"], registry=registry)
        self.unpriced = Counter(
            "sentinel_requests_without_price",
            "Requests that spent tokens of no known price",
            ["model"],
            registry=registry,
        )
        self.estimation_diff = Histogram(
            "sentinel_token_estimation_diff",
            "Provider's input tokens minus our count",
            ["model"],
            buckets=_DIFF,
            registry=registry,
        )
        self.estimation_diff_pct = Histogram(
            "sentinel_token_estimation_diff_pct",
            "The same in percent of our count",
            ["model"],
            buckets=_PERCENT,
            registry=registry,
        )
        self.estimation_fallback = Counter(
            "sentinel_token_estimation_fallback", "Answers charged by our own count", ["model"], registry=registry
        )
        self.parse_errors = Counter(
            "sentinel_sse_parse_errors",
            "Stream events that are no JSON of the expected shape",
            ["endpoint", "model"],
            registry=registry,
        )
        self.errors = Counter(
            "sentinel_errors", "Requests that ended with an error of ours", ["code"], registry=registry
        )
        self.zion_stale = Counter("sentinel_zion_stale", "Outdated answers of Zion that served", registry=registry)
        self.usage_lost = Counter("sentinel_usage_lost", "Settlements that nothing took", registry=registry)
        self.usage_delivered = Counter(
            "sentinel_usage_delivered", "Usage records by what became of them", ["result"], registry=registry
        )
        self.lines_dropped = Counter(
            "sentinel_log_lines_dropped", "Log lines that stdout did not take", registry=registry
        )
        self.zion_failures = Counter("sentinel_zion_report_failures", "Usage reports that failed", registry=registry)
        self.ambiguous = Counter(
            "sentinel_usage_ambiguous", "Usage items that stayed in doubt after Zion was asked", registry=registry
        )
        self.unreadable = Counter(
            "sentinel_usage_unreadable",
            "What could not be read and was set aside",
            ["where"],
            registry=registry,
        )
        self.unsure = Counter(
            "sentinel_usage_unsure", "Settlements that nobody knows whether Redis carried them out", registry=registry
        )
        self.odd_receipts = Counter(
            "sentinel_zion_odd_receipts", "Usage reports answered with a 2xx that is no receipt", registry=registry
        )
        self.task_failures = Counter(
            "sentinel_task_failures", "Background tasks that failed and were started again", ["task"], registry=registry
        )
        self.reconciled = Counter(
            "sentinel_usage_reconciled", "Accounts that counted usage of which there is no record", registry=registry
        )
        self.spans = Counter("sentinel_spans", "Spans of traces by what became of them", ["result"], registry=registry)
        self.outbox_depth = self._gauge("sentinel_outbox_depth", "Usage records that wait for Zion")
        self.outbox_age = self._gauge("sentinel_outbox_age_seconds", "Age of the oldest usage record that waits")
        self.jobs = self._gauge("sentinel_jobs", "Background responses and batches that are followed")
        self.spooled = self._gauge("sentinel_spool_depth", "Settlements that wait for Redis on disk", "livesum")
        self.degraded = self._gauge("sentinel_degraded", "1 while Redis is away, or refuses what requests do")
        self.in_flight = self._gauge("sentinel_requests_in_flight", "Requests that hold a reservation", "livesum")
        self._misconfigured = self._gauge(
            "sentinel_store_misconfigured", "1 for what is wrong with the set-up of Redis", labels=("what",)
        )
        self.attempts = Counter(
            "sentinel_provider_attempts",
            "Requests sent to a provider of several",
            ["provider", "result"],
            registry=registry,
        )
        self._left_alone = self._gauge(
            "sentinel_targets_left_alone", "Targets whose breaker is open", "livemax", ("provider",)
        )
        self.buffered = self._gauge("sentinel_buffered_bytes", "Of requests that are in memory", "livesum")
        self._series: dict[str, _Series] = {}

    def _gauge(self, name: str, text: str, mode: str = "livemax", labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=mode)  # type: ignore[arg-type]

    def misconfigured(self, flawed: Collection[str], subjects: Collection[str]) -> None:
        """Say which of these subjects are flawed in the set-up of Redis."""
        for what in subjects:
            self._misconfigured.labels(what).set(what in flawed)

    def show_open(self, targets: Mapping[str, int]) -> None:
        """So many targets of each provider are left alone."""
        for provider, count in targets.items():
            self._left_alone.labels(provider).set(count)

    def request_ended(self, context: RequestContext, now: float, level: Level) -> None:  # noqa: ARG002 (the port's)
        """Count the error that a request outside of the metered endpoints has ended with."""
        if context.error_code is not None:
            self.errors.labels(context.error_code).inc()

    def _count_attempts(self, context: RequestContext) -> None:
        for attempt in context.attempts:
            self.attempts.labels(attempt.provider, attempt.result).inc()

    def exchange_ended(self, context: RequestContext, now: float) -> None:
        """Count a request to a metered endpoint that has ended."""
        series = self._series.get(context.model_label)
        if series is None:
            series = self._series[context.model_label] = _Series(self, context.model_label)
        series.duration.observe(now - context.started)
        series.waiting += 1
        if series.waiting == _MOST_WAITING:
            series.flush()
        if context.error_code is not None:
            self.errors.labels(context.error_code).inc()
        if (
            not 200 <= context.status < 400
            or context.error_code
            or context.outcome in ("broken", "error", "upstream_error")
        ):
            self.requests.labels("refused" if context.outcome == "refused" else "error", context.model_label).inc()
        elif context.streamed:
            series.streaming += 1
        else:
            series.success += 1
        if context.first_byte:
            series.first_byte.observe(context.first_byte - context.started)
            if not context.streamed:
                series.overhead.observe(context.overhead_seconds(now))
        self._count_attempts(context)
        if context.malformed_events:
            endpoint = (context.route or "").split("/")[2]
            self.parse_errors.labels(endpoint, context.model_label).inc(context.malformed_events)
        if context.tokens_from != "none" and (context.input_tokens or context.output_tokens):
            series.charged(context)

    def job_billed(self, model_label: str, cost: Cost, cost_micro_usd: int | None) -> None:
        """Count the tokens of a job that has ended after its request, and its cost."""
        self.tokens.labels("prompt", model_label).inc(cost.input)
        self.tokens.labels("completion", model_label).inc(cost.output)
        if cost_micro_usd is not None:
            self.cost.labels(model_label).inc(cost_micro_usd / 1_000_000)
        elif cost.input or cost.output:
            self.unpriced.labels(model_label).inc()

    def flush(self) -> None:
        """Hand what requests have added up to prometheus-client; called every second, and before a scrape."""
        for series in self._series.values():
            series.flush()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        self.flush()
        if self._folder is None:
            return generate_latest(self.registry)
        _forget_dead_workers(self._folder)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _forget_dead_workers(folder: Path) -> None:
    """Drop the gauges of workers that died: nobody else tells prometheus-client, and they would count for ever."""
    for pid in {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_live*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


class _Added:
    """What a histogram has got since the last flush, taken in as it is and sorted into buckets all at once.

    prometheus-client takes a lock and a loop over the buckets for each observation (1.5 us, and a request makes five).
    """

    __slots__ = ("_bounds", "_child", "_values", "observe")

    def __init__(self, child: Histogram) -> None:
        self._child = child
        self._bounds: list[float] = child._upper_bounds  # noqa: SLF001 (there is no public way to add in bulk)
        self._values: list[float] = []
        self.observe = self._values.append

    def flush(self) -> None:
        values, below = sorted(self._values), 0
        if not values:
            return
        self._values.clear()
        self._child._sum.inc(sum(values))  # noqa: SLF001 (see above)
        for bucket, bound in enumerate(self._bounds):
            upto = bisect_right(values, bound)
            if upto > below:
                self._child._buckets[bucket].inc(upto - below)  # noqa: SLF001 (see above)
            below = upto


class _Series:
    """The series of one model, and what has been added to them since the last flush."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.duration = _Added(metrics.duration.labels(model))
        self.first_byte = _Added(metrics.first_byte.labels(model))
        self.overhead = _Added(metrics.overhead)
        self.diff = _Added(metrics.estimation_diff.labels(model))
        self.diff_pct = _Added(metrics.estimation_diff_pct.labels(model))
        self.success = self.streaming = self.prompt = self.completion = self.fallback = self.waiting = 0
        self.cost_micro_usd = self.unpriced = 0
        self._cost = metrics.cost.labels(model)
        self._counters = {
            "success": metrics.requests.labels("success", model),
            "streaming": metrics.requests.labels("streaming", model),
            "prompt": metrics.tokens.labels("prompt", model),
            "completion": metrics.tokens.labels("completion", model),
            "fallback": metrics.estimation_fallback.labels(model),
            "unpriced": metrics.unpriced.labels(model),
        }

    def charged(self, context: RequestContext) -> None:
        """Add the tokens of a request."""
        self.prompt += context.input_tokens
        self.completion += context.output_tokens
        if context.cost_micro_usd is not None:
            self.cost_micro_usd += context.cost_micro_usd
        elif context.input_tokens or context.output_tokens:
            self.unpriced += 1
        if context.tokens_from != "provider":
            self.fallback += 1
        elif context.counted_input:
            diff = context.input_tokens - context.counted_input
            self.diff.observe(diff)
            self.diff_pct.observe(100 * diff / context.counted_input)

    def flush(self) -> None:
        self.waiting = 0
        for name, counter in self._counters.items():
            counter.inc(getattr(self, name))
            setattr(self, name, 0)
        # Added up as integers, so that no request is lost in a float.
        self._cost.inc(self.cost_micro_usd / 1_000_000)
        self.cost_micro_usd = 0
        for added in (self.duration, self.first_byte, self.overhead, self.diff, self.diff_pct):
            added.flush()
