"""How paths are read: what clients put together wrongly is served in place, and nothing leads where it should not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.support.client import Answer
from tests.support.scripted import Script, ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import CHAT, COMPLETIONS, GENERATE, RESPONSES, STORES, asked, head, read_answer, send
from tests.support.waiting import AT_ONCE_SECONDS

ADMIN_KEY = "operators-key"


@pytest.fixture(scope="module")
def sentinel(stack: Stack) -> SentinelProcess:
    return stack.sentinel(ADMIN_KEY=ADMIN_KEY, RATE_LIMITS="ai_requests=100000/60s")


def over_the_wire(sentinel: SentinelProcess, method: str, target: str, key: str, body: bytes = b"") -> Answer:
    """One request whose target is sent as it is, and the answer as it came: no library corrects or follows anything."""
    headers = [f"authorization: Bearer {key}", f"content-length: {len(body)}"]
    with raw_connection(sentinel) as connection:
        connection.sendall(head(target, method, headers) + body)
        return read_answer(connection)


TEXTS = (CHAT, COMPLETIONS, RESPONSES, GENERATE, STORES)


def forms(path: str) -> list[str]:
    """How clients spell a path whose base URL has a slash, a `/v1` or a query of its own."""
    rest = path.removeprefix("/v1") if path.startswith("/v1/") else path
    spelled = [
        path,
        f"{path}/",
        f"{path}//",
        f"/{path}",
        f"//{path}/",
        f"{path}?api-version=2024-10-21",
        f"{path}/?a=1",
    ]
    spelled += [f"http://sentinel{path}", f"http://sentinel/{path}/", path.replace("e", "%65")]
    if rest != path:
        spelled += [f"/v1/{rest}", f"/v1{path}", f"/v1{path}/", f"/v1//v1/{rest}", f"//v1/v1{rest}?a=/v1/x"]
        spelled += [f"/v1/v1{path}"]
    if path.startswith("/v1beta/"):
        spelled += [f"/v1beta{path}", f"/v1{path}/", f"/v1/v1beta/{path}", path.replace(":", "%3A")]
    return spelled


@pytest.mark.parametrize(("path", "target"), [(path, form) for path in TEXTS for form in forms(path)])
def test_a_hot_route_is_served_in_place(
    stack: Stack, sentinel: SentinelProcess, token: str, path: str, target: str
) -> None:
    """Answered at once, never redirected, and the provider sees the one right path without our client's query."""
    body = json.dumps(asked(path, "[[tokens=1]]")).encode()
    answer = over_the_wire(sentinel, "POST", target, token, body)
    assert answer.status == 200, answer.body
    assert "location" not in answer.headers
    assert [call.path for call in stack.simulators.openai.calls if call.method == "POST"][-1] == path


@pytest.mark.parametrize(
    "target",
    [target for path in ("/v1/models", "/v1/models/gpt-4o", "/health/live", "/metrics") for target in forms(path)],
)
def test_other_routes_are_served_in_place(sentinel: SentinelProcess, token: str, target: str) -> None:
    """As the hot ones."""
    answer = over_the_wire(sentinel, "GET", target, token)
    assert answer.status == 200, answer.body
    assert "location" not in answer.headers


@pytest.mark.parametrize("target", forms("/admin/users/ana/refresh"))
def test_administration_is_served_in_place(sentinel: SentinelProcess, target: str) -> None:
    """As the hot ones; its key is asked for all the same."""
    assert over_the_wire(sentinel, "POST", target, ADMIN_KEY).status == 200
    assert over_the_wire(sentinel, "POST", target, "another-key").status == 401


@pytest.mark.parametrize(
    "target", [f"{CHAT}%0A", f"{CHAT}%0D", "/health%0A", "/v1/models%0A", f"{CHAT}%00", f"{CHAT}%2F%0A"]
)
def test_a_path_with_a_line_end_is_none_of_ours(sentinel: SentinelProcess, token: str, target: str) -> None:
    """A pattern that ends with `$` would take it."""
    assert over_the_wire(sentinel, "GET", target, token).is_error(404, "unknown_url")


@pytest.mark.parametrize("target", ["/v1" * 20_000 + "/models", "/" * 60_000, "/v1/models" + "/" * 60_000, "/v1" * 9])
def test_no_path_takes_long_to_read(sentinel: SentinelProcess, token: str, target: str) -> None:
    """However often something is repeated in it."""
    started = time.monotonic()
    assert over_the_wire(sentinel, "GET", target, token).status in (200, 404)
    assert time.monotonic() - started < AT_ONCE_SECONDS


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


def test_a_model_with_a_slash_is_one_model(stack: Stack, provider: ScriptedProvider, token: str) -> None:
    """`org/model` and `org%2Fmodel` are the same, and at the provider it is one segment."""
    listed = {"id": "org/model", "object": "model"}
    provider.models = Script([json.dumps({"object": "list", "data": [listed]}).encode()])
    sentinel = stack.sentinel(OPENAI_API_URL=provider.url)
    for spelled in ("org/model", "org%2Fmodel", "org%2fmodel", "org//model", "org/model/"):
        answer = over_the_wire(sentinel, "GET", f"/v1/models/{spelled}", token)
        assert (answer.status, answer.json) == (200, listed)
    before = len(provider.calls)
    provider.models = Script([b'{"id":"org/other"}'])
    for spelled in ("org/other", "org%2Fother"):
        assert over_the_wire(sentinel, "GET", f"/v1/models/{spelled}", token).json == {"id": "org/other"}
    assert len(provider.calls) == before + 2
    sentinel.kill()


