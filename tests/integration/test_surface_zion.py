"""What Zion says of a token or a user is no outage: the client hears its 401 or 403, and nobody else is kept out."""

from __future__ import annotations

import pytest

from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post, send

pytestmark = pytest.mark.usefixtures("no_faults")

ABOUT_THE_QUESTION = (400, 404, 413, 414, 422, 431)
NO_WORD_ON_IT = (302, 405, 406, 408, 410, 425, 451, 500)


def questions(stack: Stack, path: str) -> int:
    return sum(call.path.startswith(path) for call in stack.simulators.zion.calls)


@pytest.mark.parametrize("status", [*ABOUT_THE_QUESTION, 401])
def test_what_zion_has_against_a_token_is_the_clients_401(stack: Stack, sentinel: SentinelProcess, status: int) -> None:
    """A token that Zion calls malformed, unprocessable or too large is refused and remembered; Zion stays healthy."""
    path, (_, token) = "/api/v1/users/me", stack.user(f"token{status}@corp.test")
    stack.simulators.zion.faults.set(status=status, path_prefix=path)
    before = questions(stack, path)
    for _ in range(4):
        answer = post(sentinel, token, chat())
        assert answer.is_error(401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "retry-after" not in answer.headers
    assert questions(stack, path) == before + 1
    stack.simulators.zion.faults.clear()
    assert post(sentinel, stack.user(f"other{status}@corp.test")[1], chat()).status == 200


@pytest.mark.parametrize("status", ABOUT_THE_QUESTION)
def test_what_zion_has_against_a_user_is_the_clients_403(stack: Stack, sentinel: SentinelProcess, status: int) -> None:
    """An id for which Zion has no limits to tell, in whatever words, is no outage either."""
    _, token = stack.user(f"user{status}@corp.test")
    stack.simulators.zion.faults.set(status=status, path_prefix="/api/v1/limits")
    assert post(sentinel, token, chat()).is_error(403, "access_denied")


def test_nothing_of_this_makes_zion_unwell(stack: Stack) -> None:
    """After all of these answers /health, which looks now for the first time, finds Zion healthy."""
    sentinel, faults = stack.sentinel(), stack.simulators.zion.faults
    for path, refusal in (("/api/v1/users/me", 401), ("/api/v1/limits", 403)):
        for status in ABOUT_THE_QUESTION:
            faults.set(status=status, path_prefix=path)
            assert post(sentinel, stack.user(f"well{status}{refusal}@corp.test")[1], chat()).status == refusal
    faults.clear()
    assert send(sentinel, "GET", "/health").json["checks"]["zion"]["status"] == "healthy"


def test_an_id_that_no_address_can_hold_keeps_nobody_else_out(stack: Stack, sentinel: SentinelProcess) -> None:
    """A user whose limits cannot even be asked for is refused, again and again, and others are served."""
    _, token = stack.user("endless@corp.test", external_id="x" * 70_000)
    for _ in range(5):
        assert post(sentinel, token, chat()).is_error(403, "access_denied")
    assert post(sentinel, stack.user("short@corp.test")[1], chat()).status == 200


@pytest.mark.parametrize("path", ["/api/v1/users/me", "/api/v1/limits"])
@pytest.mark.parametrize("status", NO_WORD_ON_IT)
def test_what_is_no_word_on_the_token_is_503(stack: Stack, sentinel: SentinelProcess, path: str, status: int) -> None:
    """Another Zion than we know, or one that is unwell, has refused nobody: the same token is good afterwards."""
    _, token = stack.user(f"{path[-3:].strip('/')}{status}@corp.test")
    stack.simulators.zion.faults.set(status=status, path_prefix=path)
    answer = post(sentinel, token, chat())
    assert answer.is_error(503, "service_unavailable", "server_error")
    assert int(answer.headers["retry-after"]) >= 1
    stack.simulators.zion.faults.clear()
    assert post(sentinel, token, chat()).status == 200


@pytest.mark.parametrize("retry_after", ["soon", "\xff", "9" * 5000])
def test_a_retry_after_that_is_odd_is_503_all_the_same(
    stack: Stack, sentinel: SentinelProcess, retry_after: str
) -> None:
    """Whatever a gateway before Zion puts there, the client hears when to come back."""
    _, token = stack.user(f"odd{len(retry_after)}@corp.test")
    stack.simulators.zion.faults.set(status=503, retry_after=retry_after, path_prefix="/api/v1/users/me")
    answer = post(sentinel, token, chat())
    assert answer.is_error(503, "service_unavailable", "server_error")
    assert 1 <= int(answer.headers["retry-after"]) <= 3600


@pytest.mark.parametrize("status", [401, 403])
def test_a_zion_that_refuses_our_key_is_unwell(stack: Stack, status: int) -> None:
    """That is about us: 503 for all, and /health says so."""
    sentinel, (_, token) = stack.sentinel(), stack.user(f"our-key{status}@corp.test")
    stack.simulators.zion.faults.set(status=status, path_prefix="/api/v1/limits")
    assert post(sentinel, token, chat()).is_error(503, "service_unavailable", "server_error")
    assert send(sentinel, "GET", "/health").json["checks"]["zion"]["status"] == "unhealthy"
