"""Where the paths of each type of provider begin, and how it is shown our key."""

from __future__ import annotations

import json

import pytest

from sentinel.proxy.doors import (
    API_KEY,
    BEARER,
    GOOGLE,
    X_API_KEY,
    Door,
    ProviderType,
    doors_of,
    refuses_key,
    root_of,
)


def chosen(doors: tuple[Door, ...], path: bytes) -> Door:
    """As proxy/openai.py does."""
    return next((door for door in doors[:-1] if path.startswith(door.begins)), doors[-1])


@pytest.mark.parametrize(
    ("kind", "url", "path", "at", "key"),
    [
        ("openai", "https://api.openai.com/v1", b"/chat/completions", "https://api.openai.com/v1", BEARER),
        ("openai", "https://h/v1/", b"/v1beta/models/g:generateContent", "https://h", GOOGLE),
        ("compatible", "http://h:1/openai/v1", b"/chat/completions", "http://h:1/openai/v1", BEARER),
        ("compatible", "http://h:1/openai/v1", b"/messages", "http://h:1/openai/v1", BEARER),
        ("compatible", "http://h:1/base", b"/v1/models/g:generateContent", "http://h:1/base", GOOGLE),
        ("anthropic", "https://api.anthropic.com", b"/messages", "https://api.anthropic.com/v1", X_API_KEY),
        ("anthropic", "https://h/v1", b"/messages/count_tokens", "https://h/v1", X_API_KEY),
        ("anthropic", "https://h", b"/models", "https://h/v1", X_API_KEY),
        ("anthropic", "https://h/anthropic/", b"/chat/completions", "https://h/anthropic/v1", BEARER),
        ("gemini", "https://g", b"/v1beta/models/g:generateContent", "https://g", GOOGLE),
        ("gemini", "https://g", b"/chat/completions", "https://g/v1beta/openai", BEARER),
        ("gemini", "https://g/v1beta/openai/", b"/embeddings", "https://g/v1beta/openai", BEARER),
        ("azure", "https://r.openai.azure.com", b"/responses", "https://r.openai.azure.com/openai/v1", API_KEY),
        ("azure", "https://r.openai.azure.com/openai/v1/", b"/x", "https://r.openai.azure.com/openai/v1", API_KEY),
    ],
)
def test_each_path_has_its_door(kind: ProviderType, url: str, path: bytes, at: str, key: str) -> None:
    """Vendors' SDKs take the URL as it is; what they add is added here."""
    door = chosen(doors_of(kind, url), path)
    assert (door.url, door.key) == (at, key)
    assert door.path(path, "model") == path


def test_azures_deployments_have_the_model_in_their_path() -> None:
    """Escaped, with the version of the API in front of what the client asks for."""
    (door,) = doors_of("azure", "https://r.openai.azure.com", "2024-10-21")
    assert (door.url, door.key) == ("https://r.openai.azure.com/openai", API_KEY)
    path = b"/deployments/gpt%2F4o%20%C3%A9/chat/completions?api-version=2024-10-21"
    assert door.path(b"/chat/completions", "gpt/4o \u00e9") == path
    assert door.path(b"/images/edits?a=b", "m") == b"/deployments/m/images/edits?api-version=2024-10-21&a=b"
    assert door.path(b"/responses", "m") == b"/responses?api-version=2024-10-21"
    assert door.path(b"/chat/completions", "") == b"/chat/completions?api-version=2024-10-21"


def test_google_tells_of_a_refused_key_in_its_body() -> None:
    """What a client has sent is there as a text at most; only its own doors are judged by that."""
    assert refuses_key(b'{"error":{"code":400,"details":[{"reason":"API_KEY_INVALID"}]}}')
    assert not refuses_key(json.dumps({"error": {"message": 'no field "API_KEY_INVALID"'}}).encode())
    assert [door.is_googles for door in doors_of("gemini", "https://g")] == [True, True]
    assert not any(door.is_googles for kind in ("openai", "azure", "anthropic") for door in doors_of(kind, "https://h"))


def test_anthropic_is_told_a_version() -> None:
    """Where the client names none; its own stays."""
    door = doors_of("anthropic", "https://h")[0]
    assert door.lines(b"accept: */*\r\n") == b"accept: */*\r\nanthropic-version: 2023-06-01\r\n"
    own = b"anthropic-version: 2099-01-01\r\naccept: */*\r\n"
    assert door.lines(own) == own
    assert doors_of("anthropic", "https://h")[1].lines(b"") == doors_of("openai", "https://h")[0].lines(b"") == b""


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("https://h/v1", "https://h"),
        ("https://h/v1/", "https://h"),
        ("https://h/openai/v1", "https://h"),
        ("https://h/v1beta", "https://h"),
        ("https://h/v1beta/openai", "https://h"),
        ("https://h/v1beta/openai/", "https://h"),
        ("https://h/x/v1", "https://h/x"),
        ("https://h", "https://h"),
        ("https://h/v10", "https://h/v10"),
    ],
)
def test_geminis_own_paths_begin_beside_what_a_url_ends_in(url: str, root: str) -> None:
    """They name their version themselves."""
    assert root_of(url) == root
