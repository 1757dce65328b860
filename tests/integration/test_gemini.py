"""Gemini's format, with Google's SDK and without: what passes, is admitted, and booked.

About: `routes/gemini.py`, `proxy/array_client.py`, `proxy/array_stream.py`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from pydantic import BaseModel

from sentinel.dev.exchange import Call
from sentinel.dev.simulators import DEMO_TOKEN
from sentinel.proxy.doors import root_of
from tests.support.client import Answer
from tests.support.scripted import Script, ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import head, post, send
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.usefixtures("no_faults")

MODEL = "gemini-2.5-flash"
EXACT = "gpt-4o"
"""Its vocabulary is known, and it does not think."""
HELLO = "Hello! I am a simulated model, and happy to help."


def path(method: str = "generateContent", model: str = MODEL, version: str = "v1beta") -> str:
    return f"/{version}/models/{model}:{method}"


STREAM = path("streamGenerateContent", EXACT)


def asked(text: str = "Say hello", **fields: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], **fields}


def client(sentinel: SentinelProcess, token: str, **options: Any) -> genai.Client:
    return genai.Client(api_key=token, http_options=types.HttpOptions(base_url=sentinel.url, timeout=30_000, **options))


@pytest.fixture
def sdk(sentinel: SentinelProcess, token: str) -> Iterator[genai.Client]:
    with client(sentinel, token) as sdk:
        yield sdk


def config(**fields: Any) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True), **fields
    )


def text_of(events: list[Any]) -> str:
    parts = [part for event in events for each in event["candidates"] for part in each["content"]["parts"]]
    return "".join(part.get("text", "") for part in parts)


def sent_on(stack: Stack) -> list[Call]:
    """What the provider was asked for; lists of models are fetched now and then."""
    return [call for call in stack.simulators.openai.calls if call.method == "POST"]


def sse(body: bytes) -> list[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in body.decode().splitlines() if line.startswith("data: ")]


# ------------------------------------------------------------------------------------------------------ the SDK


@pytest.mark.parametrize("version", [None, "v1", "v1beta"])
def test_an_answer(sentinel: SentinelProcess, token: str, version: str | None) -> None:
    """Whole, with its usage, in each version of Google's API."""
    with client(sentinel, token, api_version=version) as sdk:
        answer = sdk.models.generate_content(model=MODEL, contents="Say hello")
    assert answer.text == HELLO
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.candidates_token_count == 13
    assert answer.candidates is not None
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP


def test_a_stream(sdk: genai.Client) -> None:
    """Text as it comes, thoughts where they are asked for, usage growing all along."""
    thinking = config(thinking_config=types.ThinkingConfig(include_thoughts=True))
    prompt = "[[tokens=5 reasoning=4]]"
    chunks = list(sdk.models.generate_content_stream(model=MODEL, contents=prompt, config=thinking))
    parts = [part for chunk in chunks for part in (chunk.parts or [])]
    assert sum(bool(part.thought) for part in parts) == 4
    assert "".join(part.text or "" for part in parts if not part.thought) == " The river bends toward an"
    usage = chunks[-1].usage_metadata
    assert usage is not None
    assert (usage.thoughts_token_count, usage.candidates_token_count) == (4, 5)


def test_a_chat(sdk: genai.Client) -> None:
    """Of two turns, one of them streamed."""
    chat = sdk.chats.create(model=MODEL)
    assert chat.send_message("Say hello").text == HELLO
    assert "".join(chunk.text or "" for chunk in chat.send_message_stream("[[tokens=3]]")) == " The river bends"
    assert [content.role for content in chat.get_history()][:3] == ["user", "model", "user"]


