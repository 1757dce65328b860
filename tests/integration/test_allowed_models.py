"""A plan that does not have all models: every way to name one is judged, by one rule, before anybody is asked.

About: `middleware/model_check.py`, `endpoints/named_models.py`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from sentinel.dev.accounts import SimUser
from tests.support.client import Answer
from tests.support.crowd import post as post_beside
from tests.support.formats import FREE, OF_MEDIA, STREAMS, WHOLES, Format
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import (
    BOUNDARY,
    CHAT,
    CLIENT_SECRETS,
    EDITS,
    GENERATIONS,
    MODERATIONS,
    NATIVE,
    RESPONSES,
    SOCKET,
    VARIATIONS,
    chat,
    form,
    post,
    send,
)
from tests.support.talks import talk

KEY = "operators-key"
REALTIME = "/v1/realtime?model=gpt-realtime"
FORMATS: dict[str, Format] = {**STREAMS, **OF_MEDIA, **WHOLES, **FREE}


@pytest.fixture(scope="module")
def sentinel(stack: Stack) -> SentinelProcess:
    return stack.sentinel(ADMIN_KEY=KEY)


class Caller:
    """A user of a plan, whose requests are seen at the provider and in the books."""

    def __init__(self, stack: Stack, sentinel: SentinelProcess, name: str, models: list[str] | None) -> None:
        self.stack, self.sentinel, self.email = stack, sentinel, f"{name}@corp.test"
        self.user: SimUser
        self.user, self.token = stack.user(self.email, allowed_models=models, limits={"ai_requests": 1000})

    def send(self, method: str, path: str, body: bytes | dict[str, Any] | None = None, **headers: str) -> Answer:
        return send(self.sentinel, method, path, self.token, body, **headers)

    def is_refused(self, answer: Answer, param: str = "model") -> bool:
        """With our code, and before the provider or the ledger was asked: there is no header of either."""
        error = answer.error
        assert (answer.status, error["code"], error["param"]) == (403, "model_not_allowed", param), answer.body
        assert "x-upstream-request-id" not in answer.headers
        assert not [name for name in answer.headers if name.startswith(("x-ratelimit", "x-sentinel-quota"))]
        assert self.spent() == (0, 0)
        return True

    def spent(self) -> tuple[int, int]:
        """Requests and tokens, used or on their way, as the ledger has them."""
        quota = self.send("GET", "/sentinel/quota").json["quota"]
        return quota["ai_requests"]["used"], quota["ai_output_tokens"]["used"]


@pytest.fixture
def caller(stack: Stack, sentinel: SentinelProcess, request: pytest.FixtureRequest) -> Caller:
    """Of a plan with two kinds of models that no request of the formats names."""
    name = "".join(each if each.isalnum() else "-" for each in request.node.name)
    return Caller(stack, sentinel, f"plan-{name}"[:60], ["o3*", "claude-*"])


def with_model(format_: Format, model: str, *, stream: bool) -> tuple[str, bytes, str]:
    """The path, body and type of a request of this format to this model."""
    endpoint = format_.at(stream=stream)
    path = endpoint.route.replace("{model}", model)
    if "{model}" in endpoint.route:
        body, kind = format_.body(stream=stream)
        return f"{path}{'?alt=sse' if stream and not format_.is_array else ''}", body, kind.decode()
    request = {**format_.request, "model": model}
    body, kind = Format(**{**vars(format_), "request": request}).body(stream=stream)
    return path, body, kind.decode()


CASES = [
    (name, stream)
    for name, each in FORMATS.items()
    for stream in ((False, True) if each.pieces else (False,))
    if name != "native"
]


@pytest.mark.parametrize(("name", "stream"), CASES)
def test_every_format(stack: Stack, sentinel: SentinelProcess, caller: Caller, name: str, stream: bool) -> None:
    """In its own shape a model is refused that the plan does not have, whole or as a stream; one that it has is not."""
    path, body, kind = with_model(FORMATS[name], "gpt-4o-mini", stream=stream)
    before = len(stack.simulators.openai.calls)
    answer = caller.send("POST", path, body, content_type=kind)
    assert caller.is_refused(answer)
    assert "Your plan does not have the model" in answer.error["message"]
    assert answer.is_anthropics == path.startswith("/v1/messages")
    assert answer.is_googles == path.startswith("/v1beta")
    assert len(stack.simulators.openai.calls) == before
    path, body, kind = with_model(FORMATS[name], "o3-mini", stream=stream)
    passed = caller.send("POST", path, body, content_type=kind)
    assert b"model_not_allowed" not in passed.body.lower()
    assert len(stack.simulators.openai.calls) > before


@pytest.mark.parametrize("models", [None, ["*"], ["gpt-4o*"], ["gpt-4o-mini"]], ids=str)
def test_who_may(stack: Stack, sentinel: SentinelProcess, models: list[str] | None) -> None:
    """All models where there is no list; else what a glob matches."""
    caller = Caller(stack, sentinel, f"may-{models}", models)
    assert caller.send("POST", CHAT, chat("[[tokens=1]]")).status == 200


@pytest.mark.parametrize("models", [[], ["GPT-4o-mini"], ["gpt-4o"], ["gpt-?o-mini"]], ids=str)
def test_who_may_not(stack: Stack, sentinel: SentinelProcess, models: list[str]) -> None:
    """None where the list is empty; case counts, and no sign but the star is special."""
    caller = Caller(stack, sentinel, f"may-not-{models}", models)
    assert caller.is_refused(caller.send("POST", CHAT, chat("[[tokens=1]]")))


NAMED: list[tuple[str, str, dict[str, Any], str]] = [
    ("a tool", RESPONSES, {"tools": [{"type": "image_generation", "model": "gpt-image-2"}]}, "tools[0].model"),
    ("models to be tried next", CHAT, {"models": ["o3", "gpt-4o"]}, "models"),
    ("another case", CHAT, {"Model": "gpt-4o"}, "Model"),
    ("who writes an SVG", GENERATIONS, {"svg": {"model": "gpt-4o"}}, "svg.model"),
]


@pytest.mark.parametrize(("path", "more", "param"), [case[1:] for case in NAMED], ids=[case[0] for case in NAMED])
def test_what_is_named_beside(caller: Caller, path: str, more: dict[str, Any], param: str) -> None:
    """Wherever in a request."""
    fields = {CHAT: chat(), RESPONSES: {"input": "hi"}, GENERATIONS: {"prompt": "x"}}[path]
    assert caller.is_refused(caller.send("POST", path, {**fields, "model": "o3", **more}), param)


def test_what_is_said_and_defined_is_not(caller: Caller) -> None:
    """Words, metadata and schemas name no model."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"model": {"model": "gpt-4o"}}}}}
    body = chat('{"model": "gpt-4o"} [[tokens=1]]', model="o3", metadata={"model": "gpt-4o"}, tools=[tool])
    assert b"model_not_allowed" not in caller.send("POST", CHAT, body).body


