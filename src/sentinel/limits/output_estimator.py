"""How long a user's answers from a model usually are: what a stream without a bound of its own reserves first.

Reserving much more starves the requests beside it, reserving much less costs a call for each extension. So we take what
nine in ten of the last answers stayed within. Each process learns for itself and starts anew (docs/adr/0005).
"""

from __future__ import annotations

from array import array
from collections import OrderedDict

REMEMBERED = 20
"""Answers: enough for a ninth decile, few enough to follow a user whose work changes."""

ENOUGH = 5
"""With fewer answers than this the default is as good a guess."""

MOST_PAIRS = 10_000
"""Of users and models: about 6 MB. The pair that was not heard of for the longest time is forgotten first."""


class OutputEstimator:
    """Learns from answers; `tokens` is for one choice."""

    def __init__(self, default_tokens: int, most_pairs: int = MOST_PAIRS) -> None:
        self.default_tokens = default_tokens
        self._most_pairs = most_pairs
        self._answers: OrderedDict[tuple[str, str], array[int]] = OrderedDict()

    def tokens(self, user: str, model: str) -> int:
        """What nine in ten of the last answers stayed within; the default where too few are known, and at most."""
        answers = self._answers.get((user, model))
        if answers is None or len(answers) < ENOUGH:
            return self.default_tokens
        return min(self.default_tokens, max(1, sorted(answers)[-(len(answers) // 10) - 1]))

    def note(self, user: str, model: str, output_tokens: int) -> None:
        """Take in an answer that ended by itself; one that a limit has cut tells nothing."""
        pair = (user, model)
        answers = self._answers.get(pair)
        if answers is None:
            if len(self._answers) >= self._most_pairs:
                self._answers.popitem(last=False)
            answers = self._answers[pair] = array("q")
        self._answers.move_to_end(pair)
        if len(answers) == REMEMBERED:
            answers.pop(0)
        answers.append(output_tokens)
