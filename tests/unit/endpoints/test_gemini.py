"""What Gemini's formats have in common: the path, errors in Google's shape, and the names of objects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.gemini import GeminiReferences, is_model, model_of, render, status_word
from sentinel.endpoints.generate_content import GenerateContentEndpoint, StreamGenerateContentEndpoint
from sentinel.error import (
    AppError,
    InsufficientQuota,
    InternalError,
    InvalidApiKey,
    InvalidType,
    ModelNotFound,
    NotFound,
    RateLimitExceeded,
    RequestTooLarge,
    UpstreamError,
    UpstreamTimeout,
)

TYPES = "type.googleapis.com/google.rpc."


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (InvalidType("x"), 400, "INVALID_ARGUMENT"),
        (InvalidApiKey("x"), 401, "UNAUTHENTICATED"),
        (NotFound("x"), 404, "NOT_FOUND"),
        (RequestTooLarge("x"), 413, "INVALID_ARGUMENT"),
        (InsufficientQuota("x"), 429, "RESOURCE_EXHAUSTED"),
        (InternalError("x"), 500, "INTERNAL"),
        (UpstreamError("x"), 502, "UNAVAILABLE"),
        (UpstreamTimeout("x"), 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_errors_have_googles_words(error: AppError, code: int, status: str) -> None:
    """By their HTTP status; our own code is a reason."""
    told = json.loads(render(error, "req_1"))["error"]
    assert (told["code"], told["status"], told["message"]) == (code, status, "x")
    assert told["details"][0] == {
        "@type": f"{TYPES}ErrorInfo",
        "reason": error.code.upper(),
        "domain": "sentinel",
        "metadata": {},
    }
    assert told["details"][-1] == {"@type": f"{TYPES}RequestInfo", "requestId": "req_1"}
    assert status_word(403) == "PERMISSION_DENIED"


def test_details_are_for_machines() -> None:
    """The field at fault, the limit, and when to come back where that helps: not for a quota."""
    details = {"metric": "ai_requests", "limit": 5, "reset_at": None}
    told = json.loads(render(RateLimitExceeded("x", details=details, retry_after_seconds=6.2), ""))["error"]["details"]
    assert told[0]["metadata"] == {"metric": "ai_requests", "limit": "5"}
    assert told[1:] == [{"@type": f"{TYPES}RetryInfo", "retryDelay": "7s"}]
    assert "retryDelay" not in render(InsufficientQuota("x", details=details), "").decode()
    told = json.loads(render(InvalidType("wrong", param="contents[0]"), ""))["error"]["details"]
    violation = {"field": "contents[0]", "description": "wrong"}
    assert told[1:] == [{"@type": f"{TYPES}BadRequest", "fieldViolations": [violation]}]


@pytest.mark.parametrize(
    ("resource", "query", "model", "path"),
    [
        ("models/gemini-2.5-flash", b"", "gemini-2.5-flash", b"/v1beta/models/gemini-2.5-flash:generateContent"),
        ("models/models/x", b"key=a", "x", b"/v1beta/models/x:generateContent"),
        ("models/org/x y", b"", "org/x y", b"/v1beta/models/org%2Fx%20y:generateContent"),
        ("tunedModels/x", b"", "tunedModels/x", b"/v1beta/tunedModels/x:generateContent"),
        ("models/tunedModels/x", b"", "tunedModels/x", b"/v1beta/tunedModels/x:generateContent"),
        ("models/a:b?key=c", b"alt=json", "a:b?key=c", b"/v1beta/models/a%3Ab%3Fkey%3Dc:generateContent"),
    ],
)
def test_the_model_is_in_the_path(resource: str, query: bytes, model: str, path: bytes) -> None:
    """Under whichever name; nothing in it can lead elsewhere at a provider, and nothing of the query passes."""
    endpoint = GenerateContentEndpoint("v1beta", resource, query)
    assert (endpoint.model, endpoint.path, endpoint.query) == (model, path, frozenset())
    assert endpoint.route == "/v1beta/models/{model}:generateContent"


@pytest.mark.parametrize(
    ("query", "is_array", "end"),
    [
        (b"alt=sse", False, b"?alt=sse"),
        (b"key=x&alt=SSE&prettyPrint=true", False, b"?alt=sse"),
        (b"", True, b"t"),
        (b"alt=json", True, b"t"),
        (b"alt=sse&alt=json", True, b"t"),
    ],
)
def test_the_form_of_a_stream_is_in_the_query(query: bytes, is_array: bool, end: bytes) -> None:
    """Events where it says so; else an array."""
    endpoint = StreamGenerateContentEndpoint("v1", "models/x", query)
    assert endpoint.is_array is is_array
    assert endpoint.path.endswith(end)
    assert endpoint.path.startswith(b"/v1/models/x:")


@pytest.mark.parametrize("name", ["../../admin", "a/../b", "a/./b", "", "a//b", "a\\..\\b", "x" * 257, "a\nb", "."])
def test_what_is_no_model_is_not_asked_for(name: str) -> None:
    """It would be another path, or none."""
    assert not is_model(name)
    with pytest.raises(ModelNotFound):
        GenerateContentEndpoint("v1beta", f"models/{name}").read(b'{"contents":[]}')


def test_names_of_models() -> None:
    """With and without the family."""
    assert [model_of(name) for name in ("x", "models/x", "models/", "tunedModels/x")] == ["x", "x", "", "tunedModels/x"]
    assert is_model("org/gemini-2.5-flash")


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ({"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}}, "files/abc"),
        ({"file_data": {"file_uri": "files/abc"}}, "files/abc"),
        ({"fileData": {"fileUri": "gs://bucket/x"}}, "gs://bucket/x"),
        ({"fileData": {"fileUri": "https://gateway.test/v1beta/files/abc"}}, "files/abc"),
        (
            {"fileData": {"fileUri": "https://storage.googleapis.com/bucket/x"}},
            "https://storage.googleapis.com/bucket/x",
        ),
        ({"fileData": {"fileUri": "https://[broken"}}, "https://[broken"),
        ({"fileData": {"fileUri": "https://www.youtube.com/watch?v=9hE5"}}, None),
        ({"functionCall": {"name": "f", "args": {"fileUri": "files/mine"}}}, None),
        ({"functionResponse": {"name": "f", "response": {"fileUri": "files/mine"}}}, None),
        ({"functionResponse": {"name": "f", "parts": [{"fileData": {"fileUri": "files/abc"}}]}}, "files/abc"),
    ],
)
def test_files_are_found_by_their_names(part: dict[str, Any], found: str | None) -> None:
    """Whatever address they are named by; what anybody can have is none of the provider's, nor is what a tool says."""
    body = json.dumps({"contents": [{"parts": [part]}]}).encode()
    assert [each.id for each in GeminiReferences().found_in(body)] == ([] if found is None else [found])


def test_caches_and_stores_are_found() -> None:
    """Under both names of their fields."""
    body = {
        "cached_content": "cachedContents/a",
        "cachedContent": "cachedContents/b",
        "tools": [{"fileSearch": {"fileSearchStoreNames": ["fileSearchStores/c"]}}],
        "generationConfig": {"responseSchema": {"fileUri": "no"}},
    }
    found = GeminiReferences().found_in(json.dumps(body).encode())
    assert [(each.kind, each.id) for each in found] == [
        ("cachedContents", "cachedContents/a"),
        ("cachedContents", "cachedContents/b"),
        ("fileSearchStores", "fileSearchStores/c"),
    ]
    assert found[2].param == "tools[0].fileSearch.fileSearchStoreNames[0]"


def test_an_error_is_an_event() -> None:
    """That SDKs know by how it begins."""
    endpoint = GenerateContentEndpoint("v1", "models/x")
    event = endpoint.render_event(UpstreamError("x"), None, "req_1")
    assert event == b"data: " + endpoint.render(UpstreamError("x"), "req_1") + b"\n\n"
    assert event.startswith(b'data: {"error":{"code":502')
