"""What a provider's own count of an input is to our estimate of it, by model.

Where a model's vocabulary is not known here, what is reserved for a request's input is an estimate. Most requests to a
model are alike in language and form, so their provider's figures tell how far the next estimate is off. Each process
learns for itself and starts anew. Source: DESIGN section 4.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from math import ceil
from typing import Final

from sentinel.tokens.encoding import is_exact
from sentinel.tokens.models import MAX_NAME_CHARS, longest_match

LEAST, MOST = 0.5, 3.0
"""Nobody whose requests are unlike all others may have those of others admitted for next to nothing, or refused."""

_WEIGHT = 0.2
"""Of one answer: ten of them have nine tenths of the say."""

MOST_MODELS = 1000
"""Remembered; the one that was not heard of for the longest time is forgotten first."""

_OLDER: Final = 1.25
"""Claude's vocabulary makes 16% (English prose) to 30% (code) more tokens of a text than OpenAI's."""
_NEWER: Final = 1.6
"""And 30% more than that since Opus 4.7 and Sonnet 5. Source: Anthropic's guide "Token counting"."""
_GUESSED: Final = "claude"
_FIRST_GUESSES: Final = {
    "claude*": _NEWER,
    **dict.fromkeys(("claude-2*", "claude-3*", "claude-instant", "claude-haiku-4*", "claude-sonnet-4*"), _OLDER),
    "claude-opus-4*": _OLDER,
    **dict.fromkeys(("claude-opus-4-7", "claude-opus-4.7", "claude-opus-4-8", "claude-opus-4.8"), _NEWER),
}
"""The ratio of a model that nothing is known of yet. For all others it is 1: no number that is better was found for the
families whose vocabularies are public (docs/tokens.md)."""


@lru_cache(maxsize=1024)
def _first_guess(name: str) -> float:
    return longest_match(_FIRST_GUESSES, name.rpartition("/")[2], 1.0)


class InputRatio:
    """Learns from answers whose provider tells its input."""

    def __init__(self, most_models: int = MOST_MODELS) -> None:
        self._most_models = most_models
        self._ratios: OrderedDict[str, float] = OrderedDict()

    def corrected(self, model: str, counted: int) -> int:
        """The input tokens to expect where so many were counted; the same where a count is exact."""
        ratio = self._ratios.get(model)
        if ratio is None:
            # Nearly all requests are to others.
            if _GUESSED not in model:
                return counted
            ratio = _first_guess(model[:MAX_NAME_CHARS])
        return ceil(counted * ratio)

    def note(self, model: str, counted: int, told: int) -> None:
        """Take in what the provider tells of an input, in tokens, of which so many were counted."""
        if is_exact(model) or not counted:
            return
        found = min(MOST, max(LEAST, told / counted))
        ratio = self._ratios.get(model)
        if ratio is None and len(self._ratios) >= self._most_models:
            self._ratios.popitem(last=False)
        self._ratios[model] = found if ratio is None else ratio + _WEIGHT * (found - ratio)
        self._ratios.move_to_end(model)
