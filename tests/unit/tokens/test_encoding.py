import pytest
from tiktoken.model import MODEL_PREFIX_TO_ENCODING, MODEL_TO_ENCODING

from sentinel.tokens.encoding import CL100K, O200K, encoding_of, is_exact

OURS = {CL100K, O200K}


@pytest.mark.parametrize(("model", "encoding"), MODEL_TO_ENCODING.items())
def test_agrees_with_tiktoken_on_every_model_that_still_lives(model: str, encoding: str) -> None:
    """Models of the retired encodings fall back to o200k_base like every unknown name."""
    assert encoding_of(model) == (encoding if encoding in OURS else O200K)


@pytest.mark.parametrize(("prefix", "encoding"), MODEL_PREFIX_TO_ENCODING.items())
def test_agrees_with_tiktoken_on_every_prefix(prefix: str, encoding: str) -> None:
    """Dated snapshots and fine-tunes use the encoding of their family."""
    assert encoding_of(f"{prefix}:acme" if prefix.startswith("ft:") else f"{prefix}2099-01-01") == (
        encoding if encoding in OURS else O200K
    )


@pytest.mark.parametrize(
    ("model", "encoding"),
    [("gpt-4-32k", CL100K), ("gpt-4.1", O200K), ("gpt-4.5-preview", O200K), ("chatgpt-4o-latest", O200K), ("o1", O200K),
     ("ft:gpt-4o-mini:acme", O200K), ("ft:gpt-4.1:acme", O200K), ("gpt-5.1", O200K), ("claude-3", O200K), ("", O200K),
     ("gpt-35-turbo-16k", CL100K), ("gpt-oss-120b", O200K)],
)  # fmt: skip
def test_names_beyond_tiktoken(model: str, encoding: str) -> None:
    """Newer OpenAI models and unknown names use o200k_base."""
    assert encoding_of(model) == encoding


def test_invented_names_do_not_pile_up() -> None:
    """A client that invents model names cannot make the cache grow for ever."""
    from sentinel.tokens import encoding  # noqa: PLC0415 (the cache itself)

    for number in range(3_000):
        encoding_of(f"invented-{number}")
    assert encoding._encoding_of.cache_info().currsize <= 1_024


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4-0613", "gpt-5.1", "gpt-oss-120b", "ft:gpt-4o-mini:acme", "o4-mini"])
def test_counts_of_openais_models_are_exact(model: str) -> None:
    """Their vocabulary is at hand."""
    assert is_exact(model)


@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "llama4", "gemini-3-pro", "o", "", "anthropic/gpt"])
def test_counts_of_others_are_estimates(model: str) -> None:
    """They have a vocabulary of their own."""
    assert not is_exact(model)