def test_a_function_is_called_by_the_sdk_itself(sdk: genai.Client) -> None:
    """Its answer is the next turn."""
    cities = []

    def weather(city: str) -> dict[str, str]:
        """The weather of a place."""
        cities.append(city)
        return {"weather": "sun"}

    tools = types.GenerateContentConfig(tools=[weather])
    answer = sdk.models.generate_content(model=MODEL, contents="[[tool]]", config=tools)
    assert (cities, answer.text) == (["Paris"], HELLO)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_of_a_function(sdk: genai.Client, streamed: bool) -> None:
    """As the application sees it."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    declared = types.FunctionDeclaration(name="weather", parameters_json_schema=schema)
    tools = config(tools=[types.Tool(function_declarations=[declared])])
    given: dict[str, Any] = {"model": MODEL, "contents": "[[tool]]", "config": tools}
    answers = sdk.models.generate_content_stream(**given) if streamed else [sdk.models.generate_content(**given)]
    calls = [call for answer in answers for call in (answer.function_calls or [])]
    assert [(call.name, call.args) for call in calls] == [("weather", {"city": "Paris"})]


class Recipe(BaseModel):
    name: str
    minutes: int
    steps: list[str]


def test_structured_output(sdk: genai.Client) -> None:
    """By a class, and by a JSON Schema."""
    by_class = config(response_mime_type="application/json", response_schema=Recipe)
    answer = sdk.models.generate_content(model=MODEL, contents="A recipe", config=by_class)
    assert isinstance(answer.parsed, Recipe)
    by_schema = config(response_mime_type="application/json", response_json_schema=Recipe.model_json_schema())
    answer = sdk.models.generate_content(model=MODEL, contents="A recipe", config=by_schema)
    Recipe.model_validate_json(answer.text or "")


def test_tokens_and_vectors(sdk: genai.Client) -> None:
    """Counted, and embedded."""
    assert (sdk.models.count_tokens(model=MODEL, contents="Say hello").total_tokens or 0) > 0
    vectors = sdk.models.embed_content(
        model="gemini-embedding-001", contents=["a", "b"], config=types.EmbedContentConfig(output_dimensionality=8)
    ).embeddings
    assert vectors is not None
    assert [len(vector.values or []) for vector in vectors] == [8, 8]


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_models(sentinel: SentinelProcess, token: str, version: str) -> None:
    """As Google tells them; what is not there is not found."""
    with client(sentinel, token, api_version=version) as sdk:
        assert f"models/{MODEL}" in [model.name for model in sdk.models.list()]
        assert sdk.models.get(model=MODEL).name == f"models/{MODEL}"
        with pytest.raises(errors.ClientError) as missing:
            sdk.models.get(model="none")
    assert missing.value.code == 404
    # To others the same paths are OpenAI's.
    assert send(sentinel, "GET", "/v1/models", token).json["object"] == "list"


async def test_the_asynchronous_client(sentinel: SentinelProcess, token: str) -> None:
    """Whole, as a stream, counted and embedded."""
    sdk = client(sentinel, token).aio
    try:
        answer = await sdk.models.generate_content(model=MODEL, contents="Say hello")
        stream = await sdk.models.generate_content_stream(model=MODEL, contents="Say hello")
        assert "".join([chunk.text or "" async for chunk in stream]) == answer.text == HELLO
        assert (await sdk.models.count_tokens(model=MODEL, contents="Say hello")).total_tokens
        assert (await sdk.models.embed_content(model="gemini-embedding-001", contents="a")).embeddings
        chat = sdk.chats.create(model=MODEL)
        assert (await chat.send_message("Say hello")).text == HELLO
        with pytest.raises(errors.ServerError):
            await sdk.models.generate_content(model=MODEL, contents="[[status=500]]")
    finally:
        await sdk.aclose()


def test_the_sdk_raises_what_is_wrong(stack: Stack, sentinel: SentinelProcess, sdk: genai.Client) -> None:
    """For ours and for those of the provider, with Google's words."""

    def told(sdk: genai.Client, text: str = "Say hello", model: str = MODEL, **fields: Any) -> tuple[int, str | None]:
        with pytest.raises(errors.APIError) as raised:
            sdk.models.generate_content(model=model, contents=text, **fields)
        return raised.value.code, raised.value.status

    poor = stack.user("poor-g@corp.test", limits={"ai_requests": 0})[1]
    forbidden = stack.user("no-g@corp.test", status="forbidden")[1]
    assert told(client(sentinel, "unknown")) == (401, "UNAUTHENTICATED")
    assert told(client(sentinel, forbidden)) == (403, "PERMISSION_DENIED")
    assert told(client(sentinel, poor)) == (429, "RESOURCE_EXHAUSTED")
    assert told(sdk, model="none") == (404, "NOT_FOUND")
    assert told(sdk, "[[status=429]]") == (429, "RESOURCE_EXHAUSTED")
    assert told(sdk, "[[status=503]]") == (502, "UNAVAILABLE")
    assert told(sdk, config=config(cached_content="cachedContents/x")) == (404, "NOT_FOUND")


