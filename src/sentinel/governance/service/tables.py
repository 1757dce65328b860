"""What commands answer: tables and records for people, CSV and JSON for programs. Decides."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What would move a terminal's cursor, break a line, or turn the direction of what is read."""
_GAP = "  "

Row = Mapping[str, Any]
"""A line of a table: names of columns, and what programs read as JSON."""


def shown(value: Any) -> str:
    """A value for people: `-` for none, yes and no, lists with commas; nothing in it that a terminal obeys."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or "-"
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), str(value))


def table(rows: Sequence[Row], columns: Sequence[str], numbers: Iterable[str] = (), last: Row | None = None) -> str:
    """Lines with a heading, columns below one another; those of numbers stand to the right.

    last: a line of sums, below a rule.
    """
    to_right = set(numbers)
    heading = [column.replace("_", " ").upper() for column in columns]
    lines = [heading, *([shown(row.get(column)) for column in columns] for row in rows)]
    if last is not None:
        lines.append(["" if last.get(column) is None else shown(last[column]) for column in columns])
    widths = [max(_width(line[place]) for line in lines) for place in range(len(columns))]
    if last is not None:
        lines.insert(-1, ["-" * width for width in widths])
    aligned = (
        _GAP.join(
            _padded(cell, width, column in to_right) for cell, width, column in zip(line, widths, columns, strict=True)
        )
        for line in lines
    )
    return "".join(f"{line.rstrip()}\n" for line in aligned)


def record(row: Row) -> str:
    """One thing, a line for each of its fields."""
    names = {name: name.replace("_", " ") for name in row}
    width = max(map(len, names.values()))
    return "".join(f"{names[name]:{width}}{_GAP}{shown(value)}\n" for name, value in row.items())


def _padded(cell: str, width: int, to_right: bool) -> str:
    padding = " " * (width - _width(cell))
    return padding + cell if to_right else cell + padding


def _width(text: str) -> int:
    """Columns of a terminal."""
    if text.isascii():
        return len(text)
    return sum(_width_of(letter) for letter in text)


def _width_of(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def json_text(value: Any) -> str:
    """JSON on one line; what a terminal would obey is escaped, as it only stands within its texts."""
    text = msgspec.json.encode(value).decode()
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_array(rows: Iterable[Row]) -> Iterator[str]:
    """One JSON document of all rows, a line for each, as they come."""
    before = "[\n"
    for row in rows:
        yield before + json_text(row)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def csv_lines(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[str]:
    """CSV with a heading (RFC 4180, lines end as files' do here), as rows come. None is an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def usd(micro_usd: int) -> str | None:
    """Millionths of a US dollar as a decimal; None where none was told."""
    return f"{micro_usd // 1_000_000}.{micro_usd % 1_000_000:06d}" if micro_usd else None
