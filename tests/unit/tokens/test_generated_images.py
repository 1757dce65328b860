"""What images can cost: at least what OpenAI has published that they do."""

from __future__ import annotations

import pytest

from sentinel.tokens.generated_images import author_ceiling, frames_of, image_ceiling


@pytest.mark.parametrize(
    ("size", "quality", "published"),
    [
        ("1024x1024", "low", 272),
        ("1024x1536", "low", 408),
        ("1024x1024", "medium", 1_056),
        ("1536x1024", "medium", 1_568),
        ("1024x1024", "high", 7_024),
        ("1536x1024", "high", 6_208),
        ("3584x2048", "high", 12_329),
        ("auto", "auto", 7_024),
        (None, None, 7_024),
    ],
)
def test_it_is_no_less_than_what_was_billed(size: str | None, quality: str | None, published: int) -> None:
    """And not more than three times of it."""
    assert published <= image_ceiling("gpt-image-2", size, quality) <= 3 * published


def test_what_is_not_known_is_taken_for_the_most() -> None:
    """A size, a quality; a model that is billed by the image costs no tokens."""
    largest = image_ceiling("gpt-image-2", "3840x2160", "max")
    assert image_ceiling("gpt-image-2", "enormous", "best") == largest
    assert image_ceiling("gpt-image-2", "99999x99999", "max") == largest
    assert image_ceiling("flux-3", "1024x1024", "high") == 7_100
    assert image_ceiling("dall-e-2", "1024x1024", "high") == 0


def test_what_is_more_than_an_image() -> None:
    """A GIF has frames, and an SVG an author."""
    assert [frames_of("gif", None), frames_of("gif", 3), frames_of("png", 3)] == [9, 3, 1]
    assert [author_ceiling("svg", "gpt-4o"), author_ceiling("png", "gpt-4o")] == [16_384, 0]
    assert author_ceiling("svg", None) == 128_000
