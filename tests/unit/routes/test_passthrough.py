"""Which paths pass, and what is sent on for them."""

from __future__ import annotations

import pytest

from sentinel.endpoints.anthropic import AnthropicEndpoint
from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.messages import MESSAGES
from sentinel.routes.passthrough import passed_path, spoken_at
from sentinel.routes.table import ENDPOINTS


@pytest.mark.parametrize(
    ("method", "path", "is_route", "sent"),
    [
        ("GET", "/v1/files", False, b"/files"),
        ("DELETE", "/v1/Files/f:1,(a)", False, b"/Files/f:1,(a)"),
        ("GET", CHAT.route, True, b"/chat/completions"),
        ("DELETE", "/v1/models/ft:m", True, b"/models/ft:m"),
        ("POST", "/v1/threads/t1/messages", False, b"/threads/t1/messages"),
        ("POST", "/v1/chatkit/sessions/s1/cancel", False, b"/chatkit/sessions/s1/cancel"),
        ("GET", "/v1/engines/gpt-4/completions", False, b"/engines/gpt-4/completions"),
    ],
)
def test_what_passes(method: str, path: str, is_route: bool, sent: bytes) -> None:
    """Put together anew."""
    found = passed_path(method, path, is_route=is_route)
    assert found is not None
    assert found[1] == sent


@pytest.mark.parametrize(
    ("method", "path", "is_route"),
    [
        ("HEAD", "/v1/files", False),
        ("OPTIONS", "/v1/files", False),
        ("TRACE", "/v1/files", False),
        ("GET", "/v2/files", False),
        ("GET", "/v1", False),
        ("GET", "/v1/", False),
        ("PUT", CHAT.route, True),
        ("GET", "/v1/responses", True),
        ("DELETE", "/v1/models", True),
        ("GET", "/v1/organization/users", False),
        ("GET", "/v1/Chat/Completions", True),
        ("POST", "/v1/engines/gpt-4/completions", False),
        ("POST", "/v1/complete", False),
        ("POST", "/v1/chatkit/sessions", False),
        ("POST", "/v1/Live/Sessions", False),
        ("POST", "/v1/realtime/translations/client_secrets", False),
        ("POST", "/v1/deployments/x/chat/Completions", False),
        ("POST", "/v1/tunedModels/x:batchGenerateContent", False),
        *(
            ("GET", f"/v1/files/{segment}", False)
            for segment in ("..", ".", "...", "a b", "a%b", "a\\b", "a\rb", "a?b", "é", "")
        ),
        ("GET", f"/v1/{'a' * 257}", False),
        ("GET", "/v1" + "/a" * 17, False),
    ],
)
def test_what_does_not(method: str, path: str, is_route: bool) -> None:
    """What could be read otherwise, what is another route's, what is nobody's."""
    assert passed_path(method, path, is_route=is_route) is None


def test_whose_errors_a_path_has() -> None:
    """Those of the endpoint above it, else OpenAI's."""
    assert spoken_at("/v1/messages/batches", ENDPOINTS) is MESSAGES
    assert isinstance(spoken_at("/v1/messages/count_tokens", ENDPOINTS), AnthropicEndpoint)
    assert spoken_at("/v1/files", ENDPOINTS) is CHAT
