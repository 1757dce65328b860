"""What handlers may use, assembled by `app.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sentinel.config import Settings
from sentinel.observability.metrics import Metrics
from sentinel.proxy.catalog import ModelCatalog
from sentinel.proxy.logging import Level, RequestContext
from sentinel.proxy.state import Dependencies
from sentinel.proxy.trace import Trace
from sentinel.routes.probe import Probe

BeginTrace = Callable[[str | None, Mapping[bytes, bytes]], Trace]
"""Begins the trace of a request to this route with these headers."""


@dataclass(frozen=True, slots=True)
class AppState:
    """The parts that handlers speak for. on_end: told of each request that was no exchange. begin_trace: if traced."""

    settings: Settings
    deps: Dependencies
    catalog: ModelCatalog
    metrics: Metrics
    probe: Probe
    on_end: Callable[[RequestContext, Level], None]
    begin_trace: BeginTrace | None = None
