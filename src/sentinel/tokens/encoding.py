"""Model name -> encoding."""

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


# The models whose vocabulary is one of these, so that a count is exact; of all others it is an estimate.
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
    """Say whether the tokens of a text are counted as `model` counts them, or estimated with another vocabulary."""
    return _is_exact(model[:MAX_NAME_CHARS])


@lru_cache(maxsize=1024)
def _encoding_of(name: str) -> str:
    return longest_match(_ENCODINGS, name, O200K)


def encoding_of(model: str) -> str:
    """Return the name of the encoding that `model` uses. Any string is answered, none is remembered for ever.

    Source: tiktoken/model.py; `ft:` names follow their base model (`ft:gpt-4o*` is o200k_base although tiktoken-rs
    0.5.9, used by the Rust Sentinel, takes it for `ft:gpt-4`).
    """
    return _encoding_of(model[:MAX_NAME_CHARS])
