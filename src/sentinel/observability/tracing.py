"""Traces: the observer that hands the spans of each request that has ended to OpenTelemetry's SDK.

This and its encoder (otlp.py) alone know the SDK, which the extra `otel` brings: whoever imports this must do so where
traces are wanted (tracing_settings.py). The SDK's own sampler, queue and exporter are used, so that its variables mean
what they mean everywhere. A request costs the event loop two spans as plain values; a thread encodes and sends them.
Where the queue is full, spans are dropped and counted: a collector that is away holds up nobody.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from time import sleep

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from sentinel import __version__
from sentinel.clock import monotonic, now_ns
from sentinel.config import ConfigError
from sentinel.observability.otlp import Encoder
from sentinel.observability.spans import FinishedSpan, spans_of
from sentinel.proxy.logging import Level, RequestContext
from sentinel.proxy.trace import RANDOM, SAMPLED, Parent, Trace, new_span_id, new_trace_id, parent_of
from sentinel.tasks import pause
from sentinel.tracing_settings import HEADERS, has_old_names

log = structlog.get_logger()

FLUSH_SECONDS = 3.0
"""How long the last spans may take to reach their collector at shutdown."""
_LOOK_SECONDS = 0.02
_REST_SECONDS = 0.0005
"""In which the event loop has the interpreter for itself."""
_QUIET_SECONDS = 60.0
"""After a line about spans that were not exported none follows for so long."""
_MOST_REASON = 300
_SECRETS = re.compile(r"(?<=\?)[^\s'\")]+|(?<=//)[^/@\s]*(?=@)")
"""What may be one in the address of a collector: a query, a login."""
_SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
_CERTIFICATES = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
_UNNAMED = "unknown_service"
_ROOT = Context()
_rest = partial(sleep, _REST_SECONDS)
_UNSET, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


def open_tracing(given: Mapping[str, str]) -> Tracing:
    """Traces as the environment has them. given: its variables.

    Raises ConfigError for what the SDK does not understand, in its words.
    """
    said, sdk = _Said(), logging.getLogger("opentelemetry")
    # Not to our log: what is wrong is told once, and what fails later once a minute.
    sdk.handlers[:], sdk.propagate = [said], False
    # It says what a client has written into a header that is wrong.
    logging.getLogger("opentelemetry.trace").setLevel(logging.CRITICAL)
    tracing = None
    try:
        tracing = Tracing(old_names=has_old_names(given))
    except (ValueError, RuntimeError, ImportError) as error:
        said.messages.append(str(error))
    mistakes = [*_missing_files(given), *dict.fromkeys(_mistake(message, given) for message in said.messages)]
    if mistakes or tracing is None:
        if tracing is not None:
            tracing.cut()
        raise ConfigError(mistakes)
    sdk.handlers[:] = [_Complaints()]
    return tracing


def _missing_files(given: Mapping[str, str]) -> list[str]:
    names = [f"OTEL_EXPORTER_OTLP_{kind}{part}" for kind in ("", "TRACES_") for part in _CERTIFICATES]
    return [
        f"{name}: {given[name]} is no file" for name in names if given.get(name) and not Path(given[name]).is_file()
    ]


def _mistake(message: str, given: Mapping[str, str]) -> str:
    """What the SDK says, with the variable that it is about; nothing of one that may have a key in it."""
    for name in HEADERS:
        if any(part.strip() and part.strip() in message for part in given.get(name, "").split(",")):
            return f"{name}: must be NAME=VALUE, parted by commas"
    about = [name for name in given if name.removeprefix("OTEL_") in message]
    about += [name for name, value in given.items() if value and value.lower() in message.lower()]
    return f"{max(about, key=len) if about else 'OTEL_*'}: {message}"


class _Said(logging.Handler):
    """Keeps what the SDK says while it reads its variables."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class _Complaints(logging.Handler):
    """Has one line a minute of what the SDK says: a collector that is away is told of for each batch, and for more."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if (now := monotonic()) >= self._next:
            self._next = now + _QUIET_SECONDS
            reason = _SECRETS.sub("***", record.getMessage())
            log.warning("the collector of traces fails", reason=reason[:_MOST_REASON])


class _Exporter(OTLPSpanExporter):
    """The SDK's, with an encoder of ours. Counts what becomes of spans, in its one thread. taken: out of the queue."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = encoder
        self._is_open = True
        self.taken = self.exported = self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        is_exported = False
        try:
            is_exported = self._client.export(self._encoder.encoded(spans, _rest)).success
        finally:
            if is_exported:
                self.exported += len(spans)
            else:
                self.failed += len(spans)
        return SpanExportResult.SUCCESS if is_exported else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        if self._is_open:
            self._is_open = False
            super().shutdown()  # type: ignore[no-untyped-call]


