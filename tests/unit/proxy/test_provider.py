"""The port to a provider: what it raises tells what was answered."""

from __future__ import annotations

from sentinel.proxy.provider import Message, ProviderAnswer, SocketRefused


def test_a_refused_handshake_has_its_answer() -> None:
    """Whoever catches it passes that on."""
    answer = ProviderAnswer(404, b"", None, b"{}")
    assert SocketRefused(answer).answer is answer


def test_a_message_is_text_unless_it_says_otherwise() -> None:
    """As nearly all are."""
    assert Message(b"x") == (b"x", True)
