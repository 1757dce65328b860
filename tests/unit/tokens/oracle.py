"""tiktoken, OpenAI's own tokenizer, as the oracle: offline, with the vocabularies of the package bpe-openai."""

import base64
import gzip
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import tiktoken
from tiktoken_ext import openai_public


def _load(where: str, expected_hash: str) -> dict[bytes, int]:
    """Stand in for tiktoken's loader, which would download; the hash says that it is the same vocabulary."""
    name = where.rsplit("/", 1)[-1]
    package = find_spec("bpe_openai")  # Found, not imported: importing it warns, and warnings are errors.
    assert package is not None
    assert package.origin is not None
    data = gzip.decompress((Path(package.origin).parent / "data" / f"{name}.gz").read_bytes())
    assert hashlib.sha256(data).hexdigest() == expected_hash
    rows = (line.split() for line in data.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in rows}


@cache
def oracle(encoding: str) -> tiktoken.Encoding:
    with patch.object(openai_public, "load_tiktoken_bpe", _load):
        return tiktoken.Encoding(**openai_public.ENCODING_CONSTRUCTORS[encoding]())


def true_count(text: str, encoding: str) -> int:
    return len(oracle(encoding).encode_ordinary(text))