def test_the_sdk_raises_what_breaks_midway(sdk: genai.Client) -> None:
    """After what came before."""
    got = []
    with pytest.raises(errors.ServerError) as broken:
        got += list(sdk.models.generate_content_stream(model=MODEL, contents="[[tokens=9 break_after=3]]"))
    assert (broken.value.code, broken.value.status) == (502, "UNAVAILABLE")


def test_the_sdk_waits_for_a_silent_model(stack: Stack, token: str) -> None:
    """It takes a comment for an answer that it cannot read; so what keeps it waiting is a blank line."""
    own = stack.sentinel(STREAM_KEEPALIVE_SECONDS="0.2")
    with client(own, token) as sdk:
        prompt = "[[tokens=2 first_delay=1 delay=1]]"
        chunks = list(sdk.models.generate_content_stream(model=MODEL, contents=prompt))
    assert "".join(chunk.text or "" for chunk in chunks) == " The river"
    answer = post(own, token, asked("[[tokens=2 first_delay=1]]"), STREAM)
    assert answer.body.startswith(b"\n")
    assert (text_of(answer.json), answer.headers["content-type"]) == (" The river", "application/json; charset=UTF-8")
    failed = post(own, token, asked("[[status=500 first_delay=1]]"), STREAM)
    assert failed.status in (200, 502)
    own.stop()


# --------------------------------------------------------------------------------------- where the token is, and goes


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {"x_goog_api_key": "{}"}),
        ("", {"x_api_key": "{}"}),
        ("", {"api_key": "{}"}),
        ("", {"Authorization": "Bearer {}"}),
        ("?key={}", {}),
        ("?key=wrong", {"x_goog_api_key": "{}"}),
        ("?key=wrong&alt=json", {"Authorization": "Bearer {}"}),
        ("?alt=json&key={}", {"x_goog_api_key": ""}),
    ],
)
def test_where_a_token_may_be(
    stack: Stack, sentinel: SentinelProcess, token: str, query: str, headers: dict[str, str]
) -> None:
    """Headers win over the query; neither passes on, and the provider gets its own key as Google wants it."""
    stack.simulators.openai.calls.clear()
    given = {name: value.format(token) for name, value in headers.items()}
    answer = post(sentinel, None, asked(), path() + query.format(token), **given)
    assert answer.status == 200
    call = sent_on(stack)[-1]
    assert (call.path, call.query) == (path(), "")
    assert call.headers["x-goog-api-key"] == stack.simulators.openai_key
    assert not {"authorization", "x-api-key", "api-key"} & call.headers.keys()
    assert token not in str(call)