def test_a_large_body(caller: Caller) -> None:
    """Judged beside the event loop."""
    assert caller.is_refused(caller.send("POST", CHAT, chat("much " * 100_000)))


def test_defaults_that_we_know(stack: Stack, sentinel: SentinelProcess, caller: Caller) -> None:
    """Where a request names none, and we know which will be used, that one is judged."""
    body, kind = form([], "image")
    assert caller.is_refused(caller.send("POST", MODERATIONS, {"input": "x"}))
    assert caller.is_refused(caller.send("POST", VARIATIONS, body, content_type=kind))
    other = Caller(stack, sentinel, "defaults", ["omni-moderation*", "dall-e-2"])
    assert other.send("POST", MODERATIONS, {"input": "x"}).status == 200
    assert other.send("POST", VARIATIONS, body, content_type=kind).status == 200


def test_a_form_names_it_once(caller: Caller) -> None:
    """A field in brackets is the author's of an SVG."""
    body, kind = form([("prompt", "x"), ("model", "o3"), ("svg[model]", "gpt-4o")], "image")
    assert caller.is_refused(caller.send("POST", EDITS, body, content_type=kind), "svg.model")


# ----------------------------------------------------------------------------------------------------------- sockets


async def test_responses_over_a_socket(sentinel: SentinelProcess, caller: Caller) -> None:
    """Each message by itself; the socket stays."""
    refused = await post_beside(sentinel, caller.token, {"model": "gpt-4o-mini", "input": "hi"}, SOCKET)
    assert caller.is_refused(refused)
    async with talk(sentinel, caller.token) as one:
        for model, last in (("gpt-4o-mini", "error"), ("o3", "response.completed"), ("gpt-4o-mini", "error")):
            assert (await one.ask("[[tokens=1]]", model=model))[-1]["type"] == last


