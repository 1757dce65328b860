"""The one door to toktok: a text goes in, its number of tokens comes out.

Why the private `toktok._encoding(...)`: the public `toktok.batch_count([text])` costs 28 us for a short text (it
starts a thread pool), `_encoding(name).count(text)` 0.15 us, for the same number. Counting is most of what a request
costs in this room, so we take the inner door, in this file alone; dependencies are locked by hash, and the tests
compare it with tiktoken, so a toktok that moves it cannot slip in.

`count` releases the GIL (tried: while a thread counted 2 MB for 75 ms, the main thread never waited more than 0.4 ms),
so a large text may be counted in a thread beside the event loop.
"""

from collections.abc import Callable, Collection
from functools import cache
from typing import TypeAlias, cast

import toktok

from sentinel.tokens.encoding import O200K, encoding_of, use
from sentinel.tokens.vocabulary import FAMILIES, counter_of

Count: TypeAlias = Callable[[str], int]


def _without_lone_surrogates(text: str) -> str:
    """Replace each half of a broken UTF-16 pair by U+FFFD, which is what tiktoken counts, too."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@cache  # Two encodings and the vocabularies of other families are used: so many entries, and no more.
def count_in(encoding: str) -> Count:
    """Return the function that counts tokens in `encoding`; special-token strings are ordinary text.

    The function is linear in the text (1 MB: 2-14 ms, at worst 450 ms for a megabyte of dashes) and never raises.
    The first call for an encoding loads its vocabulary: o200k_base 0.36 s and 59 MB, cl100k_base 0.12 s and 47 MB, with
    the GIL held. Call it for both at the start, before the first request, or a request will stop the event loop.
    Raises KeyError for an encoding that nobody has, ValueError for a vocabulary that no package has (vocabulary.py).
    """
    if encoding in FAMILIES:
        return counter_of(encoding, otherwise=count_in(O200K))
    raw = cast("Count", toktok._encoding(encoding).count)  # noqa: SLF001 (why: see above)

    def count(text: str) -> int:
        try:
            return raw(text)
        except UnicodeEncodeError:
            return raw(_without_lone_surrogates(text))

    return count


def count_for(model: str) -> Count:
    """Return the function that counts tokens as `model` does."""
    return count_in(encoding_of(model))


def load(vocabularies: Collection[str] = ()) -> None:
    """Load what most models are counted in, and these vocabularies of other families, in which theirs are from now on.

    Raises ValueError for a vocabulary that no package has.
    """
    for encoding in (O200K, *vocabularies):
        count_in(encoding)
    use(vocabularies)
