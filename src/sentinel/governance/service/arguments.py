"""The arguments of `sentinel governance ...`: which commands there are, and what each is told. Decides.

It knows nothing of databases, so that help and mistakes in arguments need nothing but Python.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import date
from typing import Any, Final, TypeVar

from sentinel.governance.service.periods import KINDS

T = TypeVar("T")

OPERATION: Final = "operation"
"""Where it is noted which command was called, by its words: `plan set`."""
_AMOUNT = re.compile(r"([0-9]{1,3}(?:_?[0-9]{1,3}){0,8})([kKmMgG]?)")
_TIMES = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_DURATION = re.compile(r"([0-9]{1,12})([smhd])")
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LONGEST_MS = 36_500 * _UNIT_MS["d"]
"""A hundred years; much later moments have no place in a calendar."""
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def read_amount(text: str) -> int | None:
    """An amount such as 500, 1_000_000 or 10M (k, M, G: thousands, millions, milliards); None = unlimited.

    Raises ValueError.
    """
    if text.lower() == "unlimited":
        return None
    found = _AMOUNT.fullmatch(text)
    if found is None:
        raise ValueError("must be a number such as 500, 1_000_000, 5k or 10M, or unlimited")
    return int(found[1].replace("_", "")) * _TIMES[found[2].lower()]


def read_duration(text: str) -> int:
    """A time such as 90d (s, m, h, d), in milliseconds. Raises ValueError."""
    found = _DURATION.fullmatch(text)
    milliseconds = int(found[1]) * _UNIT_MS[found[2]] if found else 0
    if not 0 < milliseconds <= _LONGEST_MS:
        raise ValueError("must be a time such as 90d or 12h (s, m, h, d), at most 36500d")
    return milliseconds


def read_day(text: str) -> date:
    """A day as 2026-01-31. Raises ValueError."""
    if _DAY.fullmatch(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass
    raise ValueError("must be a day such as 2026-01-31")


def read_models(parts: list[str]) -> tuple[str, ...] | None:
    """Globs of models: None = all, which is what `*` says; `-` alone is none at all. Raises ValueError."""
    globs = tuple(filter(None, (part.strip() for part in parts)))
    if not globs:
        # An empty text may come from a variable that is not set: that shall lock nobody out.
        raise ValueError("must be names such as gpt-4o*,claude-*, or * for all, or - for none")
    if "*" in globs:
        return None
    return () if globs == ("-",) else globs


def read_text(text: str) -> str:
    """A text that every database takes and every terminal shows. Raises ValueError."""
    if any(letter < " " or letter == "\x7f" or "\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("must be text without control characters")
    return text


def _type(read: Callable[[str], T]) -> Callable[[str], T]:
    """As argparse wants it: with its own error, whose text it shows."""

    def checked(text: str) -> T:
        try:
            return read(read_text(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!a} {error}") from None

    return checked


_text = _type(read_text)
_amount, _duration, _day = _type(read_amount), _type(read_duration), _type(read_day)
_models = _type(lambda text: read_models(text.split(",")))

_Group = Any
"""What `add_subparsers` returns; argparse has no public name for it."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Give a parser all commands.

    What was called is in `operation` then, None where it is no command yet, and in `of` the parser whose help helps.
    """
    parser.set_defaults(of=parser, **{OPERATION: None})
    groups = parser.add_subparsers(metavar="COMMAND")
    serve = groups.add_parser("serve", help="serve Zion's contract to proxies, until SIGTERM", allow_abbrev=False)
    serve.set_defaults(**{OPERATION: "serve"}, of=serve)
    _add_plan(_group(groups, "plan", "what users may spend in a period, and which models they may use"))
    _add_user(_group(groups, "user", "who may use AI"))
    _add_key(_group(groups, "key", "tokens of ours, by which users are known"))
    _add_books(groups)


def _group(groups: _Group, name: str, text: str) -> _Group:
    group = groups.add_parser(name, help=text, description=text, allow_abbrev=False)
    group.set_defaults(of=group)
    return group.add_subparsers(metavar="ACTION")


def _command(group: _Group, words: str, text: str, *names: str) -> argparse.ArgumentParser:
    """A command with these positional arguments, each a text."""
    command: argparse.ArgumentParser = group.add_parser(
        words.rsplit(maxsplit=1)[-1], help=text, description=text, allow_abbrev=False
    )
    command.set_defaults(of=command, **{OPERATION: words})
    for name in names:
        command.add_argument(name.lower(), metavar=name, type=_text)
    command.add_argument("--json", action="store_true", help="answer with one JSON document")
    return command


def _add_plan(plans: _Group) -> None:
    new = _command(plans, "plan set", "make a plan, or change one; what is not given stays as it is", "NAME")
    for dimension in ("requests", "input-tokens", "output-tokens"):
        new.add_argument(f"--{dimension}", type=_amount, default=argparse.SUPPRESS, metavar="N", help="or `unlimited`")
    new.add_argument("--period", choices=KINDS, default=argparse.SUPPRESS, help="in UTC (new plans: monthly)")
    new.add_argument(
        "--models", type=_models, default=argparse.SUPPRESS, metavar="'A*,B*'", help="'*' = all, '-' = none"
    )
    _command(plans, "plan list", "all plans, with the number of their users")
    _command(plans, "plan show", "one plan", "NAME")
    _command(plans, "plan delete", "delete a plan that nobody has", "NAME")


def _add_user(users: _Group) -> None:
    new = _command(users, "user add", "add a user", "EMAIL")
    new.add_argument("--plan", type=_text, required=True, metavar="NAME")
    new.add_argument("--team", type=_text, metavar="NAME")
    new.add_argument("--external-id", type=_text, metavar="ID", help="the organisation's own id of the user")
    new.add_argument("--name", type=_text, metavar="TEXT")
    every = _command(users, "user list", "all users")
    every.add_argument("--plan", type=_text, metavar="NAME", help="of this plan alone")
    _command(users, "user show", "a user, with limits, what is used and left, and keys", "EMAIL")
    _command(users, "user disable", "let a user use AI no more", "EMAIL")
    _command(users, "user enable", "let a user use AI again", "EMAIL")
    _command(users, "user set-plan", "give a user another plan", "EMAIL", "NAME")
    _command(users, "user set-team", "put a user into a team; '' = none", "EMAIL", "NAME")


def _add_key(keys: _Group) -> None:
    new = _command(keys, "key add", "give a user a key, which alone is on stdout, and is never shown again", "EMAIL")
    new.add_argument("--name", type=_text, metavar="TEXT", help="by which people know it")
    new.add_argument("--expires", type=_duration, metavar="90d", help="after so long (s, m, h, d); else never")
    _command(keys, "key list", "the keys of a user", "EMAIL")
    _command(keys, "key revoke", "revoke a key for good", "ID")


def _add_books(groups: _Group) -> None:
    usage = _command(groups, "usage", "requests, tokens and cost, added up")
    usage.add_argument("--by", choices=("user", "team", "model", "day"), default="user", help="(user)")
    usage.add_argument("--since", type=_day, metavar="DATE", help="from this day on, in UTC")
    usage.add_argument("--until", type=_day, metavar="DATE", help="to this day, which is included")
    usage.add_argument("--csv", action="store_true", help="answer with CSV")
    told = _command(groups, "export", "write all plans and users")
    told.add_argument(
        "--format", choices=("csv", "json"), help="json = one object a line (by FILE's ending, else json)"
    )
    told.add_argument("file", nargs="?", type=_text, metavar="FILE", help="a new one; - or none is stdout")
    read = _command(groups, "import", "add plans and users as `export` writes them: all of them or none", "FILE")
    read.add_argument(
        "--update", action="store_true", help="change those that there are, which is a mistake without it"
    )
    _command(groups, "backup", "copy a SQLite database that is in use into a new file", "FILE")
    _command(groups, "copy", "copy everything into another, empty database, such as postgresql://...", "URL")