@pytest.mark.parametrize("path", [REALTIME, "/v1/realtime", "/v1/realtime?model=o3-rt&model=gpt-realtime"])
async def test_a_realtime_session(sentinel: SentinelProcess, caller: Caller, path: str) -> None:
    """At the handshake: one that the plan does not have, and none."""
    with pytest.raises(InvalidStatus) as refused:
        async with talk(sentinel, caller.token, path):
            pass
    response = refused.value.response
    assert response.status_code == 403
    assert json.loads(response.body or b"")["error"]["code"] == "model_not_allowed"
    assert caller.spent() == (0, 0)


async def test_a_session_whose_model_nobody_has_named(stack: Stack, sentinel: SentinelProcess) -> None:
    """Who only transcribes need not; if the provider takes a model for it all the same, it is one of the plan."""
    path = "/v1/realtime?intent=transcription"
    caller = Caller(stack, sentinel, "realtime-other", ["gpt-4o-transcribe"])
    async with talk(sentinel, caller.token, path) as one:
        assert (await one.hear_until("error"))[-1]["error"]["code"] == "model_not_allowed"
        assert await one.ended() == (1008, "model_not_allowed")
    may = Caller(stack, sentinel, "realtime-own", ["gpt-realtime*"])
    async with talk(sentinel, may.token, path) as one:
        await one.hear_until("session.created")
        await one.say(type="session.update", session={"type": "realtime", "output_modalities": ["text"]})
        assert (await one.hear_until("error", "session.updated"))[-1]["type"] == "session.updated"


