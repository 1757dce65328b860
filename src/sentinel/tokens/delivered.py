"""`DeliveredText`: what a stream delivered, counted exactly while it passes, in bounded memory.

Why not keep the text: an answer may be long and a worker holds thousands of streams. Why not count each delta by
itself: tokens span deltas. So each text keeps only a tail; what lies before a **safe point** is counted once and
let go.

A safe point lies after a letter or digit and before a space, a line end, or one of _AFTER. OpenAI's pre-tokenizers
(the regular expressions of cl100k_base and o200k_base) always cut there: no alternative of theirs goes on from a letter
or digit to such a character, none looks back, and only white space looks ahead; nor does one of the other families
(vocabulary.py). Hence count(a) + count(b) == count(a + b); tests/unit/tokens/test_delivered.py tries to break this with
tiktoken, test_vocabulary.py with theirs.
"""

from collections.abc import Iterable
from typing import Final

from sentinel.tokens.bpe import Count, count_for
from sentinel.tokens.loose import Text

# A text is folded when its tail reaches this many characters. Ordinary text then costs 13 us per fold; the worst
# (dashes) 3 ms, a third of it to look for a safe point, within the 5 ms that one step may take.
FOLD_CHARS: Final = 4_096
# Without a safe point (in a run of dashes, of one letter) the tail is counted as it is: a cut inside such a run
# miscounts by a few tokens per 4,096 characters, and only there.
# One stream has a text per choice, kind and tool call. A provider that invents more than this gets the rest counted as
# one text, which may miscount by a token per delta.
MAX_TEXTS: Final = 256

# No apostrophe (contractions) and no combining mark (part of a word) may stand here.
_AFTER: Final = frozenset(' \n\t\r.,;:!?)(]}"-/，。、！？：；）」』')  # noqa: RUF001 (full-width marks are meant)

_OVERFLOW: Final = (-1, -1, 0)
"""The one text of all that would be too many."""


def safe_point(text: str) -> int:
    """Return the last index where `text` may be cut without changing its token count; 0 if there is none.

    Source: the `pat_str` of cl100k_base and o200k_base in tiktoken_ext/openai_public.py.
    """
    for at in range(len(text) - 1, 0, -1):
        if text[at] in _AFTER and (text[at - 1].isalpha() or text[at - 1].isdecimal()):
            return at
    return 0


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class _Text:
    """One growing text: tokens of what was let go, and the tail that is still kept."""

    __slots__ = ("_bytes", "_chars", "_counted", "_pieces", "_tail_tokens")

    def __init__(self) -> None:
        self._counted = 0
        self._pieces: list[str] = []
        self._chars = 0
        self._bytes = 0
        self._tail_tokens: int | None = 0

    def add(self, piece: str, count: Count) -> None:
        self._pieces.append(piece)
        self._chars += len(piece)
        self._bytes += _utf8_bytes(piece)
        self._tail_tokens = None
        if self._chars >= FOLD_CHARS:
            self._fold(count)

    def tokens(self, count: Count) -> int:
        """Return the exact count so far. It folds, so asking again after a little more text costs little."""
        if self._tail_tokens is None:
            self._fold(count)
            self._tail_tokens = count("".join(self._pieces))
        return self._counted + self._tail_tokens

    def at_most(self) -> int:
        if self._tail_tokens is not None:
            return self._counted + self._tail_tokens
        return self._counted + self._bytes

    def _fold(self, count: Count) -> None:
        tail = "".join(self._pieces)
        at = safe_point(tail) or (len(tail) if len(tail) >= FOLD_CHARS else 0)
        if at:
            self._counted += count(tail[:at])
            tail = tail[at:]
        self._pieces = [tail]
        self._chars = len(tail)
        self._bytes = _utf8_bytes(tail)


class DeliveredText:
    """Readings in, a token count out. One object per stream, not for use by two threads at once."""

    __slots__ = ("_count", "_counted", "_texts", "_unread_bytes")

    def __init__(self, model: str, count: Count | None = None) -> None:
        """model: as the client named it; decides the encoding, unless `count` is given."""
        self._count = count or count_for(model)
        self._texts: dict[tuple[int, int, int], _Text] = {}
        self._unread_bytes = 0
        # What `count` has said, until more is fed. Near a limit it is asked four times for each event.
        self._counted: int | None = 0

    def feed(self, texts: Iterable[Text]) -> None:
        """Take the texts of one stream event that was delivered, or of a whole answer."""
        self._counted = None
        for choice, kind, tool, piece in texts:
            key: tuple[int, int, int] = (choice, kind, tool)
            text = self._texts.get(key)
            if text is None:
                if len(self._texts) >= MAX_TEXTS:
                    key = _OVERFLOW
                text = self._texts.setdefault(key, _Text())
            text.add(piece, self._count)

    def feed_unread(self, size: int) -> None:
        """Take bytes that cannot be read; each is charged as a token, for no token has less (DESIGN section 5)."""
        self._unread_bytes += size
        self._counted = None

    def count(self) -> int:
        """Return the exact tokens of everything delivered: each choice, kind and tool call is a text of its own.

        What the model produces around texts (tool call frames, hidden reasoning, audio) is not in here.
        """
        if self._counted is None:
            self._counted = self._unread_bytes + sum([text.tokens(self._count) for text in self._texts.values()])
        return self._counted

    def upper_bound(self) -> int:
        """Return a number that count() does not exceed, cheaply: a token has at least one byte.

        After count() the two are equal until more is fed.
        """
        if self._counted is not None:
            return self._counted
        return self._unread_bytes + sum([text.at_most() for text in self._texts.values()])
