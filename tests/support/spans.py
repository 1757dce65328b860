"""A collector of traces on a real socket: OTLP over HTTP, decoded as OpenTelemetry's own protocol has it."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from sentinel.dev.exchange import Call, Exchange
from sentinel.dev.server import Server
from tests.support.waiting import PATIENCE_SECONDS, wait_until

SERVER, CLIENT = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT
_LOOK_SECONDS = 0.01


@dataclass(frozen=True)
class SeenSpan:
    """A span as it arrived. parent: "" for none. start, end: nanoseconds. resource: of the process that sent it."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    start: int
    end: int
    failed: bool
    state: str
    attributes: dict[str, Any]
    resource: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]


@dataclass
class Collector:
    """Takes spans, until `stop`. status: of its answers. silent: while set, it answers nobody."""

    status: int = 200
    silent: threading.Event = field(default_factory=threading.Event)
    calls: list[Call] = field(default_factory=list)
    spans: list[SeenSpan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._server = Server(self._app)

    @property
    def url(self) -> str:
        """What goes into OTEL_EXPORTER_OTLP_ENDPOINT."""
        return self._server.url

    def settings(self, **more: str) -> dict[str, str]:
        """The settings of a Sentinel that exports to it at once."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50", **more}

    def of(self, request_id: str, count: int, seconds: float = PATIENCE_SECONDS) -> list[SeenSpan]:
        """All spans of this request, the server's first, then in the order in which they began; so many of them."""

        def found() -> list[SeenSpan] | None:
            ours = [span for span in self.spans if span.attributes.get("sentinel.request_id") == request_id]
            spans = ours + [span for span in self.spans if ours and span.parent == ours[0].id and span.kind == CLIENT]
            return sorted(spans, key=lambda span: (span.kind, span.start)) if len(spans) >= count else None

        spans = wait_until(found, f"{count} spans of {request_id}", seconds)
        assert len(spans) == count, spans
        return spans

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(scope, receive, send)
        if not await exchange.read():
            return
        while self.silent.is_set():
            if not await exchange.pause(_LOOK_SECONDS):
                return
        call = exchange.record()
        self.calls.append(call)
        if self.status == 200:
            assert (call.path, call.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
            body = gzip.decompress(call.raw) if call.headers.get("content-encoding") == "gzip" else call.raw
            self.spans += _read(body)
        await exchange.answer(self.status, b"", content_type="application/x-protobuf")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Be away from now on."""
        self.silent.clear()
        if self._server.running:
            self._server.stop()


def _read(body: bytes) -> list[SeenSpan]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        SeenSpan(
            span.name,
            span.kind,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            span.status.code == Status.STATUS_CODE_ERROR,
            span.trace_state,
            {each.key: _value(each.value) for each in span.attributes},
            {each.key: _value(each.value) for each in of_process.resource.attributes},
        )
        for of_process in request.resource_spans
        for of_scope in of_process.scope_spans
        for span in of_scope.spans
    ]


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)