def test_a_key_in_a_query_is_told_nowhere(stack: Stack) -> None:
    """Neither in the log, nor in an error, whatever the path; also one that was put into the path."""
    own, secret = stack.sentinel(LOG_LEVEL="debug"), "AIzaSyD-secret-0123456789"
    told = [
        post(own, None, asked(), f"{path()}?key={secret}"),
        send(own, "GET", f"/v1beta/nothing?key={secret}"),
        send(own, "GET", f"/v1beta/models?key={secret}"),
        send(own, "GET", f"/v1/models?key={secret}"),
        send(own, "GET", f"/v1beta/nothing%3Fkey={secret}"),
        send(own, "POST", f"/v1beta/models/x%3Fkey={secret}:nothing", DEMO_TOKEN),
        send(own, "PATCH", f"/v1/elsewhere?key={secret}"),
    ]
    assert {answer.status for answer in told} == {401, 404}
    own.stop()
    everything = f"{told}{(own.folder / 'stdout').read_text()}{(own.folder / 'stderr').read_text()}"
    assert secret not in everything


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        (f"/v1beta/models/models%2F{MODEL}:generateContent", path()),
        (f"//v1beta/models/{MODEL}:generateContent/", path()),
        (f"/v1beta/v1beta/models/{MODEL}:generateContent?prettyPrint=true&fields=candidates", path()),
        (f"/v1/v1beta/models/{MODEL}:generateContent?alt=json", path()),
        (f"/v1beta/v1/models/{MODEL}%3AgenerateContent", path(version="v1")),
        (f"/v1beta/tunedModels/{MODEL}:generateContent", f"/v1beta/tunedModels/{MODEL}:generateContent"),
    ],
)
def test_paths(stack: Stack, sentinel: SentinelProcess, token: str, target: str, sent: str) -> None:
    """However a base URL and a path were put together, it is served in place."""
    stack.simulators.openai.calls.clear()
    answer = post(sentinel, token, asked(), target)
    assert answer.status == 200
    call = sent_on(stack)[-1]
    assert (call.path, call.query) == (sent, "")


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com"),
        ("http://gateway.test/llm/v1/", "http://gateway.test/llm"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "https://generativelanguage.googleapis.com"),
        ("https://azure.test/openai/v1", "https://azure.test"),
        ("http://gateway.test/v1beta", "http://gateway.test"),
        ("http://gateway.test", "http://gateway.test"),
    ],
)
def test_where_the_paths_begin_at_a_provider(url: str, root: str) -> None:
    """Beside those of OpenAI's API."""
    assert root_of(url) == root


@pytest.mark.parametrize(
    "name", ["..%2F..%2Fadmin", "%2e%2e", "x" * 10_000, "a%0Ab", "a/../../b", "org%2F..%2Fmodel", "%00"]
)
def test_no_other_path_of_the_provider_is_reached(
    stack: Stack, sentinel: SentinelProcess, token: str, name: str
) -> None:
    """Whatever a model is called."""
    stack.simulators.openai.calls.clear()
    answer = post(sentinel, token, asked(), path(model=name))
    assert (answer.status, answer.error["type"]) == (404, "NOT_FOUND")
    assert sent_on(stack) == []


def test_a_model_may_have_slashes(provider: ScriptedProvider, scripted: SentinelProcess, token: str) -> None:
    """As gateways name them; at the provider it is one segment."""
    provider.says(b'{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}]}')
    assert post(scripted, token, asked(), path(model="google/gemini-2.5-flash")).status == 200
    assert "google/gemini-2.5-flash" in [line["model"] for line in scripted.ended()]
    # The server of the script has decoded it.
    assert provider.posts()[-1].path == path(model="google/gemini-2.5-flash")


# --------------------------------------------------------------------------------------------------- what is booked


