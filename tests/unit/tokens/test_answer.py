import msgspec
import pytest

from sentinel.tokens.answer import Answer, Chunk

NULLS = '{"choices":[{"index":null,"delta":null,"text":null,"finish_reason":null}],"usage":null}'


@pytest.mark.parametrize("body", ["{}", '{"choices":null,"usage":null}', '{"choices":[],"x":1}', NULLS])
def test_nulls_and_absences_are_taken(body: str) -> None:
    """No null of a provider makes an event unreadable."""
    assert msgspec.json.decode(body, type=Chunk).usage is None
    assert msgspec.json.decode(body, type=Answer).usage is None


def test_usage_is_read() -> None:
    """The provider's numbers arrive; details that we do not use are ignored."""
    body = '{"usage":{"prompt_tokens":7,"completion_tokens":null,"total_tokens":7,"prompt_tokens_details":{"a":1}}}'
    usage = msgspec.json.decode(body, type=Chunk).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, None, 7)
