"""Each row of the error table (DESIGN section 7), as a client sees it."""

from __future__ import annotations

import json
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import pytest

from tests.support.client import events
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import (
    CHAT,
    CLIENT_SECRETS,
    COMPACT,
    COMPLETIONS,
    COUNT_TOKENS,
    EDITS,
    EMBEDDINGS,
    FORMS,
    GENERATE,
    GENERATIONS,
    INPUT_TOKENS,
    MESSAGES,
    MODERATIONS,
    RESPONSES,
    SPEECH,
    STORES,
    chat,
    head,
    post,
    read_answer,
    send,
)
from tests.support.waiting import AT_ONCE_SECONDS, wait_until

pytestmark = pytest.mark.usefixtures("no_faults")

DEPTH = 100_000
METERED = (
    *(CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, INPUT_TOKENS, COMPACT, MESSAGES, COUNT_TOKENS),
    *(MODERATIONS, GENERATIONS, EDITS, SPEECH, GENERATE, CLIENT_SECRETS),
)
"""Those that take JSON."""


def provider_calls(stack: Stack) -> int:
    return sum(call.method == "POST" for call in stack.simulators.openai.calls)


def questions(stack: Stack) -> int:
    return sum(call.path.endswith("/users/me") for call in stack.simulators.zion.calls)


# ----------------------------------------------------------------------------------------------------- 401 and 403


@pytest.mark.parametrize("header", [None, "", "Basic YW5hOnB3", "Token abc", "abc", "Bearer", "Bearer   "])
@pytest.mark.parametrize("path", [*METERED, *FORMS, STORES, "/v1/models", "/v1/models/gpt-4o", "/v1/no/such/route"])
def test_without_a_bearer_token_nobody_is_asked(
    stack: Stack, sentinel: SentinelProcess, path: str, header: str | None
) -> None:
    """No token gives 401 missing_api_key with a challenge, and neither Zion nor the provider hears of it."""
    before = questions(stack), provider_calls(stack)
    method = "POST" if path in (*METERED, *FORMS) else "GET"
    headers: dict[str, Any] = {} if header is None else {"Authorization": header}
    answer = send(sentinel, method, path, **headers)
    assert answer.is_error(401, "missing_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-should-retry"] == "false"
    assert not any(name.startswith("x-ratelimit") for name in answer.headers)
    assert (questions(stack), provider_calls(stack)) == before


@pytest.mark.parametrize("name", ["x-api-key", "api-key", "x-goog-api-key"])
def test_a_token_may_be_where_another_format_has_it(
    stack: Stack, sentinel: SentinelProcess, token: str, name: str
) -> None:
    """It passes on every route, Authorization comes first, and the provider sees none of it."""
    stack.simulators.openai.calls.clear()
    theirs, forged = {name: token}, {name: "forged"}
    assert send(sentinel, "POST", CHAT, None, chat(), **theirs).status == 200
    assert send(sentinel, "GET", "/sentinel/quota", None, None, **theirs).status == 200
    assert send(sentinel, "POST", CHAT, token, chat(), **forged).status == 200
    assert send(sentinel, "POST", CHAT, "forged", chat(), **theirs).is_error(401, "invalid_api_key")
    for call in stack.simulators.openai.calls:
        assert name not in call.headers
        assert token not in str(call.headers)


