"""Images that a model makes: the most output tokens that they can cost, by size, quality and number.

Source: OpenAI's guide "Image generation", "Cost and latency", for gpt-image-1, 1.5 and mini: 272, 1,056 and 4,160
tokens for a square of 1,024 pixels in low, medium and high quality. gpt-image-2 takes any size; its calculator says
7,024 for that square and 12,329 for 3,584 x 2,048, both in high quality (community.openai.com/t/1379464). What is not
published is taken for more than it can be: the provider's usage replaces it.
"""

import re
from math import ceil
from typing import Final

from sentinel.tokens.output import output_ceiling

PARTIAL_TOKENS: Final = 100
"""Of each partial image of a stream. Source: the same guide, "Partial images"."""

_FREE_OF_TOKENS: Final = ("dall-e-",)
"""Billed by the image, and without usage."""
_MOST_PIXELS: Final = 3840 * 2160
_USUAL_PIXELS: Final = 1536 * 1024
_SIZE: Final = re.compile(r"(\d{1,5})x(\d{1,5})")
_SQUARE_HIGH: Final = 7_100
_PIXELS_PER_TOKEN: Final = 512
"""Beyond what the square costs."""
_SHARES: Final = {"low": 0.1, "medium": 0.4, "high": 1.0, "auto": 1.0, "xhigh": 2.0}
"""Of the cost of high quality, which is what `auto` chooses at most."""
_LARGEST_SHARE: Final = 4.0
"""Of `max`, and of what is not known."""
_DEFAULT_FRAMES: Final = 9
_DEFAULT_AUTHOR: Final = "gpt-5"


def image_ceiling(model: str, size: str | None, quality: str | None) -> int:
    """Return the most output tokens of one image; 0 for a model that bills none. size: as `1024x1536`, or `auto`."""
    if model.startswith(_FREE_OF_TOKENS):
        return 0
    pixels = _USUAL_PIXELS
    if size not in (None, "", "auto"):
        found = _SIZE.fullmatch(size or "")
        pixels = min(int(found[1]) * int(found[2]), _MOST_PIXELS) if found else _MOST_PIXELS
    return ceil(max(_SQUARE_HIGH, pixels / _PIXELS_PER_TOKEN) * _SHARES.get(quality or "auto", _LARGEST_SHARE))


def frames_of(output_format: str | None, frame_count: int | None) -> int:
    """Return how many images are in one answer image: a GIF has frames."""
    return (frame_count or _DEFAULT_FRAMES) if output_format == "gif" else 1


def author_ceiling(output_format: str | None, author: str | None) -> int:
    """Return the most output tokens of who writes an SVG, beside those of the image that it is made after."""
    return output_ceiling(author or _DEFAULT_AUTHOR) if output_format == "svg" else 0