class _Batches(BatchSpanProcessor):
    """The SDK's queue. most: spans in it."""

    def __init__(self, exporter: SpanExporter) -> None:
        super().__init__(exporter)
        self.most: int = self._default_max_queue_size()  # type: ignore[no-untyped-call]


class Tracing:
    """Begins the traces of requests, and exports their spans. old_names: those of earlier conventions, too."""

    def __init__(self, *, old_names: bool) -> None:
        self._old_names = old_names
        provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._sampler, self._resource = provider.sampler, provider.resource
        self._scope = InstrumentationScope("sentinel", __version__, _SCHEMA_URL)
        example = self._readable(FinishedSpan("", 1, 0, True, 0.0, 0.0, None, {}), Trace(1, 1, 0, 0), 0.0, 0)
        self._exporter = _Exporter(Encoder(example))
        self._batches = _Batches(self._exporter)
        self._queued = self._dropped = 0

    def counts(self) -> Mapping[str, int]:
        """Spans so far, by what became of them."""
        return {"exported": self._exporter.exported, "failed": self._exporter.failed, "dropped": self._dropped}

    def begin(self, route: str | None, headers: Mapping[bytes, bytes]) -> Trace:
        """The trace of a request with these headers: its client's, or a new one. Names are in lower case."""
        given = headers.get(b"traceparent")
        parent = None if given is None else parent_of(given)
        if parent is None:
            trace_id, parent_id, flags, context = new_trace_id(), 0, RANDOM, _ROOT
        else:
            trace_id, parent_id, flags = parent
            context = _context_of(parent, headers.get(b"tracestate"))
        sampled = self._sampler.should_sample(context, trace_id, route or "", SpanKind.SERVER)
        flags = (flags & RANDOM) | (SAMPLED if sampled.decision is Decision.RECORD_AND_SAMPLE else 0)
        state = sampled.trace_state.to_header() if sampled.trace_state else ""
        return Trace(trace_id, new_span_id(), parent_id, flags, state)

    def exchange_ended(self, context: RequestContext, now: float) -> None:
        """Export the spans of a request to a metered endpoint."""
        self.request_ended(context, now, "info")

    def request_ended(self, context: RequestContext, now: float, level: Level) -> None:
        """Export the spans of any other request, unless it is one that machines send every few seconds."""
        trace = context.trace
        if trace is None or not trace.is_sampled or level == "debug":
            return
        wall_ns = now_ns()
        for span in spans_of(context, trace, now, old_names=self._old_names):
            if self._queued - self._exporter.taken >= self._batches.most:
                self._dropped += 1
                continue
            self._queued += 1
            self._batches.on_end(self._readable(span, trace, now, wall_ns))

    def _readable(self, span: FinishedSpan, trace: Trace, now: float, wall_ns: int) -> ReadableSpan:
        flags, parent = TraceFlags(trace.flags), None
        state = TraceState.from_header([trace.state]) if trace.state else None
        if span.parent_id:
            parent = SpanContext(trace.trace_id, span.parent_id, span.is_ours and trace.is_remote, flags)
        return ReadableSpan(
            span.name,
            SpanContext(trace.trace_id, span.span_id, False, flags, state),
            parent,
            self._resource,
            span.attributes,
            kind=SpanKind.SERVER if span.is_ours else SpanKind.CLIENT,
            status=_UNSET if span.error is None else _FAILED,
            start_time=wall_ns - int((now - span.began) * 1e9),
            end_time=wall_ns - int((now - span.ended) * 1e9),
            instrumentation_scope=self._scope,
        )

    async def close(self) -> None:
        """Export what waits, for some seconds at most."""
        # The SDK waits for its own thread, for half a minute; nobody waits for this one.
        closing = threading.Thread(target=self._batches.shutdown, name="last spans", daemon=True)
        closing.start()
        deadline = monotonic() + FLUSH_SECONDS
        while closing.is_alive() and monotonic() < deadline:
            await pause(_LOOK_SECONDS)
        if closing.is_alive():
            log.warning("the last spans are lost", spans=self._queued - self._exporter.exported - self._exporter.failed)
            self._exporter.shutdown()

    def cut(self) -> None:
        """Nothing was exported, and nothing will be."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]


def _context_of(parent: Parent, state: bytes | None) -> Context:
    """A client's span, as samplers want it."""
    known = TraceState() if state is None else TraceState.from_header([state.decode("latin-1")])
    span = SpanContext(parent.trace_id, parent.span_id, True, TraceFlags(parent.flags), known)
    return set_span_in_context(NonRecordingSpan(span), _ROOT)


def _resource() -> Resource:
    """Who we are, unless OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say otherwise; the SDK adds an id."""
    said = Resource.create()
    name = said.attributes.get(SERVICE_NAME)
    told = {SERVICE_VERSION: __version__, **said.attributes}
    if not isinstance(name, str) or name.startswith(_UNNAMED):
        told[SERVICE_NAME] = "sentinel"
    return Resource(told, said.schema_url)
