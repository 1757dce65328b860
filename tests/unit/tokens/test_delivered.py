import random
import tracemalloc
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.tokens import delivered
from sentinel.tokens.answer import read_event
from sentinel.tokens.bpe import count_for
from sentinel.tokens.delivered import FOLD_CHARS, MAX_TEXTS, DeliveredText, safe_point
from sentinel.tokens.loose import Kind, Text
from tests.unit.tokens.oracle import true_count
from tests.unit.tokens.texts import mixtures, texts

PROSE = (
    "Sentinel counts what it delivered, isn't that so? Yes: 12,345 tokens (maybe more)\n\n日本語も、数えます。\tEnd "
)


def chunk(**choice: Any) -> list[Text]:
    reading = read_event(msgspec.json.encode({"choices": [choice]}))
    assert reading is not None
    return reading.texts


def content(text: str, index: int = 0) -> list[Text]:
    return [Text(index, Kind.CONTENT, 0, text)]


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize("encoding", ["cl100k_base", "o200k_base"])
@given(
    before=st.one_of(texts, mixtures),
    after=st.one_of(texts, mixtures),
    letter=st.sampled_from("aZéßǅʰ日ก9٣"),
    mark=st.sampled_from(sorted(delivered._AFTER)),
)
@settings(max_examples=500)
def test_a_safe_point_never_changes_the_count(encoding: str, before: str, after: str, letter: str, mark: str) -> None:
    """Cutting between a letter or digit and one of the chosen characters is invisible to OpenAI's tokenizer."""
    text = before + letter + mark + after
    at = safe_point(text)
    assert at > 0
    assert true_count(text[:at], encoding) + true_count(text[at:], encoding) == true_count(text, encoding)


def test_every_letter_is_a_safe_left_side() -> None:
    """No letter or digit of Unicode clings to what follows."""
    for code in range(0x30, 0x20000):
        letter = chr(code)
        if letter.isalpha() or letter.isdecimal():
            whole = f"a{letter} b"
            assert true_count(f"a{letter}", "o200k_base") + true_count(" b", "o200k_base") == true_count(
                whole, "o200k_base"
            )


@given(text=st.one_of(texts, mixtures), cuts=st.lists(st.integers(0, 400), max_size=12), ask=st.booleans())
def test_any_cutting_gives_the_same_count(text: str, cuts: list[int], ask: bool) -> None:
    """Deltas may cut a text anywhere, and asking in between changes nothing."""
    stream = DeliveredText("gpt-4o")
    for piece in pieces_of(text, cuts):
        stream.feed(content(piece))
        if ask:
            assert stream.upper_bound() >= stream.count()
    assert stream.upper_bound() >= stream.count() == true_count(text, "o200k_base")
    assert stream.upper_bound() == stream.count()


@pytest.mark.parametrize("model", ["gpt-4", "gpt-4o"])
def test_a_long_stream_is_exact_and_small(model: str) -> None:
    """Half a megabyte in small deltas is counted exactly, while only a tail is kept."""
    text, rng, at = PROSE * 5_000, random.Random(7), 0
    stream = DeliveredText(model)
    tracemalloc.start()
    while at < len(text):
        size = rng.randint(1, 30)
        stream.feed(content(text[at : at + size]))
        at += size
        if rng.random() < 0.01:
            assert stream.upper_bound() >= stream.count()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stream.count() == true_count(text, "cl100k_base" if model == "gpt-4" else "o200k_base")
    assert max(text._chars for text in stream._texts.values()) < FOLD_CHARS
    assert kept < 1_000_000


@pytest.mark.parametrize("run", ["-", "A", " ", "\n", "😀", "7"])
def test_a_run_without_safe_points_stays_bounded(run: str) -> None:
    """A degenerate answer is kept small, too, and miscounted by a few tokens at most."""
    stream = DeliveredText("gpt-4o")
    for _ in range(1_000):
        stream.feed(content(run * 100))
    assert max(text._chars for text in stream._texts.values()) <= FOLD_CHARS + 100
    assert abs(stream.count() - true_count(run * 100_000, "o200k_base")) <= 4 * 100_000 // FOLD_CHARS


def test_every_kind_of_text_counts() -> None:
    """Content, refusal, reasoning, tool calls, legacy calls and completions are texts of their own, per choice."""
    stream = DeliveredText("gpt-4o")
    stream.feed(content("hel"))
    stream.feed(content("lo", index=1))
    stream.feed(content("lo"))
    stream.feed(chunk(delta={"refusal": "hello", "reasoning_content": "hello", "function_call": {"name": "hello"}}))
    for piece in ("hel", "lo"):
        calls = [{"index": tool, "function": {"name": None, "arguments": piece}} for tool in (0, 1)]
        stream.feed(chunk(delta={"tool_calls": calls}))
    stream.feed(chunk(delta={"tool_calls": [{"index": 2, "custom": {"name": "hello", "input": "hello"}}]}))
    stream.feed(chunk(index=2, text="hello"))
    lo = true_count("lo", "o200k_base")
    assert stream.count() == lo + len(
        ["content", "refusal", "reasoning", "legacy", "call", "call", "name", "input", "text"]
    )


@pytest.mark.parametrize("choice", [{}, {"delta": {}}, {"delta": {"content": ""}}, {"delta": {"role": "assistant"}}])
def test_events_without_text_count_nothing(choice: dict[str, Any]) -> None:
    """Role events, usage events and empty deltas are free."""
    stream = DeliveredText("gpt-4o")
    stream.feed(chunk(**choice))
    assert stream.count() == stream.upper_bound() == 0


def test_what_cannot_be_read_is_charged_by_its_bytes() -> None:
    """Beside what can."""
    stream = DeliveredText("gpt-4o")
    stream.feed_unread(7)
    assert stream.upper_bound() == 7
    stream.feed(content("hello"))
    assert stream.count() == stream.upper_bound() == 8


def test_texts_are_bounded_in_number() -> None:
    """A provider that invents choices without end cannot fill the memory; nothing delivered is free."""
    stream = DeliveredText("gpt-4o")
    for index in range(MAX_TEXTS * 4):
        stream.feed(content("hello ", index=index))
    assert len(stream._texts) <= MAX_TEXTS + 1
    assert stream.count() >= MAX_TEXTS * 4


def test_counting_again_does_not_count_again() -> None:
    """Asking after every delta hands each character to the tokenizer about once."""
    counted, count = 0, count_for("gpt-4o")

    def spy(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return count(text)

    stream = DeliveredText("gpt-4o", spy)
    for _ in range(200):
        for piece in ("Some ", "more ", "text. "):
            stream.feed(content(piece))
            stream.count()
    assert counted < 4 * 200 * len("Some more text. ")


def test_the_most_it_can_be() -> None:
    """Of a text that was counted its tokens, of one that was not a token for each byte."""
    stream = DeliveredText("gpt-4o")
    stream.feed([Text(0, Kind.CONTENT, 0, "hello world")])
    assert stream.upper_bound() == 11
    assert stream.count() == stream.upper_bound() == 2
    stream.feed([Text(1, Kind.CONTENT, 0, "hello")])
    assert stream.upper_bound() == 2 + 5
