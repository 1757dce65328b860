"""CORS, as headers in and headers out; which errors a path has."""

from __future__ import annotations

import pytest

from sentinel.routes.table import ENDPOINTS, Cors, renderer_of


def headers(cors: Cors, origin: bytes | None) -> dict[bytes, bytes]:
    return dict(cors.headers({} if origin is None else {b"origin": origin}))


@pytest.mark.parametrize("origins", ["*", " * ", "https://a.test,*"])
def test_a_star_allows_everybody(origins: str) -> None:
    """Browsers also learn what they may read."""
    found = headers(Cors(origins), b"https://any.test")
    assert found[b"access-control-allow-origin"] == b"*"
    assert b"x-request-id" in found[b"access-control-expose-headers"]
    assert headers(Cors(origins), None) == {b"access-control-allow-origin": b"*"}


@pytest.mark.parametrize("origin", [None, b"", b"https://b.test", b"null", b"https://a.test/", b"https://A.test"])
def test_others_than_the_listed_are_not_allowed(origin: bytes | None) -> None:
    """Caches are told that answers differ by origin."""
    assert headers(Cors("https://a.test"), origin) == {b"vary": b"origin"}
    assert headers(Cors(""), origin) == {b"vary": b"origin"}


def test_the_listed_are_allowed_by_name() -> None:
    """Each gets its own name back."""
    cors = Cors("https://a.test , http://localhost:3000")
    for origin in (b"https://a.test", b"http://localhost:3000"):
        assert headers(cors, origin)[b"access-control-allow-origin"] == origin


def test_a_preflight_allows_what_was_asked() -> None:
    """Headers that the browser names, else all."""
    cors = Cors("*")
    asked = dict(cors.preflight({b"access-control-request-headers": b"authorization, x-a"}))
    assert asked[b"access-control-allow-headers"] == b"authorization, x-a"
    assert dict(cors.preflight({}))[b"access-control-allow-headers"] == b"*"
    assert asked[b"content-length"] == b"0"


def test_errors_have_the_format_of_their_path() -> None:
    """Also of one that is misspelt, and before a request of it is there: the server asks by the path."""
    for path, endpoint in ENDPOINTS.items():
        assert renderer_of(path) == endpoint.render
        assert renderer_of(f"/v1{path}/" if path.startswith("/v1/") else f"{path}/") == endpoint.render
    assert renderer_of("/v1/messages/batches") == ENDPOINTS["/v1/messages"].render
    assert renderer_of("/v1/models") is renderer_of("/v1/messagesx") is None