@pytest.fixture(scope="module")
def estimating(stack: Stack) -> SentinelProcess:
    """A Sentinel whose estimates of the input are told to be far too low, and learn from it."""
    return stack.sentinel()


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse", "streamGenerateContent"])
def test_usage_is_booked_as_it_is_told(stack: Stack, estimating: SentinelProcess, method: str) -> None:
    """The cached is in the prompt, thoughts are output although the candidates do not count them."""
    email = f"booked-{len(method)}@corp.test"
    _, token = stack.user(email)
    answer = post(estimating, token, asked("[[usage_prompt=100 cached=90 tokens=5 reasoning=7]]"), path(method))
    assert answer.status == 200
    assert stack.booked(1, email) == {"ai_requests": 1, "ai_input_tokens": 100, "ai_output_tokens": 12}
    line = estimating.ended(user=email.partition("@")[0])[-1]
    route = f"/v1beta/models/{{model}}:{method.partition('?')[0]}"
    told = [line[name] for name in ("route", "model", "cached_tokens", "reasoning_tokens", "tokens_from")]
    assert told == [route, MODEL, 90, 7, "provider"]
    assert (line["finish_reason"], line["outcome"], line["stream"]) == ("STOP", "ok", "stream" in method)


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse", "streamGenerateContent"])
def test_without_usage_it_is_counted(stack: Stack, estimating: SentinelProcess, method: str) -> None:
    """All candidates; the input is an estimate, and the log says so."""
    email = f"estimated-{len(method)}@corp.test"
    _, token = stack.user(email)
    body = asked("[[no_usage tokens=5]]", generationConfig={"candidateCount": 2})
    assert post(estimating, token, body, path(method)).status == 200
    line = estimating.ended(user=email.partition("@")[0])[-1]
    assert (line["tokens_from"], line["output_tokens"]) == ("estimate", 10)
    assert stack.booked(1, email)["ai_input_tokens"] == line["input_tokens"] > 5


def test_vectors_cost_input_alone(stack: Stack, sentinel: SentinelProcess) -> None:
    """As the provider tells it, else as it is counted; a used-up limit on output is in nobody's way."""
    _, token = stack.user("vectors-g@corp.test", limits={"ai_output_tokens": 0})
    content = {"parts": [{"text": "Say hello [[usage_prompt=50]]"}]}
    model = "gemini-embedding-001"
    answer = post(sentinel, token, {"content": content}, path("embedContent", model))
    assert len(answer.json["embedding"]["values"]) == 768
    assert stack.booked(1, "vectors-g@corp.test")["ai_input_tokens"] == 50
    batch = {"requests": [{"model": f"models/{model}", "content": content}] * 2}
    answer = post(sentinel, token, batch, path("batchEmbedContents", model))
    assert len(answer.json["embeddings"]) == 2
    assert stack.booked(2, "vectors-g@corp.test")["ai_output_tokens"] == 0


def test_counting_is_free(stack: Stack, sentinel: SentinelProcess) -> None:
    """For whoever has tokens left or none; a request in all its parts is counted as well as contents are."""
    _, token = stack.user("counting-g@corp.test", limits={"ai_input_tokens": 0, "ai_output_tokens": 0})
    whole = {"generateContentRequest": {"model": f"models/{MODEL}", **asked()}}
    answers = [post(sentinel, token, body, path("countTokens")) for body in (asked(), whole)]
    assert [answer.json["totalTokens"] for answer in answers] == [5, 5]
    assert stack.used("counting-g@corp.test")["ai_requests"] == 0


def test_our_own_count_where_the_provider_has_none(
    provider: ScriptedProvider, scripted: SentinelProcess, token: str
) -> None:
    """Of a provider that does not speak Gemini's format at all."""
    provider.says(b'{"detail":"Not Found"}', status=404)
    assert post(scripted, token, asked(), path("countTokens", EXACT)).json == {"totalTokens": 9}
    assert post(scripted, token, asked(), path(model=EXACT)).status == 404