@pytest.mark.parametrize("bad", ["x" * 20_000, "two words", "t\xf6ken", "tab\tinside"])
def test_what_can_be_no_token_is_refused_without_asking_zion(stack: Stack, sentinel: SentinelProcess, bad: str) -> None:
    """A token that no header could carry to Zion, or that is absurdly long, gives 401 at once."""
    before = questions(stack)
    answer = send(sentinel, "POST", CHAT, body=chat(), Authorization=f"Bearer {bad}")
    assert answer.is_error(401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert questions(stack) == before


@pytest.mark.parametrize("reason", ["forged", "expired", "revoked", "user revoked", "404", "success:false"])
def test_a_token_that_zion_does_not_take_gives_401(stack: Stack, sentinel: SentinelProcess, reason: str) -> None:
    """Whichever way Zion says no, the client hears 401 invalid_api_key, twice alike, and the provider hears nothing."""
    zion, before = stack.simulators.zion, provider_calls(stack)
    user, token = stack.user(f"refused-{reason.replace(' ', '-').replace(':', '-')}@corp.test")
    match reason:
        case "forged":
            token = token[:-4] + "AAAA"
        case "expired":
            token = zion.token(user, lifetime_seconds=-1)
        case "revoked":
            zion.revoke(token)
        case "user revoked":
            user.status = "revoked"
        case "404":
            zion.faults.set(status=404, path_prefix="/api/v1/users/me")
        case "success:false":
            zion.users_me_style = "success_false"
    try:
        for _ in range(2):  # The second refusal comes from memory.
            answer = post(sentinel, token, chat())
            assert answer.is_error(401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "zion-db-7.internal" not in answer.body.decode()
    finally:
        zion.users_me_style = "full"
    assert provider_calls(stack) == before


def test_who_zion_forbids_gets_403(stack: Stack, sentinel: SentinelProcess) -> None:
    """Zion's 403 is 403 access_denied."""
    _, token = stack.user("forbidden@corp.test", status="forbidden")
    assert post(sentinel, token, chat()).is_error(403, "access_denied")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_the_scheme_is_read_in_any_case(sentinel: SentinelProcess, token: str, scheme: str) -> None:
    """`bearer` in any case, with any number of spaces, is the same scheme (RFC 9110)."""
    assert send(sentinel, "GET", "/v1/models", Authorization=f"{scheme} {token}").status == 200


# -------------------------------------------------------------------------------------------------------------- 400


LONG = b"1" * 10_000


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + closing * depth


MESSAGE = b'"max_tokens":9,"messages":[{"role":"user","content":"hi"}]'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"hello",
        b"{'model':'gpt-4o'}",
        b'{"model":"gpt-4o",}',
        b'{"model":"gpt-4o"} {}',
        b"\xef\xbb\xbf{}",
        b'{"model":"gpt-4o","temperature":NaN,' + MESSAGE + b"}",
        b'{"model":"gpt-4o","temperature":01,' + MESSAGE + b"}",
        b'{"model":"gpt-\xff",' + MESSAGE + b"}",
        b'{"model":"gpt-4o","metadata":{"x":"\xc3\x28"},' + MESSAGE + b"}",
        b'{"model":"gpt-4o","\xff":1,' + MESSAGE + b"}",
        b'{"model":"gpt-4o","user":"\xed\xa0\x80",' + MESSAGE + b"}",
        b'{"model":"gpt-4o","messages":[{"role":"user","content":"\\ud83d"}]}',
        b'{"model":"gpt-4o","user":"\\ud83d",' + MESSAGE + b"}",
        b'{"model":"gpt-4o","x":' + nested(DEPTH) + b"," + MESSAGE + b"}",
        b'{"model":"gpt-4o","x":' + nested(DEPTH, b'{"a":', b"}").replace(b":}", b":1}", 1) + b"," + MESSAGE + b"}",
        b'{"model":"gpt-4o","messages":' + nested(DEPTH) + b"}",
        b'{"model":"gpt-4o","messages":' + b"[" * DEPTH,
        b'{"model":"gpt-4o","tools":[{"function":{"name":"f","parameters":' + nested(DEPTH) + b"}}]," + MESSAGE + b"}",
        b'{"model":"gpt-4o","temperature":' + LONG + b"," + MESSAGE + b"}",
        b'{"model":"gpt-4o","x":[{"y":-0.' + LONG + b"}]," + MESSAGE + b"}",
        b'{"model":"gpt-4o","x":1e' + LONG + b"," + MESSAGE + b"}",
        b'{"model":"gpt-4o","x":{"\\ude00":1},' + MESSAGE + b"}",
        b'{"model":"gpt-4o","x":[-Infinity],' + MESSAGE + b"}",
    ],
    ids=range(25),
)
@pytest.mark.parametrize("path", METERED)
def test_what_is_no_json_gives_invalid_json(
    stack: Stack, sentinel: SentinelProcess, token: str, body: bytes, path: str
) -> None:
    """Bad syntax, bad UTF-8 anywhere, lone surrogates and absurd nesting are 400 invalid_json, within a second."""
    before, started = provider_calls(stack), time.monotonic()
    assert post(sentinel, token, body, path).is_error(400, "invalid_json")
    assert time.monotonic() - started < AT_ONCE_SECONDS
    assert provider_calls(stack) == before


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 4}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": 1, "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_completion_tokens": 10**30}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": 7}}]}, "tools[0].function.name"),
    ],
    ids=str,
)
def test_a_wrong_type_names_its_field(
    sentinel: SentinelProcess, token: str, fields: dict[str, Any], param: str
) -> None:
    """A field of a wrong type or an impossible value gives 400 invalid_type with the path of the field."""
    answer = post(sentinel, token, chat(**fields))
    assert answer.is_error(400, "invalid_type", param=param)
    assert param in answer.error["message"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, b'"max_tokens":5,"max_tokens":100000', "max_tokens"),
        (CHAT, b'"max_tokens":5,"max\\u005ftokens":100000', "max_tokens"),
        (CHAT, b'"n" : 1 , "n" : 50', "n"),
        (CHAT, b'"model":"gpt-4o"', "model"),
        (CHAT, b'"user":"a","user":"b"', "user"),
        (CHAT, b'"messages":[]', "messages"),
        (CHAT, b'"stream_options":{"include_usage":true,"include_usage":false}', "stream_options.include_usage"),
        (CHAT, b'"tools":[{"type":"custom"},{"type":"custom","type":"x"}]', "tools[1].type"),
        (CHAT, b'"tools":[{"function":{"name":"f","name":"g"}}]', "tools[0].function.name"),
        (
            CHAT,
            b'"functions":[{"name":"f","parameters":{"properties":{"x":{},"x":{}}}}]',
            "functions[0].parameters.x",
        ),
        (CHAT, b'"response_format":{"type":"text","type":"json_schema"}', "response_format.type"),
        (COMPLETIONS, b'"prompt":"much","prompt":""', "prompt"),
        (COMPLETIONS, b'"best_of":1, "best_of":20', "best_of"),
        (COMPLETIONS, b'"stream_options":{"include_usage":true,"include_usage":false}', "stream_options.include_usage"),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [0, 100_000])
