"""A secret blotted out of what passes on, for a provider may repeat our key to whoever it refuses (P4).

Looked for is the whole secret: as it is, and in errors also as JSON, URLs and HTML spell it. What a provider has masked
itself (`sk-...abcd`) is none. A short one is no secret but a word, such as the `EMPTY` or `lm-studio` that servers of
one's own are given: to take it out of answers would spoil them.
"""

from __future__ import annotations

import re
from html import escape

BLOT = b"[redacted]"

LEAST_IN_ERRORS, LEAST_IN_ANSWERS = 8, 20
"""Characters of a secret. The shortest real keys, those of Azure and Mistral, have 32."""

_MARK_CHARACTERS = 16
"""Found in a chunk of a stream in 0.1 us, half of what a whole key takes."""

_STEP_BYTES = 32 * 1024
"""Looked at in one go for every spelling: 1.3 ms at worst, with Python's lock held."""
_MOST_BYTES_OF_ONE = 12
"""The longest spelling of one character: `u0026` behind a backslash that was itself escaped, twice."""


class Redactor:
    """Blots one secret out. secret: of visible ASCII characters, as headers need it.

    mark: what is in all data that `plain` changes, a piece from the secret's middle; None for a short secret.
    most_begun: bytes at the end of data that may be the beginning of what `plain` takes out.
    """

    __slots__ = ("_every_spelling", "_longest", "_secret", "mark", "most_begun")

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode("ascii")
        start = (len(secret) - _MARK_CHARACTERS) // 2
        is_long = len(secret) >= LEAST_IN_ANSWERS
        self.mark = self._secret[start : start + _MARK_CHARACTERS] if is_long else None
        self.most_begun = len(secret) - 1 if is_long else 0
        is_word = len(secret) < LEAST_IN_ERRORS
        self._every_spelling = None if is_word else re.compile(b"".join(map(_spellings, secret)))
        self._longest = len(secret) * _MOST_BYTES_OF_ONE

    def plain(self, data: bytes) -> bytes:
        """The data without the secret as it is; costs next to nothing where it is not there."""
        if self.mark is not None and data.find(self.mark) >= 0:
            return data.replace(self._secret, BLOT)
        return data

    def same_length(self, data: bytes) -> bytes:
        """The same, with as many bytes as before."""
        if self.mark is not None and data.find(self.mark) >= 0:
            return data.replace(self._secret, BLOT.ljust(len(self._secret), b"*"))
        return data

    def begun(self, data: bytes) -> int:
        """How many bytes at the end of data may be the beginning of what `plain` takes out."""
        start = max(0, len(data) - self.most_begun)
        while self.most_begun and (start := data.find(self._secret[:1], start)) >= 0:
            if self._secret.startswith(data[start:]):
                return len(data) - start
            start += 1
        return 0

    def every_spelling(self, data: bytes) -> bytes:
        """The data without the secret, however its characters are escaped. Takes some milliseconds for a megabyte."""
        if self._every_spelling is None:
            return data
        pieces: list[bytes] = []
        start = 0
        for step in range(0, len(data), _STEP_BYTES):
            end = step + _STEP_BYTES
            for found in self._every_spelling.finditer(data, max(step, start), end + self._longest):
                if found.start() >= end:
                    break
                pieces += data[start : found.start()], BLOT
                start = found.end()
        return b"".join([*pieces, data[start:]]) if pieces else data


class StreamRedactor:
    """Blots one secret out of bytes that come in pieces. keeps_length: of all of them, for it was told before."""

    __slots__ = ("_blotted", "_held", "_redactor")

    def __init__(self, redactor: Redactor, *, keeps_length: bool) -> None:
        self._redactor = redactor
        self._blotted = redactor.same_length if keeps_length else redactor.plain
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What passes of what has come; what may be the beginning of the secret waits."""
        data, self._held = self._blotted(self._held + data), b""
        begun = self._redactor.begun(data)
        if begun:
            self._held = data[-begun:]
            data = data[:-begun]
        return data

    def rest(self) -> bytes:
        """What waits at the end; it has not become the secret."""
        held, self._held = self._held, b""
        return held


def _spellings(character: str) -> bytes:
    """A pattern for one character: itself, JSON's escapes (also within JSON within JSON), percent, HTML's entities."""
    code = ord(character)
    number = f"(?i:{code:02x})"
    forms = [
        re.escape(character),
        rf"\\{{1,4}}u00{number}",
        f"%{number}",
        f"&#{code};",
        f"&#[xX]{number};",
    ]
    if character in '"\\/':
        forms.append(rf"\\{{1,4}}{re.escape(character)}")
    if (entity := escape(character)) != character:
        forms.append(re.escape(entity))
    return f"(?:{'|'.join(forms)})".encode()


NO_SECRET = Redactor("")
"""Changes nothing."""
