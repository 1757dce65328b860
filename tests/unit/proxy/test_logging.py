"""The log line of a request has its facts and none of its secrets."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.governance.port import AuthenticatedUser
from sentinel.proxy.logging import RequestContext, log_path, new_request_id


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
    context.forwarded, context.first_byte, context.provider_seconds = 100.002, 100.25, 0.9
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


def test_what_others_write_is_bounded_and_harmless() -> None:
    """Names of models, ids and reasons cannot steer a terminal, nor make a line endless."""
    context = RequestContext("req_1", "/", started=0.0, model="a\x9b2J\u202eb")
    context.upstream_request_id, context.finish_reason = "up\x85", "\x1b[2J" + "r" * 5000
    line = context.line(1.0, "now")
    assert (line.model, line.upstream_request_id) == ("a?2J?b", "up?")
    assert line.finish_reason == "?[2J" + "r" * 92
    assert msgspec.json.encode(line).decode().isprintable()


def test_ids_differ() -> None:
    """Every request has a name of its own."""
    ids = {new_request_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(name) == 28 and name.startswith("req_") for name in ids)


def agent_of(value: bytes) -> str | None:
    return RequestContext("req_1", "/", started=0.0, agent=value).line(1.0, "now").user_agent


def test_a_user_agent_is_bounded_and_harmless() -> None:
    """What a client calls itself cannot fill the log, steer a terminal, or name a person or a key."""
    assert agent_of(b"OpenAI/Python 2.8.1 (Linux; +https://a.test)") == "OpenAI/Python 2.8.1 (Linux; +https://a.test)"
    assert agent_of(b"") is None
    assert len(agent_of(b"word " * 20_000) or "") == 200
    assert agent_of(b"a\x1b[31m\x9b2J\x7f\xe9\tb") == "a?[31m?2J?é?b"
    assert agent_of(b"bot/1 (ana@corp.test) sk-sentinel-77 Bearer:abc " + b"x" * 41) == "bot/1 * * * *"


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/v1/chat/completion", "/v1/chat/completion"),
        ("/v1beta/models/gemini-pro:streamGenerateContent", "/v1beta/models/gemini-pro:streamGenerateContent"),
        ("/wp-login.php", "/wp-login.php"),
        ("/.env", "/.env"),
        ("/", "/"),
        ("/v1/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbmEifQ.abc", "/v1/*"),
        ("/v1/eyJhbGciOiJub25lIn", "/v1/*"),
        ("/sk-abcdef", "/*"),
        ("/users/ana@corp.test/x", "/users/*/x"),
        ("/tell me a secret", "/*"),
        ("/0123456789abcdef", "/*"),
        ("/qwertyuiopasdfghjklzxcvb", "/*"),
        ("/v1/a\x1b[2J\n", "/v1/*"),
        ("/a\\sk-b", "/a/*"),
        ("/v1/operators-own", "/v1/*"),
        ("/a" * 9, "/a" * 8 + "/..."),
        ("/" + "a" * 30_000, "/*/..."),
    ],
)
def test_of_a_strange_path_the_words_are_logged(path: str, logged: str) -> None:
    """Enough to see what a client is after; nothing that could be a token, a key, an address or a prompt."""
    assert log_path(path, ["operators-own"]) == logged


@given(st.text(), st.text())
def test_whatever_a_path_holds_its_line_is_short_and_printable(before: str, after: str) -> None:
    """No path makes a line long, and what must not be seen is not."""
    logged = log_path(f"/{before}/s3cret-token/{after}")
    assert len(logged) <= 204
    assert logged.isascii()
    assert logged.isprintable()
    assert "s3cret" not in logged