def test_a_key_that_comes_twice_is_named(
    stack: Stack, sentinel: SentinelProcess, token: str, path: str, fields: bytes, param: str, size: int
) -> None:
    """Two readers of such a body may take different values, so it is 400, small or large, and goes no further."""
    before = provider_calls(stack)
    rest = MESSAGE if path == CHAT else b'"prompt":"hi"' if b'"prompt"' not in fields else b'"echo":false'
    body = b'{"model":"davinci-002",%b,"pad":"%b",%b}' % (rest, b"x" * size, fields)
    answer = post(sentinel, token, body, path)
    assert answer.is_error(400, "invalid_json", param=param)
    assert f"'{param}'" in answer.error["message"]
    assert provider_calls(stack) == before


@pytest.mark.parametrize("where", ["messages[1].content", "messages[1].content[0].text"])
def test_a_key_that_comes_twice_in_a_message_is_named(sentinel: SentinelProcess, token: str, where: str) -> None:
    """What is counted is what the provider reads."""
    content = (
        b'"content":"a","content":"b"'
        if where.endswith("content")
        else b'"content":[{"type":"text","text":"","text":"b"}]'
    )
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"},{"role":"user",%b}]}' % content
    assert post(sentinel, token, body).is_error(400, "invalid_json", param=where)


def test_a_long_key_is_not_echoed_in_full(sentinel: SentinelProcess, token: str) -> None:
    """Nor are a client's words in our messages without bound."""
    key = b'"%b":1' % (b"k" * 50_000)
    answer = post(sentinel, token, b'{"model":"gpt-4o",%b,%b,%b}' % (MESSAGE, key, key))
    assert answer.status == 400
    assert len(answer.body) < 1000


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"17", b"true"])
def test_a_body_that_is_no_object_is_of_a_wrong_type(sentinel: SentinelProcess, token: str, body: bytes) -> None:
    """JSON that is no object names no field."""
    assert post(sentinel, token, body).is_error(400, "invalid_type")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": []}, "model"),
        (CHAT, {"model": "gpt-4o"}, "messages"),
        (CHAT, {"model": "gpt-4o", "messages": [{"content": "hi"}]}, "messages[0].role"),
        (CHAT, {"model": "gpt-4o", "messages": [{"role": "user"}, {}]}, "messages[1].role"),
        (CHAT, chat(tools=[{"type": "function", "function": {}}]), "tools[0].function.name"),
        (COMPLETIONS, {"prompt": "hi"}, "model"),
        (COMPLETIONS, {"model": "gpt-4o"}, "prompt"),
        (COMPLETIONS, {"model": "gpt-4o", "prompt": None}, "prompt"),
    ],
    ids=str,
)
def test_a_missing_field_is_named(
    sentinel: SentinelProcess, token: str, path: str, body: dict[str, object], param: str
) -> None:
    """A required field that is absent gives 400 missing_required_parameter with its path."""
    answer = post(sentinel, token, body, path)
    assert answer.is_error(400, "missing_required_parameter", param=param)
    assert f"'{param}'" in answer.error["message"]


