"""Sentinel: an OpenAI-compatible AI proxy that admits, counts, relays and reports.

Start reading at `proxy/exchange.py`, where one request goes by from top to bottom; `docs/architecture.md` is the map.
"""

__version__ = "0.1.0"
