"""The log line of a request has its facts and none of its secrets."""

from __future__ import annotations

import msgspec

from sentinel.proxy.logging import RequestContext, new_request_id
from sentinel.zion.models import AuthenticatedUser


def test_an_address_is_no_name() -> None:
    """A user whose id is an e-mail address is named by a digest of it, always the same."""
    context = RequestContext("req_1", "/v1/chat/completions", started=0.0)
    names = []
    for identity in ("ext-7", "ana@corp.test", "ana@corp.test", "bo@corp.test"):
        context.user = AuthenticatedUser(identity, "ana@corp.test")
        line = context.line(1.0, "now")
        assert "@" not in msgspec.json.encode(line).decode()
        names.append(line.user_id)
    assert names[0] == "ext-7"
    assert len(set(names)) == 3


def test_the_line_tells_what_happened_and_to_whom() -> None:
    """Durations in milliseconds; our own share is what the provider did not take."""
    context = RequestContext("req_1", "/v1/chat/completions", started=100.0)
    context.user = AuthenticatedUser("ana", "ana@corp.test")
    context.model, context.streamed, context.status, context.outcome = "gpt-4o", True, 200, "ok"
    context.sent, context.first_byte, context.provider_seconds = 100.002, 100.25, 0.9
    context.input_tokens, context.output_tokens, context.tokens_from = 9, 4, "provider"
    line = msgspec.to_builtins(context.line(101.0, "2026-01-02T03:04:05.678Z"))
    assert line["request_id"] == "req_1"
    assert (line["user_id"], line["model"], line["status"], line["outcome"]) == ("ana", "gpt-4o", 200, "ok")
    assert (line["input_tokens"], line["output_tokens"], line["tokens_from"]) == (9, 4, "provider")
    assert (line["total_ms"], line["provider_ms"], line["overhead_ms"], line["first_byte_ms"]) == (1000, 900, 100, 250)
    assert "@" not in str(line)


def test_a_line_without_a_caller() -> None:
    """A request that ended before anything was known has a line, too."""
    line = RequestContext("req_1", "/v1/completions", started=1.0).line(1.5, "now")
    assert (line.user_id, line.first_byte_ms, line.outcome, line.tokens_from) == (None, None, "error", "none")


def test_a_name_of_a_model_is_cut() -> None:
    """What a client calls its model cannot make a line endless."""
    context = RequestContext("req_1", "/", started=0.0, model="m" * 5000)
    assert len(context.line(1.0, "now").model) == 96


def test_ids_differ() -> None:
    """Every request has a name of its own."""
    ids = {new_request_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(name) == 28 and name.startswith("req_") for name in ids)