@pytest.mark.parametrize("prompt", [5, {"a": 1}, [1, "a"], [None], [[["a"]]], [-1]], ids=str)
def test_a_prompt_of_no_known_form_is_of_a_wrong_type(sentinel: SentinelProcess, token: str, prompt: object) -> None:
    """Prompts are a text, texts, token ids, or arrays of these."""
    answer = post(sentinel, token, {"model": "davinci-002", "prompt": prompt}, COMPLETIONS)
    assert answer.status == 400
    assert (answer.error["code"], answer.error["param"].startswith("prompt")) == ("invalid_type", True)


def test_bad_requests_cost_nothing(stack: Stack, sentinel: SentinelProcess) -> None:
    """After refused requests Zion has exactly the one request that was good."""
    _, token = stack.user("clumsy@corp.test")
    for body in (b"{", b"[]", b'{"model":"gpt-4o"}'):
        assert post(sentinel, token, body).status == 400
    assert post(sentinel, token, chat(model="gpt-nope")).status == 404
    assert post(sentinel, token, chat("[[tokens=3]]")).status == 200
    assert stack.booked(1, "clumsy@corp.test")["ai_requests"] == 1


# ------------------------------------------------------------------------------------------------------ 404 and 405


@pytest.mark.parametrize("path", ["/v1/a%25b", "/v1", "/v1/", "/v1/organization", "/v1/v1", "/v1//", "/v1/../models"])
def test_an_unknown_url_is_told_to_callers_alone(sentinel: SentinelProcess, token: str, path: str) -> None:
    """Below /v1, strangers get 401 and callers 404 unknown_url."""
    assert send(sentinel, "GET", path).is_error(401, "missing_api_key")
    answer = send(sentinel, "GET", path, token)
    assert answer.is_error(404, "unknown_url")
    assert f"GET {unquote(path)}. Sentinel serves " in answer.error["message"]


@pytest.mark.parametrize("path", ["/", "/nope", "/v2/models", "/healthz", "/v1x", "/%2e%2e/v1/models", "/a?b=c"])
def test_an_unknown_url_elsewhere_needs_no_token(sentinel: SentinelProcess, path: str) -> None:
    """Outside of /v1 an unknown URL is 404 for everybody."""
    assert send(sentinel, "GET", path).is_error(404, "unknown_url")


def test_a_long_unknown_url_is_not_echoed_in_full(sentinel: SentinelProcess) -> None:
    """A path of 30 KB gives a short 404, which names the routes that there are."""
    answer = send(sentinel, "GET", "/" + "a" * 30_000)
    assert answer.is_error(404, "unknown_url")
    assert len(answer.body) < 2000


@pytest.mark.parametrize("host", ["[", "", "]:x", "h:99999999"])
def test_an_odd_host_header_changes_nothing(sentinel: SentinelProcess, token: str, host: str) -> None:
    """What a client writes into Host has no part in routing."""
    assert send(sentinel, "GET", "/v1/organization", token, Host=host).is_error(404, "unknown_url")
    assert send(sentinel, "GET", "/health/live", Host=host).status == 200