ODD_IDS = (
    *("..%2F..%2Fadmin", "../../admin", "%2e%2e/%2e%2e/admin", "..%2f..%2fv1%2fchat%2fcompletions", "org/../x", "..."),
    *(
        "..%5C..%5Cadmin",
        "a%5C..%5Cb",
        "%00",
        "a%0d%0ax:%20y",
        "a%0A",
        "..",
        ".",
        "%2e%2e",
        "x" * 10_000,
        "%20" * 3_000,
    ),
    *("./gpt-4o", "gpt-4o/..", "%E2%80%AE", "a%1b"),
)


@pytest.mark.parametrize("model", ODD_IDS, ids=lambda model: model[:20])
def test_no_model_leads_to_another_path(stack: Stack, sentinel: SentinelProcess, token: str, model: str) -> None:
    """Dots, line ends and endless names are 404 without a question to the provider."""
    send(sentinel, "GET", "/v1/models", token)
    calls = stack.simulators.openai.calls
    before = len(calls)
    answer = over_the_wire(sentinel, "GET", f"/v1/models/{model}", token)
    assert answer.is_error(404, "model_not_found", param="model")
    assert len(answer.body) < 1000
    assert [call.path for call in list(calls)[before:]] == []


@pytest.mark.parametrize("model", ["a%252F..%252Fb", "%3Fa=b", "%23a", "a;b", "a%25", "%C3%A9"])
def test_an_odd_name_reaches_the_provider_as_one_segment(
    stack: Stack, sentinel: SentinelProcess, token: str, model: str
) -> None:
    """What may be a name is asked for, encoded, below /models alone."""
    calls = stack.simulators.openai.calls
    before = len(calls)
    assert over_the_wire(sentinel, "GET", f"/v1/models/{model}", token).status == 404
    asked = [call.path for call in list(calls)[before:] if call.path != "/v1/models"]
    assert len(asked) == 1
    assert asked[0].startswith("/v1/models/")
    assert ".." not in asked[0].split("/")


ROUTES = (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    "/v1/models",
    "/v1/models/gpt-4o",
    "/v1/models/none",
    "/v1/nope",
    STORES,
    f"{STORES}/vs_1",
    "/health",
    "/metrics",
)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", [*ROUTES, "/nope", "/admin/users/ana/refresh"])
def test_head_and_options_have_no_body_and_cost_nothing(
    stack: Stack, sentinel: SentinelProcess, method: str, path: str
) -> None:
    """The connection goes on with the next answer; no window, no quota and no record knows of them."""
    calls = stack.simulators.openai.calls

    def asked() -> int:
        # For its list /health asks by itself.
        return sum(call.path != "/v1/models" for call in list(calls))

    user, token = stack.user(f"{method.lower()}{path.replace('/', '-')}@corp.test", limits={"ai_requests": 5})
    get = head("/v1/models", "GET", [f"authorization: Bearer {token}"])
    first = over_the_wire(sentinel, "GET", "/v1/models", token)
    before = asked()
    with raw_connection(sentinel) as connection:
        for _ in range(10):
            connection.sendall(head(path, method, [f"authorization: Bearer {token}"]))
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536)
            assert data.endswith(b"\r\n\r\n")
            assert (data.split(b" ", 2)[1] == b"200") is (method == "OPTIONS" or path in READABLE)
        assert asked() == before
        connection.sendall(get)
        after = read_answer(connection)
    name = "x-ratelimit-remaining-requests"
    assert int(after.headers[name]) == int(first.headers[name]) - 1
    assert user.used["ai_requests"] == 0


READABLE = ("/v1/models", "/v1/models/gpt-4o", "/health", "/metrics")


@pytest.mark.parametrize("path", READABLE)
def test_head_is_get_without_a_body(sentinel: SentinelProcess, token: str, path: str) -> None:
    """The same status, type and length."""
    got = over_the_wire(sentinel, "GET", path, token)
    with raw_connection(sentinel) as connection:
        connection.sendall(head(path, "HEAD", [f"authorization: Bearer {token}"]))
        data = connection.recv(65536)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.endswith(b"\r\n\r\n")
    lines = dict(line.split(b": ", 1) for line in data.split(b"\r\n")[1:-2])
    assert lines[b"content-type"].decode() == got.headers["content-type"]
    if path.startswith("/v1"):
        assert int(lines[b"content-length"]) == len(got.body)


@pytest.mark.parametrize(
    ("method", "path", "first"),
    [
        ("POST", "/v1chat/completions", "POST /v1/chat/completions"),
        ("GET", "/v1.0/models", "GET /v1/models"),
        ("GET", "/healthz", "GET /health"),
        ("POST", "/chat/completions", "POST /v1/chat/completions"),
        ("GET", "/metric", "GET /metrics"),
        ("POST", "/V1/CHAT/COMPLETIONS", "POST /v1/chat/completions"),
    ],
)
def test_an_unknown_url_is_told_what_was_meant(
    sentinel: SentinelProcess, token: str, method: str, path: str, first: str
) -> None:
    """All that is served, and the closest of it first."""
    answer = send(sentinel, method, path, token)
    assert answer.is_error(404, "unknown_url")
    message = answer.error["message"]
    assert message.startswith(f"Unknown request URL: {method} {path}. Sentinel serves {first}, ")
    served = message.split("Sentinel serves ")[1].removesuffix(".").split(", ")
    assert len(served) == len(set(served))
    assert {f"POST {CHAT}", f"POST {COMPLETIONS}", "GET /v1/models", "GET /health", "GET /metrics"} <= set(served)
