"""A request's states: whatever happens to it, and in whatever order, only the transitions of its tables are taken."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from uvicorn.server import ServerState

from sentinel.config import Settings
from sentinel.server import request as states
from sentinel.server.connection import HttpConnection
from sentinel.server.request import Answer, Body, ServedRequest
from sentinel.server.serve import config_for
from tests.unit.server.test_connection import Transport, echo_app


class Recorded(ServedRequest):
    """Remembers its transitions."""

    answers: set[tuple[Answer, Answer]] = set()  # noqa: RUF012 (of all)
    bodies: set[tuple[Body, Body]] = set()  # noqa: RUF012 (of all)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_answer", "_body") and hasattr(self, name) and getattr(self, name) is not value:
            {"_answer": self.answers, "_body": self.bodies}[name].add((getattr(self, name), value))  # type: ignore[attr-defined]
        super().__setattr__(name, value)


async def _act(request: Recorded, action: str) -> None:
    match action:
        case "whole" | "unfinished" | "chunked":
            length = None if action == "chunked" else 1
            request.send_head(200, b"", b"x", length, close=False, more=action != "whole")
        case "head":
            await request.send({"type": "http.response.start", "status": 204, "headers": []})
            await request.send({"type": "http.response.body", "body": b"x", "more_body": True})
        case "more" | "last":
            request.send_piece(b"x", more=action == "more")
        case "lost":
            request.lost()
        case "upgrade":
            request.accept_upgrade(b"", asyncio.Protocol())
        case "body":
            request.has_come()
        case "receive":
            receiving = asyncio.ensure_future(request.receive())
            await asyncio.sleep(0)
            receiving.cancel()


async def test_only_the_transitions_of_the_tables_are_taken() -> None:
    """And each of them is taken by some order of events."""
    settings = Settings(zion_api_url="http://127.0.0.1:1", zion_api_key="k", openai_api_key="k")
    config = config_for(echo_app, settings)
    config.load()
    actions = ("whole", "unfinished", "chunked", "head", "more", "last", "lost", "upgrade", "body", "receive")
    for order in itertools.permutations(actions, 3):
        connection = HttpConnection(config, ServerState(), {})
        connection.connection_made(Transport())  # type: ignore[arg-type]
        expects, target = [(b"expect", b"100-continue")], ("/", b"/", b"")
        request = Recorded(connection, "GET", target, "1.1", expects, dict(expects), keep_alive=True)
        connection.served = connection.offered = request
        for action in order:
            await _act(request, action)
        connection.connection_lost(None)
    assert Recorded.answers == {(one, other) for one, others in states.ANSWER_CHANGES.items() for other in others}
    assert Recorded.bodies == {(one, other) for one, others in states.BODY_CHANGES.items() for other in others}