def test_a_wrong_method_names_the_right_ones(sentinel: SentinelProcess, token: str) -> None:
    """405 says in Allow what would do; below /v1 only to callers."""
    for method, path in (("PUT", CHAT), ("GET", COMPLETIONS)):
        assert send(sentinel, method, path).is_error(401, "missing_api_key")
        answer = send(sentinel, method, path, token)
        assert answer.is_error(405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"
    answer = send(sentinel, "POST", "/v1/models", token, b"{}")
    assert answer.is_error(405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]
    for path in ("/health", "/health/ready", "/health/live", "/metrics"):
        assert send(sentinel, "POST", path).is_error(405, "method_not_allowed")


def test_a_model_that_is_not_there_is_model_not_found(sentinel: SentinelProcess, token: str) -> None:
    """GET /v1/models/nope names the model."""
    answer = send(sentinel, "GET", "/v1/models/nope", token)
    assert answer.is_error(404, "model_not_found", param="model")
    assert "'nope'" in answer.error["message"]


@pytest.mark.parametrize("name", ["..", "%2e%2e", ".", "..%2f..%2fv1%2fmodels"])
def test_a_model_name_reaches_no_other_path(stack: Stack, sentinel: SentinelProcess, token: str, name: str) -> None:
    """Dots and slashes in a model's name cannot lead our key to another path at the provider."""
    assert send(sentinel, "GET", f"/v1/models/{name}", token).is_error(404, "model_not_found", param="model")
    assert all(call.path.startswith("/v1/models") for call in stack.simulators.openai.calls if call.method == "GET")


def test_a_chat_with_an_unknown_model_gets_the_providers_answer(sentinel: SentinelProcess, token: str) -> None:
    """The provider's own 404 passes, for a stream as well."""
    for stream in (False, True):
        answer = post(sentinel, token, chat(model="gpt-nope", stream=stream))
        assert answer.is_error(404, "model_not_found", param="model")
        assert answer.headers["x-upstream-request-id"].startswith("req_")


# -------------------------------------------------------------------------------------------------- the provider's own


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 404, 409, 418, 422, 429])
def test_the_providers_4xx_passes(
    stack: Stack, sentinel: SentinelProcess, token: str, status: int, stream: bool
) -> None:
    """Its status, its body byte for byte and its Retry-After."""
    body = b'{"error": {"message":"caf\xc3\xa9",  "type":"odd","param":null,"code":null,"new_field":1}}\n'
    stack.simulators.openai.faults.set(status=status, body=body, retry_after="7", path_prefix="/v1/chat")
    answer = post(sentinel, token, chat(stream=stream))
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (status, body, "7")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [401, 403, 500, 502, 503, 529, 302, 204])
def test_what_is_not_the_clients_fault_is_502(
    stack: Stack, sentinel: SentinelProcess, token: str, status: int, stream: bool
) -> None:
    """The provider's 5xx, its 401/403 for our key and redirects are 502, without a word of what it said."""
    stack.simulators.openai.faults.set(status=status, body=b'{"error":"sk-sim org-secret"}', path_prefix="/v1/chat")
    answer = post(sentinel, token, chat(stream=stream))
    assert answer.is_error(502, "upstream_error", "server_error")
    assert b"secret" not in answer.body
    assert b"sk-sim" not in answer.body


@pytest.mark.parametrize(
    "body", [b"", b"{", b"<html>Bad gateway</html>", b'{"choices":[', b"null", b"[]", b'{"a":"\xff"']
)
def test_a_broken_answer_is_502(stack: Stack, sentinel: SentinelProcess, token: str, body: bytes) -> None:
    """A 200 whose body is no JSON object is no answer."""
    stack.simulators.openai.faults.set(body=body, path_prefix="/v1/chat")
    assert post(sentinel, token, chat()).is_error(502, "upstream_error", "server_error")


def test_a_cut_answer_is_502(sentinel: SentinelProcess, token: str) -> None:
    """An answer whose connection breaks midway is no answer."""
    assert post(sentinel, token, chat("[[tokens=50 break_after=5]]")).is_error(502, "upstream_error", "server_error")


