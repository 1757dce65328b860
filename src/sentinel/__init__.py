"""Sentinel: an OpenAI-compatible AI proxy that admits, counts, relays and reports.

Start reading at `proxy/exchange.py`, where one request goes by from top to bottom; `docs/architecture.md` is the map.
"""

import sys

__version__ = "0.1.0"

# structlog imports rich where that is installed, which takes 4 MB of each worker, and has no use for it in our logs.
_without_rich = sys.modules.setdefault("rich", None) is None  # type: ignore[arg-type]
import structlog  # noqa: E402, F401

if _without_rich:
    del sys.modules["rich"]
