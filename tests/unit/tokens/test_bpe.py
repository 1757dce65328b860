import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.tokens.bpe import count_for, count_in
from tests.unit.tokens.oracle import true_count
from tests.unit.tokens.texts import HOSTILE, texts

# Of OpenAI's encodings, and ours for it: gpt-oss is counted in o200k_base, and must come out the same.
ENCODINGS = {"cl100k_base": "cl100k_base", "o200k_base": "o200k_base", "o200k_harmony": "o200k_base"}
BIG = "A client may send a large prompt, 12345 times; that is fine.\n" * 33_000


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(text=texts)
@settings(max_examples=300)
def test_counts_equal_tiktoken(encoding: str, text: str) -> None:
    """Any text has exactly the tokens that OpenAI's tokenizer gives it, special-token strings included."""
    assert count_in(ENCODINGS[encoding])(text) == true_count(text, encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_texts_equal_tiktoken(encoding: str, number: int) -> None:
    """Each text known to hurt tokenizers is tried, not left to chance."""
    assert count_in(ENCODINGS[encoding])(HOSTILE[number]) == true_count(HOSTILE[number], encoding)


@given(text=st.text(st.characters(codec=None, categories=["Cs", "Lu"]), max_size=30))
def test_lone_surrogates_equal_tiktoken(text: str) -> None:
    """Half a UTF-16 pair counts as U+FFFD and raises nothing."""
    assert count_in("o200k_base")(text) == true_count(text, "o200k_base")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("Hello, world!", 4), ("The quick brown fox", 4), ("I love programming", 3), ("42", 1), (" ", 1), ("hello.", 2),
     ("hello .", 2), ("don't", 2), ("", 0)],
)  # fmt: skip
def test_check_values_of_the_rust_sentinel(text: str, tokens: int) -> None:
    """The contract's check values hold (zion-contract.md, 5.2)."""
    assert count_for("gpt-4")(text) == tokens


@pytest.mark.parametrize(
    "text", ["A" * 1_000_000, "ab" * 500_000, " " * 1_000_000, "日本語" * 330_000, BIG[:1_000_000]]
)
def test_a_megabyte_is_counted_in_linear_time(text: str) -> None:
    """No text makes counting quadratic. The bound is loose, for busy machines; the usual time is 2 to 14 ms."""
    started = time.thread_time()
    count_in("cl100k_base")(text)
    assert time.thread_time() - started < 0.5


def test_counting_releases_the_gil() -> None:
    """The event loop goes on while a thread counts a large text."""
    count, done = count_in("o200k_base"), threading.Event()
    turns = 0

    def work() -> None:
        count(BIG * 4)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        turns += 1
    thread.join()
    assert turns > 100