UPDATES: list[dict[str, Any]] = [
    {"model": "gpt-4o"},
    {"audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}},
    {"input_audio_transcription": {"model": "gpt-4o-transcribe"}},
]


@pytest.mark.parametrize("session", UPDATES, ids=["model", "transcription", "older transcription"])
async def test_what_a_realtime_session_changes(
    stack: Stack, sentinel: SentinelProcess, session: dict[str, Any]
) -> None:
    """Is told by an error about the event, which does not reach the provider; the session goes on."""
    caller = Caller(stack, sentinel, f"realtime-{next(iter(session))}", ["gpt-realtime*"])
    async with talk(sentinel, caller.token, REALTIME) as one:
        await one.hear_until("session.created")
        await one.say(type="session.update", event_id="e1", session={"type": "realtime", **session})
        error = (await one.hear_until("error", "session.updated"))[-1]["error"]
        assert (error["code"], error["event_id"]) == ("model_not_allowed", "e1")
        await one.say(type="session.update", session={"type": "realtime", "output_modalities": ["text"]})
        updated = (await one.hear_until("error", "session.updated"))[-1]["session"]
        assert updated["model"] == "gpt-realtime"
        await one.say(type="response.create", response={"instructions": "[[tokens=1]]"})
        assert (await one.hear_until("response.done", "error"))[-1]["type"] == "response.done"


async def test_a_plan_that_changes_in_the_middle_of_a_session(stack: Stack, sentinel: SentinelProcess) -> None:
    """Holds for its next response."""
    caller = Caller(stack, sentinel, "realtime-changes", ["gpt-realtime*"])
    async with talk(sentinel, caller.token, REALTIME) as one:
        await one.say(type="response.create", response={"instructions": "[[tokens=1]]"})
        assert (await one.hear_until("response.done", "error"))[-1]["type"] == "response.done"
        caller.user.allowed_models = ["o3"]
        assert send(sentinel, "POST", "/admin/users/realtime-changes/refresh", KEY).status == 200
        await one.say(type="response.create")
        assert (await one.hear_until("response.done", "error"))[-1]["error"]["code"] == "model_not_allowed"


SESSION = {"type": "realtime", "model": "gpt-realtime"}
SECRETS: list[tuple[str, dict[str, Any], str | None]] = [
    ("client_secrets", {"session": SESSION}, None),
    ("client_secrets", {}, "model"),
    ("client_secrets", {"session": {"type": "realtime", "model": "gpt-4o"}}, "session.model"),
    ("client_secrets", {"session": SESSION, "model": "gpt-4o"}, "model"),
    ("sessions", {"model": "gpt-4o"}, "model"),
    ("sessions", {**SESSION, "input_audio_transcription": {"model": "whisper-1"}}, "input_audio_transcription.model"),
    ("transcription_sessions", {"input_audio_transcription": {"model": "gpt-realtime-whisper"}}, None),
    (
        "transcription_sessions",
        {"input_audio_transcription": {"model": "whisper-1"}},
        "input_audio_transcription.model",
    ),
]


@pytest.mark.parametrize(("name", "body", "param"), SECRETS)
def test_keys_for_sessions(stack: Stack, sentinel: SentinelProcess, name: str, body: Any, param: str | None) -> None:
    """A key is made for models of the plan alone."""
    caller = Caller(stack, sentinel, f"secrets-{SECRETS.index((name, body, param))}", ["gpt-realtime*"])
    answer = caller.send("POST", CLIENT_SECRETS.replace("client_secrets", name), body)
    assert answer.status == 200 if param is None else caller.is_refused(answer, param)


# ------------------------------------------------------------------------------------------------------------- tiers


def test_tiers(stack: Stack, sentinel: SentinelProcess) -> None:
    """Models of the plan alone; where a tier has none, it is refused."""
    caller = Caller(stack, sentinel, "tiers", ["gpt-4.1"])
    for tier in ("simple", "complex"):
        answer = caller.send("POST", NATIVE, {"messages": chat()["messages"], "tier": tier})
        assert (answer.status, answer.json["error"]["code"]) == (403, "model_not_allowed")
        assert caller.spent() == (0, 0)
    answer = caller.send("POST", NATIVE, {"messages": chat("[[tokens=1]]")["messages"], "tier": "moderate"})
    assert (answer.status, answer.headers["x-sentinel-model"]) == (200, "gpt-4.1")


# ---------------------------------------------------------------------------------------------------- passed through


def multipart(*parts: tuple[str, bytes]) -> bytes:
    """A body of parts: what stands behind `form-data;`, and what is in it."""
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode()
    return b"".join([*(head + name.encode() + b"\r\n\r\n" + text + b"\r\n" for name, text in parts)]) + (
        f"--{BOUNDARY}--\r\n".encode()
    )


PASSED: dict[str, tuple[str, Any, str]] = {
    "assistants": ("/v1/assistants", {"model": "gpt-4o"}, "model"),
    "fine-tuning": ("/v1/fine_tuning/jobs", {"model": "gpt-4o"}, "model"),
    "a run": ("/v1/threads/runs", {"model": "gpt-4o"}, "model"),
    "a run without one": ("/v1/threads/runs", {"assistant_id": None}, "model"),
    "a run without a body": ("/v1/threads/runs", None, "model"),
    "a run in plain text": ("/v1/threads/runs", b"hello", "model"),
    "an eval": ("/v1/evals", {"testing_criteria": [{"model": "gpt-4o"}]}, "testing_criteria[0].model"),
    "a batch of messages": (
        "/v1/messages/batches",
        {"requests": [{"custom_id": "1", "params": {"model": "gpt-4o", "messages": []}}]},
        "requests[0].params.model",
    ),
    "a video": ("/v1/videos", {"prompt": "x"}, "model"),
    "an unknown family": ("/v1/news", {"deep": [{"model": "gpt-4o"}]}, "deep[0].model"),
    "twice": ("/v1/assistants", b'{"model":"gpt-4o","model":"o3"}', "model"),
    "a query": ("/v1/news?model=gpt-4o", {}, "model"),
    "JSON that is called text": ("/v1/assistants", b'{"model":"gpt-4o"}', "model"),
}


@pytest.mark.parametrize("name", PASSED)
def test_what_passes_through(stack: Stack, caller: Caller, name: str) -> None:
    """JSON bodies of all families, wherever it is named in them; where one generates, it must be named."""
    path, body, param = PASSED[name]
    kind = "text/plain" if isinstance(body, bytes) and name != "twice" else "application/json"
    before = len(stack.simulators.openai.calls)
    assert caller.is_refused(caller.send("POST", path, body, content_type=kind), param)
    assert len(stack.simulators.openai.calls) == before


@pytest.mark.parametrize("path", ["/v1/threads", "/v1/vector_stores", "/v1/conversations", "/v1/files"])
def test_what_generates_nothing_passes(caller: Caller, path: str) -> None:
    """Without a model, and in a list without one."""
    assert caller.send("GET", path).status != 403
    if path != "/v1/files":
        assert caller.send("POST", path, {"metadata": {"model": "gpt-4o"}}).status != 403


FORM = f"multipart/form-data; boundary={BOUNDARY}"
FORMS: dict[str, tuple[str, bytes]] = {
    "a field": (FORM, multipart(('name="prompt"', b"x"), ('name="model"', b"gpt-4o"))),
    "another case": (FORM, multipart(('name="Model"', b"gpt-4o"))),
    "in brackets": (FORM, multipart(('name="model"', b"o3"), ('name="session[model]"', b"gpt-4o"))),
    "in JSON": (FORM, multipart(('name="model"', b"o3"), ('name="session"', b'{"model":"gpt-4o"}'))),
    "a file": (FORM, multipart(('name="model"; filename="m"', b"gpt-4o"))),
    "none": (FORM, multipart(('name="prompt"', b"[a model walks]"))),
    "behind a small file": (FORM, multipart(('name="f"; filename="f"', b"x" * 1000), ('name="model"', b"gpt-4o"))),
    "like a query": ("application/x-www-form-urlencoded", b"prompt=x&model=gpt-4o"),
    "none, like a query": ("application/x-www-form-urlencoded", b"prompt=x"),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_that_pass_through(stack: Stack, caller: Caller, name: str) -> None:
    """The same; nobody is asked before the fields have come."""
    kind, body = FORMS[name]
    before = len(stack.simulators.openai.calls)
    param = "session.model" if name == "in JSON" else "model"
    assert caller.is_refused(caller.send("POST", "/v1/videos", body, content_type=kind), param)
    assert len(stack.simulators.openai.calls) == before


def test_a_form_that_names_it_behind_a_large_file(stack: Stack, caller: Caller) -> None:
    """It does not reach the provider whole, and costs nothing."""
    parts = (('name="f"; filename="f"', b"x" * 300_000), ('name="model"', b"gpt-4o"))
    answer = caller.send("POST", "/v1/videos", multipart(*parts), content_type=FORM)
    assert answer.is_error(403, "model_not_allowed", param="model")
    assert caller.spent() == (0, 0)
    good = (('name="f"; filename="f"', b"x" * 300_000), ('name="model"', b"o3"), ('name="prompt"', b"[a"))
    assert caller.send("POST", "/v1/videos", multipart(*good), content_type=FORM).status != 403


LINES: dict[str, tuple[list[Any], str | None]] = {
    "of the plan": ([{"model": "o3"}, {"model": "o3-mini"}], None),
    "one that is not": ([{"model": "o3"}] * 50 + [{"model": "gpt-4o"}], "Your plan does not have the model"),
    "one without": ([{"model": "o3"}, {"messages": []}], "must name one"),
}


@pytest.mark.parametrize("name", LINES)
def test_lines_of_a_batch(stack: Stack, caller: Caller, name: str) -> None:
    """Each is judged before the batch is made."""
    bodies, refused = LINES[name]
    lines = "".join(
        json.dumps({"custom_id": str(n), "method": "POST", "url": CHAT, "body": {**chat("[[tokens=1]]"), **body}
                    if "messages" not in body else body}) + "\n"
        for n, body in enumerate(bodies)
    )  # fmt: skip
    uploaded = multipart(('name="purpose"', b"batch"), ('name="file"; filename="b.jsonl"', lines.encode()))
    file = caller.send("POST", "/v1/files", uploaded, content_type=FORM).json["id"]
    before = caller.spent()
    body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    answer = caller.send("POST", "/v1/batches", body)
    if refused is None:
        assert answer.status == 200
        return
    assert answer.is_error(403, "model_not_allowed", param="input_file_id")
    assert refused in answer.error["message"]
    assert caller.spent() == before
    assert not [call for call in stack.simulators.openai.calls if call.path == "/v1/batches" and file in str(call.body)]


# ------------------------------------------------------------------------------------------------------------ models


def test_lists_of_models(stack: Stack, sentinel: SentinelProcess) -> None:
    """What the plan has, and of one that it does not have: as if there were none."""
    caller, other = (Caller(stack, sentinel, f"lists-{models}", models) for models in (["gpt-4o*"], None))
    full = [each["id"] for each in other.send("GET", "/v1/models").json["data"]]
    listed = caller.send("GET", "/v1/models").json
    assert [each["id"] for each in listed["data"]] == [id_ for id_ in full if id_.startswith("gpt-4o")]
    assert 0 < len(listed["data"]) < len(full)
    assert listed["object"] == "list"
    hidden = next(id_ for id_ in full if not id_.startswith("gpt-4o"))
    for method in ("GET", "HEAD"):
        assert other.send(method, f"/v1/models/{hidden}").status == 200
        assert caller.send(method, f"/v1/models/{hidden}").status == 404
        assert caller.send(method, "/v1/models/gpt-4o-mini").status == 200
    assert caller.send("GET", f"/v1/models/{hidden}").is_error(404, "model_not_found", param="model")
    google: dict[str, Any] = {"x_goog_api_key": caller.token}
    names = [each["name"] for each in send(sentinel, "GET", "/v1beta/models", **google).json["models"]]
    assert names == [f"models/{each['id']}" for each in listed["data"]]
    assert send(sentinel, "GET", f"/v1beta/models/{hidden}", **google).status == 404
    assert send(sentinel, "GET", "/v1beta/models/gpt-4o-mini", **google).status == 200
    none = Caller(stack, sentinel, "lists-none", [])
    assert none.send("GET", "/v1/models").json["data"] == []


@pytest.mark.parametrize("told", [{"allowedModels": "o3"}, {"allowed_models": ["o3"]}, {"expiresAt": "soon"}], ids=str)
def test_an_answer_that_is_not_understood(stack: Stack, sentinel: SentinelProcess, told: dict[str, Any]) -> None:
    """Lets nobody in, and locks nobody out for good."""
    zion = stack.simulators.zion
    user, token = stack.user("misread@corp.test")
    body = {"success": True, "data": {"id": user.id, "email": user.email, "externalId": user.external_id, **told}}
    zion.faults.set(status=200, body=json.dumps(body).encode())
    try:
        assert post(sentinel, token, chat()).status == 503
    finally:
        zion.faults.clear()
    assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
