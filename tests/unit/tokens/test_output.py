import pytest

from sentinel.tokens.output import _BOUNDS, hides_output, output_ceiling


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-3.5-turbo-0125", 4_096),
        ("gpt-4-turbo-2024-04-09", 4_096),
        ("gpt-4", 8_192),
        ("gpt-4-0613", 8_192),
        ("gpt-4o", 16_384),
        ("gpt-4o-2024-05-13", 4_096),
        ("gpt-4o-2024-08-06", 16_384),
        ("gpt-4o-mini", 16_384),
        ("gpt-4.1-nano", 32_768),
        ("o1-mini", 65_536),
        ("o1-preview", 32_768),
        ("o1", 100_000),
        ("o3-mini", 100_000),
        ("o4-mini", 100_000),
        ("gpt-5", 128_000),
        ("gpt-5.2-mini", 128_000),
        ("ft:gpt-4o-mini:acme", 16_384),
        ("x", 4_096),
    ],
)
def test_ceilings_are_the_published_ones(model: str, tokens: int) -> None:
    """The reservation of a request without a maximum is what its model can produce."""
    assert output_ceiling(model) == tokens


@pytest.mark.parametrize(
    ("model", "prompt", "tokens"),
    [
        ("gpt-4", 8, 8_184),
        ("gpt-4", 9_000, 1),
        ("gpt-3.5-turbo", 13_000, 3_385),
        ("gpt-4o", 100, 16_384),
        ("gpt-4o", 115_000, 13_000),
        ("gpt-5", 300_000, 100_000),
        ("x", 100_000, 4_096),
    ],
)
def test_a_long_prompt_leaves_less(model: str, prompt: int, tokens: int) -> None:
    """Prompt and answer share the context window."""
    assert output_ceiling(model, prompt) == tokens


def test_every_ceiling_has_a_context_window() -> None:
    """No answer is longer than its window."""
    assert all(0 < ceiling <= context for ceiling, context in _BOUNDS.values())
    assert all(0 < output_ceiling(name.removesuffix("*")) <= 300_000 for name in _BOUNDS)


@pytest.mark.parametrize(
    ("model", "hides"),
    [
        ("o1", True),
        ("o3-mini", True),
        ("o4-mini", True),
        ("gpt-5", True),
        ("gpt-5.1", True),
        ("gpt-5-chat-latest", False),
        ("gpt-4o", False),
        ("x", False),
    ],
)
def test_reasoning_models_hide_output(model: str, hides: bool) -> None:
    """Only models that reason bill more than they show."""
    assert hides_output(model) is hides