def test_a_stream_that_breaks_ends_with_an_error_event(sentinel: SentinelProcess, token: str) -> None:
    """The last event is an error, and no [DONE] pretends that all was well."""
    answer = post(sentinel, token, chat("[[tokens=50 break_after=5]]", stream=True))
    assert answer.status == 200
    *chunks, last = events(answer.body)
    error = json.loads(last)["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "upstream_error", None)
    assert sum(bool(json.loads(chunk)["choices"][0]["delta"].get("content")) for chunk in chunks) == 5
    assert b"[DONE]" not in answer.body


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_of_the_provider_may_be_long(
    stack: Stack, sentinel: SentinelProcess, token: str, stream: bool
) -> None:
    """It passes with all of its body."""
    refusal = json.dumps({"error": {"message": "x" * 3_000_000}}).encode()
    stack.simulators.openai.faults.set(status=400, body=refusal, times=1)
    answer = post(sentinel, token, chat(stream=stream))
    assert (answer.status, answer.body) == (400, refusal)


def test_a_provider_that_is_away_is_502(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """No connection is 502 at once, for answers and streams; and all is well when the provider is back."""
    server = stack.simulators.openai_server
    server.stop()
    try:
        for stream in (False, True):
            started = time.monotonic()
            assert post(sentinel, token, chat(stream=stream)).is_error(502, "upstream_error", "server_error")
            assert time.monotonic() - started < AT_ONCE_SECONDS
    finally:
        server.start()
    assert post(sentinel, token, chat()).status == 200


# -------------------------------------------------------------------------------------------- 408, 413, 431, 503, 504


@pytest.fixture(scope="module")
def strict(stack: Stack) -> SentinelProcess:
    """A Sentinel with small bounds."""
    return stack.sentinel(
        MAX_BODY_BYTES="100000",
        REQUEST_HEADER_TIMEOUT_SECONDS="1",
        REQUEST_BODY_TIMEOUT_SECONDS="1",
        UPSTREAM_IDLE_TIMEOUT_SECONDS="1",
    )


def test_a_declared_large_body_is_refused_unread(strict: SentinelProcess, token: str) -> None:
    """413 comes before the first byte of the body, and the connection ends."""
    with raw_connection(strict) as connection:
        connection.sendall(head(headers=[f"authorization: Bearer {token}", "content-length: 100001"]))
        answer = read_answer(connection)
        assert answer.is_error(413, "request_too_large")
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-request-id"].startswith("req_")


def test_the_largest_body_passes_and_one_byte_more_does_not(strict: SentinelProcess, token: str) -> None:
    """MAX_BODY_BYTES is the size of the largest body that is taken."""
    body = json.dumps(chat("[[tokens=1]]")).encode()
    assert post(strict, token, body + b" " * (100_000 - len(body))).status == 200
    assert post(strict, token, body + b" " * (100_001 - len(body))).is_error(413, "request_too_large")


def test_an_endless_body_is_refused_while_it_comes(strict: SentinelProcess, token: str) -> None:
    """A client that never stops sending can read its 413, and is then cut off."""
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    with raw_connection(strict) as connection:
        connection.sendall(head(headers=[f"authorization: Bearer {token}", "transfer-encoding: chunked"]))
        connection.sendall(chunk * 7)
        assert read_answer(connection).is_error(413, "request_too_large")
        with pytest.raises(ConnectionError):
            wait_until(lambda: connection.sendall(chunk), "the end of the connection")


def test_a_stranger_cannot_send_for_ever(strict: SentinelProcess) -> None:
    """Who gets a 401 may send the rest of a body, but only as long as a body may take."""
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    with raw_connection(strict) as connection:
        connection.sendall(head(headers=["transfer-encoding: chunked"]) + chunk)
        assert read_answer(connection).is_error(401, "missing_api_key")
        with pytest.raises(ConnectionError):
            wait_until(lambda: connection.sendall(chunk), "the end of the connection")


def test_a_slow_body_is_408(strict: SentinelProcess, token: str) -> None:
    """A body that does not come in time is 408, and the connection ends."""
    with raw_connection(strict) as connection:
        connection.sendall(head(headers=[f"authorization: Bearer {token}", "content-length: 100"]) + b'{"model":')
        answer = read_answer(connection)
    assert answer.is_error(408, "request_timeout")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("stream", [False, True])
def test_a_silent_provider_is_504(stack: Stack, strict: SentinelProcess, token: str, stream: bool) -> None:
    """Nothing for UPSTREAM_IDLE_TIMEOUT_SECONDS: 504 before the answer has begun, an error event afterwards.

    The provider is asked once: it may be at work on what it was sent.
    """
    before = provider_calls(stack)
    if stream:
        answer = post(strict, token, chat("[[tokens=9 hang_after=3]]", stream=True))
        assert json.loads(events(answer.body)[-1])["error"]["code"] == "upstream_timeout"
        assert b"[DONE]" not in answer.body
    else:
        answer = post(strict, token, chat("[[first_delay=20]]"))
        assert answer.is_error(504, "upstream_timeout", "server_error")
    assert provider_calls(stack) == before + 1


def test_a_provider_that_sends_slowly_but_steadily_is_not_cut(strict: SentinelProcess, token: str) -> None:
    """The time limit is between bytes, not for the whole."""
    answer = post(strict, token, chat("[[tokens=6 delay=0.3]]", stream=True))
    assert events(answer.body)[-1] == "[DONE]"


def test_zion_away_with_an_unknown_token_is_503(stack: Stack, sentinel: SentinelProcess) -> None:
    """503 within 3 s, with Retry-After, and nothing of what Zion said."""
    faults = stack.simulators.zion.faults
    every: list[dict[str, Any]] = [{"hang": True}, {"status": 500}, {"drop": True}, {"body": b"{"}]
    for index, fault in enumerate(every):
        _, token = stack.user(f"early{index}@corp.test")
        faults.set(path_prefix="/api/v1/users/me", **fault)
        started = time.monotonic()
        answer = post(sentinel, token, chat())
        assert answer.is_error(503, "service_unavailable", "server_error")
        assert time.monotonic() - started < AT_ONCE_SECONDS
        assert int(answer.headers["retry-after"]) >= 1
        assert b"zion-db-7.internal" not in answer.body
    faults.clear()
    wait_until(lambda: post(sentinel, token, chat()).status == 200, "service after Zion is back")


def test_zion_is_given_three_seconds_in_all(stack: Stack, sentinel: SentinelProcess) -> None:
    """For the user of a token and the limits of that user together."""
    _, token = stack.user("slow-zion@corp.test")
    faults = stack.simulators.zion.faults
    faults.set(delay_seconds=2.0)
    assert post(sentinel, token, chat()).is_error(503, "service_unavailable", "server_error")
    faults.clear()
    assert post(sentinel, token, chat()).status == 200


@pytest.mark.parametrize(
    "fault",
    [{"status": 405}, {"status": 500}, {"body": b"{"}, {"body": b'{"success":true,"data":{"id":"u"}}'}],
    ids=str,
)
def test_an_odd_answer_of_zion_keeps_nobody_else_out(
    stack: Stack, sentinel: SentinelProcess, fault: dict[str, Any]
) -> None:
    """What Zion has against one token, or one user's record, is no outage for the others."""
    email = f"odd{zlib.crc32(str(fault).encode())}@corp.test"
    for number in range(5):
        _, odd = stack.user(f"one{number}{email}")
        stack.simulators.zion.faults.set(times=1, path_prefix="/api/v1/users/me", **fault)
        assert post(sentinel, odd, chat()).is_error(503, "service_unavailable", "server_error")
        _, token = stack.user(f"other{number}{email}")
        assert post(sentinel, token, chat()).status == 200


def test_while_zion_hangs_one_asks_and_others_hear_it_at_once(stack: Stack, sentinel: SentinelProcess) -> None:
    """After a few look-ups without an answer only one waits at a time; the first answer ends that."""
    zion = stack.simulators.zion
    tokens = [stack.user(f"hanging{number}@corp.test")[1] for number in range(12)]
    zion.faults.set(hang=True, path_prefix="/api/v1/users/me")

    def refused(token: str) -> bool:
        return post(sentinel, token, chat()).is_error(503, "service_unavailable", "server_error")

    with ThreadPoolExecutor(len(tokens)) as pool:
        assert all(pool.map(refused, tokens[:3]))
        asked = len(zion.calls)
        assert all(pool.map(refused, tokens[3:]))
    # Of nine at once; on a busy machine the last may come when the first has had its answer.
    assert 1 <= len(zion.calls) - asked <= 3
    zion.faults.clear()
    assert {post(sentinel, token, chat()).status for token in tokens} == {200}


def test_zions_own_429_is_503_with_its_retry_after(stack: Stack, sentinel: SentinelProcess) -> None:
    """Zion's limit is not the client's: 503, to be tried again when Zion says."""
    _, token = stack.user("throttled@corp.test")
    stack.simulators.zion.faults.set(status=429, retry_after="9", path_prefix="/api/v1/users/me")
    answer = post(sentinel, token, chat())
    assert answer.is_error(503, "service_unavailable", "server_error")
    assert answer.headers["retry-after"] == "9"


@pytest.mark.parametrize("headers", [{}, {"connection": "Upgrade", "upgrade": "h2c"}])
def test_who_asks_for_no_websocket_is_told_so(sentinel: SentinelProcess, token: str, headers: dict[str, str]) -> None:
    """Codex takes no other status for an answer that sends it to HTTP; strangers learn nothing."""
    answer = send(sentinel, "GET", "/v1/responses", token, None, **headers)
    assert answer.is_error(426, "upgrade_required")
    assert answer.headers["upgrade"] == "websocket"
    assert "POST /v1/responses" in answer.error["message"]
    assert send(sentinel, "GET", "/v1/responses", None, None, **headers).is_error(401, "missing_api_key")
