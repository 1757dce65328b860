"""Images: the size of one that lies inline in a data URL, and what OpenAI charges for it.

Source of every formula and number unless said otherwise: OpenAI's guide "Images and vision", sections "Model sizing
behavior" and "Calculating costs" (developers.openai.com/api/docs/guides/images-vision).
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, sqrt
from typing import Final

from sentinel.tokens.image_size import Size, inline_size
from sentinel.tokens.models import MAX_NAME_CHARS, longest_match

# A remote image is not fetched (this room touches nothing), so its size is unknown until the provider's `usage`
# arrives and replaces our number. 1024 x 1024 is OpenAI's own worked example: 765 tokens on gpt-4o, of at most 1,445.
ASSUMED_SIZE: Final = Size(1024, 1024)


@dataclass(frozen=True, slots=True)
class Tiles:
    """Charged by tiles of 512 x 512 pixels, after scaling; `detail: low` costs the base alone. Tokens."""

    base: int
    tile: int

    def tokens(self, size: Size, detail: str | None) -> int:
        """Return the tokens of one image."""
        if detail == "low":
            return self.base
        width, height = _shrunk(size.width, size.height, 2048 / max(size.width, size.height))
        width, height = _shrunk(width, height, 768 / min(width, height))
        # Half-pixels are rounded, as a user's bills show: 2050 x 513 costs 4 tiles, 2049 x 513 costs 8
        # (community.openai.com/t/1281361).
        return self.base + self.tile * ceil(round(width) / 512) * ceil(round(height) / 512)


@dataclass(frozen=True, slots=True)
class Patches:
    """Charged by patches of 32 x 32 pixels times `factor`, after scaling down to a budget and a longest side.

    `detail: low` changes nothing here: OpenAI does not publish a lower price for it, and bills show none
    (community.openai.com/t/1377015). Only models with an `original` level know more than one budget.
    """

    factor: float
    budget: int = 1_536
    longest: int = 2_048
    auto_is_original: bool = False
    has_original: bool = False

    def tokens(self, size: Size, detail: str | None) -> int:
        """Return the tokens of one image."""
        budget, longest = self.budget, self.longest
        if self.has_original and (detail == "original" or (self.auto_is_original and detail in (None, "auto"))):
            budget, longest = 10_000, 6_000
        return ceil(_patches(size, budget, longest) * self.factor - 1e-9)


def _shrunk(width: float, height: float, scale: float) -> tuple[float, float]:
    """Scale down, never up, and never below one pixel."""
    return (max(width * scale, 1), max(height * scale, 1)) if scale < 1 else (width, height)


def _patches(size: Size, budget: int, longest: int) -> int:
    """Count the patches that cover an image once it fits the longest side (pixels) and the budget (patches)."""
    width, height = _shrunk(size.width, size.height, longest / max(size.width, size.height))
    count = ceil(width / 32) * ceil(height / 32)
    if count <= budget:
        return count
    shrink = sqrt(32**2 * budget / (width * height))
    across, down = width * shrink / 32, height * shrink / 32
    shrink *= min(floor(across) / across, floor(down) / down)
    # The scaled sides are whole multiples of 32 but for float noise, which must not open another row of patches.
    return min(budget, ceil(floor(width * shrink + 1e-6) / 32) * ceil(floor(height * shrink + 1e-6) / 32))


_DEFAULT: Final = Tiles(85, 170)
# 1.2 is what bills show for models whose factor is not published (community.openai.com/t/1377015).
_MODELS: Final[dict[str, Tiles | Patches]] = {
    "gpt-4o": _DEFAULT,
    "gpt-4.1": _DEFAULT,
    "gpt-4.5": _DEFAULT,
    "gpt-4o-mini": Tiles(2_833, 5_667),
    "gpt-5*": Tiles(70, 140),
    "o1": Tiles(75, 150),
    "o3": Tiles(75, 150),
    "computer-use-preview": Tiles(65, 129),
    # What they are given to change. Source: the guide "Image generation", "Input image tokens".
    "gpt-image*": Tiles(65, 129),
    "chatgpt-image": Tiles(65, 129),
    "gpt-4.1-mini": Patches(1.62),
    "gpt-4.1-nano": Patches(2.46),
    "o4-mini": Patches(1.72),
    "gpt-5-mini": Patches(1.62),
    "gpt-5-nano": Patches(2.46),
    "gpt-5-codex-mini": Patches(1.2),
    "gpt-5.1-codex-mini": Patches(1.2),
    "gpt-5.2": Patches(1.2),
    "gpt-5.3-codex": Patches(1.2),
    "gpt-5.4": Patches(1.2, budget=2_500, has_original=True),
    "gpt-5.4-mini": Patches(1.62),
    "gpt-5.4-nano": Patches(2.46),
    "gpt-5.5": Patches(1.2, budget=2_500, has_original=True, auto_is_original=True),
}


@lru_cache(maxsize=1024)
def _formula(name: str) -> Tiles | Patches:
    return longest_match(_MODELS, name, _DEFAULT)


def image_tokens(size: Size, detail: str | None, model: str) -> int:
    """Return the input tokens that `model` charges for an image of `size`.

    size: pixels, at least 1 x 1. detail: the client's word; null, `auto` and unknown words mean `high`.
    Source: see the top of this file; unknown models count as gpt-4o.
    """
    return _formula(model[:MAX_NAME_CHARS]).tokens(size, detail)


def url_tokens(url: str, detail: str | None, model: str) -> int:
    """Return the input tokens of the image at `url`; a size that cannot be read there is ASSUMED_SIZE."""
    return image_tokens(inline_size(url) or ASSUMED_SIZE, detail, model)
