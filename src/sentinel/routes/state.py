"""What handlers may use, assembled by `app.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sentinel.config import Settings
from sentinel.observability.metrics import Metrics
from sentinel.proxy.catalog import ModelCatalog
from sentinel.proxy.logging import Level, RequestContext
from sentinel.proxy.state import Dependencies
from sentinel.routes.probe import Probe


@dataclass(frozen=True, slots=True)
class AppState:
    """The parts that handlers speak for. on_end: told of each request that was no exchange."""

    settings: Settings
    deps: Dependencies
    catalog: ModelCatalog
    metrics: Metrics
    probe: Probe
    on_end: Callable[[RequestContext, Level], None]
