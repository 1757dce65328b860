"""GET /openapi.json: what Sentinel serves, for whoever generates a client or a page from it.

The source is docs/openapi.yaml, which is held against real answers; `make openapi` writes it anew as JSON, beside this.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response


@cache
def document() -> bytes:
    """The page as JSON."""
    return resources.files(__package__).joinpath("openapi.json").read_bytes()


async def openapi(_: Request) -> Response:
    """It needs no token."""
    return Response(document(), media_type="application/json")