# ---------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("alternative", ["?alt=sse", ""])
def test_a_stream_is_ended_at_a_limit(stack: Stack, alternative: str) -> None:
    """Cleanly, by MAX_TOKENS, with the envelope of what came before; what was delivered is charged."""
    email = f"ended-g{len(alternative)}@corp.test"
    _, token = stack.user(email, limits={"ai_output_tokens": 6})
    own = stack.sentinel()
    answer = post(own, token, asked("[[tokens=40 ignores_max]]"), STREAM + alternative)
    events = sse(answer.body) if alternative else answer.json
    assert text_of(events) == " The river bends toward an old"
    last = events[-1]
    assert last["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert last["usageMetadata"]["candidatesTokenCount"] == 6
    assert {event["responseId"] for event in events} == {last["responseId"]}
    assert stack.booked(1, email)["ai_output_tokens"] == 6
    assert own.ended()[-1]["outcome"] == "limit"
    own.stop()


def test_the_sdk_takes_our_end_of_a_stream(stack: Stack, sentinel: SentinelProcess) -> None:
    """As it takes Google's."""
    _, token = stack.user("ended-sdk@corp.test", limits={"ai_output_tokens": 6})
    with client(sentinel, token) as sdk:
        chunks = list(sdk.models.generate_content_stream(model=EXACT, contents="[[tokens=40 ignores_max]]"))
    assert chunks[-1].candidates is not None
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.MAX_TOKENS


@pytest.mark.parametrize("names", [("generationConfig", "maxOutputTokens"), ("generation_config", "max_output_tokens")])
def test_a_maximum_is_lowered_to_what_is_left(stack: Stack, sentinel: SentinelProcess, names: tuple[str, str]) -> None:
    """Under the client's own name of it, shared by all candidates; nothing else of the body changes."""
    email = f"lowered-{names[0]}@corp.test"
    _, token = stack.user(email, limits={"ai_output_tokens": 100})
    stack.simulators.openai.calls.clear()
    outer, inner = names
    body = asked("[[tokens=3]]", **{outer: {inner: 90, "candidateCount": 2, "topK": 3}})
    assert post(sentinel, token, body, path()).status == 200
    expected = {outer: {inner: 50, "candidateCount": 2, "topK": 3}}
    assert sent_on(stack)[-1].body == {**asked("[[tokens=3]]"), **expected}


def test_the_body_reaches_the_provider_as_it_came(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """Where nothing has to change."""
    stack.simulators.openai.calls.clear()
    sent = b'{ "system_instruction":{"parts":{"text":"Be"}},"contents" :{"parts": [{"text":"a"}]},"tools":[]}'
    assert post(sentinel, token, sent, path()).status == 200
    assert sent_on(stack)[-1].raw == sent


def test_a_rate_limit_tells_when_to_come_back(stack: Stack, sentinel: SentinelProcess) -> None:
    """In the header, and where Google's clients look for it; a used-up quota has no such moment."""
    own = stack.sentinel(RATE_LIMITS="ai_requests=1/60s")
    _, token = stack.user("busy-g@corp.test")
    assert post(own, token, asked(), path()).status == 200
    answer = post(own, token, asked(), path())
    assert answer.is_error(429, "rate_limit_exceeded")
    delay = answer.error["by_type"]["RetryInfo"]["retryDelay"]
    assert delay == f"{answer.headers['retry-after']}s"
    own.stop()
    poor = stack.user("poor-h@corp.test", limits={"ai_requests": 0})[1]
    answer = post(sentinel, poor, asked(), path())
    assert answer.is_error(429, "insufficient_quota")
    assert "RetryInfo" not in answer.error["by_type"]
    assert ("retry-after" in answer.headers, answer.headers["x-should-retry"]) == (False, "false")


# ---------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("method", "target", "status", "word"),
    [
        ("POST", "/v1beta", 404, "NOT_FOUND"),
        ("POST", "/v1beta/none", 404, "NOT_FOUND"),
        ("GET", "/v1beta/cachedContents", 404, "NOT_FOUND"),
        ("POST", f"/v1beta/models/{MODEL}:predict", 404, "NOT_FOUND"),
        ("POST", "/v1beta/models/:generateContent", 404, "NOT_FOUND"),
        ("GET", path(), 405, "INVALID_ARGUMENT"),
        ("GET", "/v1beta/models/none", 404, "NOT_FOUND"),
        ("DELETE", f"/v1beta/models/{MODEL}", 405, "INVALID_ARGUMENT"),
        ("POST", path(), 400, "INVALID_ARGUMENT"),
        ("POST", f"{path()}?alt=proto", 400, "INVALID_ARGUMENT"),
        ("POST", path(version="v1"), 400, "INVALID_ARGUMENT"),
    ],
)
def test_all_errors_have_googles_shape(
    sentinel: SentinelProcess, token: str, method: str, target: str, status: int, word: str
) -> None:
    """Also of paths that are not served; strangers learn nothing but that they are."""
    body = json.dumps(asked() if "alt" in target else {}).encode() if method == "POST" else None
    answer = send(sentinel, method, target, token, body)
    assert (answer.status, answer.error["type"]) == (status, word)
    assert answer.error["by_type"]["RequestInfo"]["requestId"] == answer.headers["x-request-id"]
    assert send(sentinel, method, target, None, body).error["type"] == "UNAUTHENTICATED"


def test_a_head_that_is_refused_has_its_shape(sentinel: SentinelProcess, token: str) -> None:
    """Before anybody has looked at what it asks for."""
    answer = post(sentinel, token, asked(), path(), Large="x" * 70_000)
    assert (answer.status, answer.json["error"]["status"]) == (431, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"cachedContent": "cachedContents/abc"}, "cachedContent"),
        ({"cached_content": "cachedContents/abc"}, "cached_content"),
        (
            {"contents": [{"parts": [{"fileData": {"fileUri": "https://x/v1beta/files/abc"}}]}]},
            "contents[0].parts[0].fileData.fileUri",
        ),
        (
            {"contents": {"parts": {"file_data": {"file_uri": "files/abc"}}}},
            "contents.parts.file_data.file_uri",
        ),
    ],
)
@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent", "countTokens"])
def test_what_is_another_users_is_not_found(
    stack: Stack, sentinel: SentinelProcess, token: str, method: str, fields: dict[str, Any], param: str
) -> None:
    """Nor what nobody has made through Sentinel; it is never sent on."""
    stack.simulators.openai.calls.clear()
    answer = post(sentinel, token, {**asked(), **fields}, path(method))
    assert answer.is_error(404, "not_found", param=param)
    assert sent_on(stack) == []


