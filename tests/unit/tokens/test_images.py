import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.tokens.image_size import Size
from sentinel.tokens.images import _patches, image_tokens, url_tokens


@pytest.mark.parametrize(
    ("width", "height", "detail", "tokens"),
    [
        (1024, 1024, "high", 765),
        (2048, 4096, "high", 1105),
        (4096, 8192, "low", 85),
        (512, 512, "high", 255),
        (512, 512, None, 255),
        (1024, 1024, "auto", 765),
        (2049, 513, "high", 85 + 8 * 170),
        (2050, 513, "high", 765),
    ],
)
def test_tile_examples(width: int, height: int, detail: str, tokens: int) -> None:
    """OpenAI's worked examples for gpt-4o, and two bills that tell how half-pixels are rounded."""
    assert image_tokens(Size(width, height), detail, "gpt-4o") == tokens


@pytest.mark.parametrize(
    ("width", "height", "patches"), [(1024, 1024, 1024), (1800, 2400, 1452), (32, 32, 1), (33, 1, 2)]
)
def test_patch_examples(width: int, height: int, patches: int) -> None:
    """OpenAI's worked examples for a budget of 1,536 patches."""
    assert _patches(Size(width, height), 1_536, 2_048) == patches


@pytest.mark.parametrize(
    ("model", "detail", "tokens"),
    [
        ("gpt-4o-mini", "high", 2833 + 4 * 5667),
        ("gpt-4o-mini", "low", 2833),
        ("gpt-5", "high", 630),
        ("o1", "high", 675),
        ("o3", "low", 75),
        ("gpt-4.1-2025-04-14", "high", 765),
        ("gpt-4.1-mini", "high", 1659),
        ("gpt-4.1-nano", "low", 2520),
        ("o4-mini", None, 1762),
        ("gpt-5-mini", "high", 1659),
        ("gpt-5-nano", "high", 2520),
        ("unknown", "high", 765),
        ("gpt-5.4", "high", 1229),
    ],
)
def test_each_model_has_its_price(model: str, detail: str | None, tokens: int) -> None:
    """A picture of 1024 x 1024 costs what the published table says, rounded up."""
    assert image_tokens(Size(1024, 1024), detail, model) == tokens


def test_original_detail_is_dearer() -> None:
    """gpt-5.4 keeps more of a large picture on `original`; gpt-5.5 does so by default."""
    large = Size(4096, 4096)
    assert image_tokens(large, "original", "gpt-5.4") == image_tokens(large, None, "gpt-5.5") > 10_000
    assert image_tokens(large, "high", "gpt-5.4") <= 3_000


@given(st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1), st.sampled_from(["gpt-4o", "gpt-4.1-mini", "gpt-5.5"]))
def test_any_size_has_a_bounded_price(width: int, height: int, model: str) -> None:
    """A header may claim any size; the price stays between one token and the budget."""
    assert 0 < image_tokens(Size(width, height), None, model) <= 12_000


@pytest.mark.parametrize("url", ["https://example.com/a.png", "data:image/png;base64,AAAA", "data:", ""])
def test_unknown_size_counts_as_the_assumed_one(url: str) -> None:
    """A remote picture counts like OpenAI's example; with low detail its size does not matter."""
    assert url_tokens(url, None, "gpt-4o") == 765
    assert url_tokens(url, "low", "gpt-4o") == 85
