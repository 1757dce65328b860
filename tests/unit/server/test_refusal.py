"""Refusals before the application is asked: in the shape that the path has."""

from __future__ import annotations

import asyncio
import json

import pytest
from uvicorn.server import ServerState

from sentinel.config import Settings
from sentinel.error import AppError, InvalidJson, Renderer, body_of
from sentinel.server.connection import HttpConnection
from sentinel.server.refusal import context_of, renderer_for
from sentinel.server.serve import config_for
from tests.support.waiting import PATIENCE_SECONDS
from tests.unit.server.test_connection import Transport, echo_app

MESSAGES = "/v1/messages"


def _render_other(error: AppError, request_id: str) -> bytes:
    return json.dumps({"type": "error", "error": {"message": error.message}, "request_id": request_id}).encode()


def _choose(path: str) -> Renderer | None:
    return _render_other if path == MESSAGES else None


def test_a_path_that_the_application_does_not_name_has_openais_shape() -> None:
    """So has every path where the application names none."""
    assert renderer_for({}, MESSAGES) is body_of
    assert renderer_for({"error_renderer": _choose}, "/v1/chat/completions") is body_of
    assert renderer_for({"error_renderer": _choose}, MESSAGES) is _render_other


@pytest.mark.parametrize("path", [MESSAGES, "/v1/chat/completions"])
async def test_a_refused_head_is_answered_in_the_shape_of_its_path(path: str) -> None:
    """Also where it broke off behind the request line."""
    settings = Settings(zion_api_url="http://127.0.0.1:1", zion_api_key="k", openai_api_key="k")
    config = config_for(echo_app, settings)
    config.load()
    connection, transport = HttpConnection(config, ServerState(), {"error_renderer": _choose}), Transport()
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.data_received(b"POST %b?a=b HTTP/1.1\r\nbad header\r\n\r\n" % path.encode())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await transport.answered.wait()
    head, _, body = transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"x-request-id: req_" in head
    assert ("type" in json.loads(body)) is (path == MESSAGES)
    if path == MESSAGES:
        assert json.loads(body)["request_id"].encode() in head
    connection.connection_lost(None)


def test_the_log_knows_the_path_without_its_query() -> None:
    """A query may hold a key."""
    context = context_of(InvalidJson("no"), b"/v1/a%20b?key=secret", [(b"user-agent", b"x")], ("10.0.0.1", 1))
    assert (context.path, context.client, context.agent, context.outcome) == ("/v1/a b", "10.0.0.1", b"x", "refused")