# ------------------------------------------------------------------------------------------------- streams on the wire


def events_of(*texts: str, ended: bool = True) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"candidates": [{"content": {"parts": [{"text": text}]}}]} for text in texts]
    if ended:
        found[-1]["candidates"][0]["finishReason"] = "STOP"
        found[-1]["usageMetadata"] = {"promptTokenCount": 21, "candidatesTokenCount": 17}
    return found


def test_the_bytes_of_a_stream_pass(provider: ScriptedProvider, scripted: SentinelProcess, token: str) -> None:
    """Whatever is in them."""
    events = [b"data: %b\r\n\r\n" % json.dumps(event).encode() for event in events_of(" one", " two")]
    provider.streams(b": hello\r\n\r\n", *events, b": bye\n\n")
    answer = post(scripted, token, asked(), f"{STREAM}?alt=sse")
    assert answer.body == b": hello\r\n\r\n" + b"".join(events) + b": bye\n\n"
    assert provider.posts()[-1].query == "alt=sse"


def test_an_array_passes_item_by_item(provider: ScriptedProvider, scripted: SentinelProcess, token: str) -> None:
    """As it comes, wherever it is cut; and is booked."""
    given = events_of(" one", " two", " three")
    array = json.dumps(given, indent=2).encode().replace(b"\n  },", b"\n  }\n,")
    for size in (7, 100, len(array)):
        provider.says(*(array[at : at + size] for at in range(0, len(array), size)))
        answer = post(scripted, token, asked(), STREAM)
        assert answer.json == given
        assert "content-length" not in answer.headers
    line = scripted.ended()[-1]
    assert (line["input_tokens"], line["output_tokens"], line["stream"]) == (21, 17, True)


