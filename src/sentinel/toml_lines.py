"""Where things stand in a TOML file, for messages about what is wrong with them: its reader does not say. Decides.

The file can be read, so what stands at a place tells what it must be, and nothing is checked here. Source: TOML 1.0.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Sequence

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+""")
_SCALAR = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'  # Its last quotes may belong to the text: the end is at the first three, or behind.
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'"
    r"|[^,\]}#\n]+",
    re.DOTALL,
)

Path = tuple[str, ...]


class LinesOf:
    """The lines, from 1 on, of the tables, keys and items of a file that can be read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._ends = [found.start() for found in re.finditer("\n", text)]
        self._lines: dict[Path, int] = {}
        self._items: dict[Path, int] = {}
        table: Path = ()
        while self._next():
            if self._takes("["):
                table = self._header()
            else:
                self._pair(table)

    def __call__(self, path: Sequence[str | int]) -> int:
        """The line of what is at this path, or of the nearest thing around it; 1 where nothing is."""
        names = tuple(str(part) for part in path)
        return next((self._lines[names[:end]] for end in range(len(names), 0, -1) if names[:end] in self._lines), 1)

    def _next(self) -> str:
        """What comes behind white space and comments; empty at the end."""
        found = _BLANK.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return self._text[self._at : self._at + 1]

    def _takes(self, mark: str) -> bool:
        found = self._next() == mark
        self._at += found
        return found

    def _header(self) -> Path:
        """The path of the table whose header begins; of several of one name each has its number."""
        is_item, line = self._takes("["), self._line()
        *around, name = self._keys()
        path: Path = ()
        for key in around:
            path = (*path, key)
            self._lines.setdefault(path, line)
            if path in self._items:
                path = (*path, str(self._items[path]))
        path = (*path, name)
        if is_item:
            self._lines.setdefault(path, line)
            self._items[path] = self._items.get(path, -1) + 1
            path = (*path, str(self._items[path]))
        self._lines[path] = line
        self._at += 1 + is_item
        return path

    def _pair(self, table: Path) -> None:
        line = self._line()
        for key in self._keys():
            table = (*table, key)
            self._lines.setdefault(table, line)
        self._at += 1
        self._value(table)

    def _keys(self) -> Path:
        """Keys with dots between them, as the reader takes them, up to what follows."""
        found: list[str] = []
        while not found or self._takes("."):
            self._next()
            key = _KEY.match(self._text, self._at)
            assert key is not None
            self._at = key.end()
            found.append(next(iter(tomllib.loads(f"{key[0]} = 0"))))
        self._next()
        return tuple(found)

    def _value(self, path: Path) -> None:
        if self._takes("["):
            number = 0
            while not self._takes("]"):
                item = (*path, str(number))
                self._lines[item] = self._line()
                self._value(item)
                self._takes(",")
                number += 1
        elif self._takes("{"):
            while not self._takes("}"):
                self._pair(path)
                self._takes(",")
        else:
            scalar = _SCALAR.match(self._text, self._at)
            assert scalar is not None
            self._at = scalar.end()

    def _line(self) -> int:
        self._next()
        return bisect_left(self._ends, self._at) + 1
