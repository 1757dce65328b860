"""Every path below /v1 that is no other route's: which of them pass, and what is sent on for them.

What is judged is what is sent: a path is put together anew from its decoded segments, and one with a segment that could
mean something else to a provider (dots, slashes, percent signs, control characters) is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.endpoint import Endpoint
from sentinel.endpoints.families import ObjectPath, object_path_of

PATH = "/v1/{path}"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_MOST_SEGMENTS = 16
_SEGMENT = re.compile(r"(?!\.+\Z)[A-Za-z0-9._~:@!$'()*+,=-]{1,256}")
_GENERATES = re.compile(
    r".*/(complete|completions|embeddings|responses|messages|generations|edits|variations|speech|transcriptions|translations)"
    r"|.*:\w*(generate|predict|embed)\w*",
    re.IGNORECASE,
)
"""How paths end at which providers generate."""
_BESIDE = (("GET", re.compile(re.escape(CHAT.route))), ("DELETE", re.compile(r"/v1/models/.+")))
"""Of paths that are other routes', the methods that these do not serve and the provider does."""


class PassedRoute(Route):
    """Stands for all such paths where routes are listed. It matches none: they are served before Starlette is asked."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:  # noqa: ARG002 (Starlette's)
        """Never."""
        return Match.NONE, {}


async def _never(_: Request) -> Response:
    raise AssertionError("served before Starlette is asked")


ROUTE = PassedRoute(PATH, _never, methods=list(METHODS))


def passed_path(method: str, path: str, *, is_route: bool) -> tuple[ObjectPath, bytes] | None:
    """What a path is about, and how it is sent on, after `/v1`; None where it is not passed through.

    path: decoded, and as `served_path` has it. is_route: another route has it, in whatever case, for other methods at
    least. What nobody could hold to a limit is none.
    """
    if method not in METHODS or not path.startswith("/v1/"):
        return None
    if is_route and not any(method == other and form.fullmatch(path) for other, form in _BESIDE):
        return None
    segments = path.split("/")[2:]
    if len(segments) > _MOST_SEGMENTS or not all(map(_SEGMENT.fullmatch, segments)):
        return None
    about = object_path_of(segments)
    if about is not None and method == "POST" and _is_unbounded(about, path):
        return None
    return None if about is None else (about, "/".join(["", *segments]).encode("ascii"))


def _is_unbounded(about: ObjectPath, path: str) -> bool:
    """Whether what is asked for there would generate unseen: past us, or in a family that nobody knows."""
    return about.goes_past_us or (not about.is_known and _GENERATES.fullmatch(path) is not None)


def spoken_at(path: str, endpoints: Mapping[str, Endpoint[Any]]) -> Endpoint[Any]:
    """The endpoint whose errors a client of this path expects: that above it, else OpenAI's."""
    above = [endpoint for route, endpoint in endpoints.items() if path == route or path.startswith(f"{route}/")]
    return max(above, key=lambda endpoint: len(endpoint.route), default=CHAT)