def test_items_do_not_wait_for_each_other(provider: ScriptedProvider, scripted: SentinelProcess, token: str) -> None:
    """The first is there while the provider is still at work."""
    gate = threading.Event()
    first, second = events_of(" one", " two")
    writes = [b"[" + json.dumps(first).encode(), b",\n" + json.dumps(second).encode() + b"]"]
    provider.script = Script(writes, gate=gate)
    body = json.dumps(asked()).encode()
    lines = [f"authorization: Bearer {token}", f"content-length: {len(body)}"]
    with raw_connection(scripted) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.sendall(head(STREAM, headers=lines) + body)
        got = b""
        while b" one" not in got:
            got += connection.recv(65536)
        assert b" two" not in got
        gate.set()
        while not got.endswith(b"0\r\n\r\n"):
            got += connection.recv(65536)
    assert b" two" in got


@pytest.mark.parametrize(
    ("writes", "content_type", "items"),
    [
        ([b'[{"error":{"code":503,"message":"x","status":"UNAVAILABLE"}}]'], "application/json", ["UNAVAILABLE"]),
        ([json.dumps(events_of(" one", ended=False)).encode()], "application/json", [" one", "UNAVAILABLE"]),
        ([b"data: %b\n\n" % json.dumps(events_of(" one")[0]).encode()], "text/event-stream", [" one"]),
        ([json.dumps(events_of(" one")[0]).encode()], "application/json", None),
    ],
)
def test_whatever_comes_instead_of_an_array(
    provider: ScriptedProvider,
    scripted: SentinelProcess,
    token: str,
    writes: list[bytes],
    content_type: str,
    items: list[str] | None,
) -> None:
    """Errors are items; events become items; a whole answer stays what it is."""
    provider.says(*writes, content_type=content_type)
    answer = post(scripted, token, asked(), STREAM)
    assert answer.status == 200
    if items is None:
        assert answer.body == writes[0]
        return
    told = [each["error"]["status"] if "error" in each else text_of([each]) for each in answer.json]
    assert told == items
    assert answer.headers["content-type"].startswith("application/json")


def test_a_stream_that_breaks_costs_what_was_delivered(
    stack: Stack, provider: ScriptedProvider, scripted: SentinelProcess
) -> None:
    """Before anything is generated nothing, whatever usage said."""
    _, token = stack.user("broken-g@corp.test")
    only_usage = b'data: {"usageMetadata":{"promptTokenCount":21,"totalTokenCount":21}}\n\n'
    provider.streams(only_usage, cut=True)
    answer = post(scripted, token, asked(), f"{STREAM}?alt=sse")
    assert sse(answer.body)[-1]["error"]["status"] == "UNAVAILABLE"
    provider.streams(b"data: %b\n\n" % json.dumps(events_of(" one", ended=False)[0]).encode(), cut=True)
    assert sse(post(scripted, token, asked(), f"{STREAM}?alt=sse").body)[-1]["error"]["code"] == 502
    assert stack.booked(1, "broken-g@corp.test")["ai_output_tokens"] == 1


def test_a_client_that_leaves_pays_for_what_it_got(stack: Stack, sentinel: SentinelProcess) -> None:
    """Of an array as well."""
    _, token = stack.user("left-g@corp.test")
    body = json.dumps(asked("[[tokens=1000 delay=0.02]]")).encode()
    lines = [f"x-goog-api-key: {token}", f"content-length: {len(body)}"]
    with raw_connection(sentinel) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.sendall(head(STREAM, headers=lines) + body)
        got = b""
        while got.count(b'"candidates"') < 5:
            got += connection.recv(65536)
    booked = stack.booked(1, "left-g@corp.test")
    assert 5 <= booked["ai_output_tokens"] < 1000
    wait_until(lambda: stack.simulators.openai.billed[-1].state == "cancelled", "the provider's stream to be cancelled")


def test_answers_are_never_read_as_another_format(sentinel: SentinelProcess, token: str) -> None:
    """What chat and messages get is as before."""
    answer: Answer = post(sentinel, token, {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]})
    assert answer.json["choices"][0]["message"]["content"] == HELLO
