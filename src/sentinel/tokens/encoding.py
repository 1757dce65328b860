"""Model name -> encoding."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from sentinel.tokens.models import MAX_NAME_CHARS, longest_match

CL100K: Final = "cl100k_base"
O200K: Final = "o200k_base"

# Unknown names get o200k_base: every model OpenAI released since May 2024 uses it.
# gpt-oss has o200k_harmony, which is o200k_base with more special tokens; special tokens are ordinary text to us, so
# the counts are equal, and its vocabulary need not be loaded a second time (67 MB).
# Source: tiktoken/model.py (MODEL_TO_ENCODING and MODEL_PREFIX_TO_ENCODING).
_ENCODINGS: Final = {
    "gpt-4": CL100K,
    "gpt-3.5*": CL100K,
    "gpt-35*": CL100K,  # Azure's spelling
    "davinci-002": CL100K,
    "babbage-002": CL100K,
    "text-embedding-ada-002": CL100K,
    "text-embedding-3": CL100K,
}

# Model names -> vocabulary of another family, where the name says which generation it is (`qwen-plus` does not). They
# are compared in lower case, and without what stands before the last slash: one model is served by many spellings.
# Source: the model cards; mistral_common/tokens/tokenizers/mistral.py for the dates of Mistral's.
_FAMILIES: Final = {
    **dict.fromkeys(("qwen1.5", "qwen2", "qwen2.5", "qwen3", "qwq", "qvq"), "qwen"),
    **dict.fromkeys(("qwen3.5", "qwen3.6"), "qwen3.5"),
    **dict.fromkeys(("deepseek-chat", "deepseek-reasoner", "deepseek-v3*", "deepseek-v4*", "deepseek-r1"), "deepseek"),
    # Ollama's names of sizes: all but the largest are other models, taught by DeepSeek's.
    **dict.fromkeys(("deepseek-r1:*", "deepseek-r1-distill*"), ""),
    "deepseek-r1:671b": "deepseek",
    **dict.fromkeys(("deepseek-r1-distill-qwen", "deepseek-r1-0528-qwen3"), "qwen"),
    **dict.fromkeys(("deepseek-r1-distill-llama", "llama-v3*", "meta-llama-3", "meta-llama-3.1"), "llama3"),
    **dict.fromkeys((f"llama{dash}3{minor}" for dash in ("", "-") for minor in ("", ".1", ".2", ".3")), "llama3"),
    **dict.fromkeys(("llama4", "llama-4"), "llama4"),
    **dict.fromkeys(("mistral-nemo", "open-mistral-nemo", "pixtral", "ministral", "magistral", "devstral"), "mistral"),
    **dict.fromkeys(("mistral-small", "mistral-medium", "mistral-large", "mistral-small3*"), "mistral"),
    # With the vocabulary before.
    **dict.fromkeys(("mistral-small-2312", "mistral-small-2402", "mistral-medium-2312"), ""),
    **dict.fromkeys(("mistral-large-2402", "mistral-large-2407", "mistral-large-2411"), ""),
    **dict.fromkeys(("mistral-large-instruct", "mistral-large:*"), ""),
}

_in_use: set[str] = set()
"""The vocabularies of other families that are loaded; an operator names them (VOCABULARIES)."""

# The models whose vocabulary is OpenAI's, so that a count is exact; of all others it is an estimate.
_OPENAI: Final = dict.fromkeys(
    (
        *("gpt-3.5*", "gpt-35*", "gpt-4*", "gpt-5*", "gpt-oss", "chatgpt-4o", "codex*", "computer-use-preview"),
        *("o1", "o3", "o4", "davinci-002", "babbage-002", "text-embedding-ada-002", "text-embedding-3"),
    ),
    True,
)


@lru_cache(maxsize=1024)
def _is_exact(name: str) -> bool:
    return longest_match(_OPENAI, name, False)


def is_exact(model: str) -> bool:
    """Say whether the tokens of a request are counted as `model` counts them, or estimated.

    With the vocabulary of another family texts are exact, and what its provider puts around them is an estimate.
    """
    return _is_exact(model[:MAX_NAME_CHARS])


def use(vocabularies: Iterable[str]) -> None:
    """From now on count models of other families in these vocabularies (vocabulary.py), and all others in OpenAI's."""
    _in_use.clear()
    _in_use.update(vocabularies)
    _encoding_of.cache_clear()


def family_of(model: str) -> str:
    """Return the name of the vocabulary of a model of another family; empty for OpenAI's and unknown ones."""
    return longest_match(_FAMILIES, model[:MAX_NAME_CHARS].rpartition("/")[2].lower(), "")


@lru_cache(maxsize=1024)
def _encoding_of(name: str) -> str:
    family = family_of(name)
    return family if family in _in_use else longest_match(_ENCODINGS, name, O200K)


def encoding_of(model: str) -> str:
    """Return the name of the encoding that `model` uses. Any string is answered, none is remembered for ever.

    Source: tiktoken/model.py; `ft:` names follow their base model (`ft:gpt-4o*` is o200k_base although tiktoken-rs
    0.5.9, used by the Rust Sentinel, takes it for `ft:gpt-4`).
    """
    return _encoding_of(model[:MAX_NAME_CHARS])
