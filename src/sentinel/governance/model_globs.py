"""Which models a plan has, by globs such as `gpt-4o*`. Decides.

`*` stands for any characters, also none; nothing else is special, and case counts. No regular expressions: what a glob
costs grows with the length of the name, whatever the glob is.
"""

from __future__ import annotations

from functools import lru_cache

MOST_GLOBS, MOST_GLOB = 1_000, 256
"""Of one plan, and characters of one: what is kept of each known token must not grow."""
_MOST_NAME = 256
"""As in bodies (tokens/request.py): no model has a longer name."""


def is_allowed(globs: tuple[str, ...], model: str) -> bool:
    """Whether one of the globs matches this model."""
    return len(model) <= _MOST_NAME and _any_matches(globs, model)


@lru_cache(maxsize=4096)
def _any_matches(globs: tuple[str, ...], model: str) -> bool:
    return any(matches(glob, model) for glob in globs)


def matches(glob: str, name: str) -> bool:
    """Whether a glob matches the whole of a name."""
    first, *others = glob.split("*")
    if not others:
        return glob == name
    *middle, last = others
    if not name.startswith(first):
        return False
    place = len(first)
    for piece in middle:
        # The first place that will do leaves the most for what follows.
        found = name.find(piece, place)
        if found < 0:
            return False
        place = found + len(piece)
    return name.endswith(last) and place <= len(name) - len(last)


@lru_cache(maxsize=1024)
def shared(globs: tuple[str, ...]) -> tuple[str, ...]:
    """The same, once for all users of a plan: 50,000 tokens may be known."""
    return globs
