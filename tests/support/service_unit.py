"""deploy/sentinel.service, read: its directives, and the system calls that its filter lets through."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.waiting import PATIENCE_SECONDS

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "sentinel.service"
STORED_SETS = Path(__file__).with_name("system_call_sets.txt")

Directives = dict[str, list[str]]
"""The values of each directive, in the order in which they stand; an empty value empties what was before it."""


def directives(text: str | None = None, section: str = "Service") -> Directives:
    """The directives of one section of the unit, or of this text."""
    found: Directives = {}
    current = ""
    for line in (UNIT.read_text() if text is None else text).splitlines():
        if line.startswith("["):
            current = line.strip("[]")
        elif current == section and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def system_call_sets(text: str | None = None) -> dict[str, set[str]]:
    """The sets of system calls by their names (`@process`): as this machine's systemd has them, else as stored."""
    sets: dict[str, set[str]] = {}
    current: set[str] = set()
    for line in (_printed_sets() if text is None else text).splitlines():
        if line.startswith("@"):
            current = sets.setdefault(line.strip(), set())
        elif line.startswith("    ") and not line.strip().startswith("#"):
            current.add(line.strip())
    return sets


def _printed_sets() -> str:
    try:
        command = ["systemd-analyze", "syscall-filter", "--no-pager"]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=2 * PATIENCE_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return STORED_SETS.read_text()


def allowed_system_calls(filters: list[str], sets: dict[str, set[str]]) -> set[str]:
    """The names that an allow-list in SystemCallFilter= ends up with. Source: systemd.exec(5).

    The first line says that it is one; each further line adds to it, or with `~` takes away. @default is always in it.
    """
    assert filters
    assert not filters[0].startswith("~"), "a deny-list: not understood here"
    allowed = _members("@default", sets)
    for line in filters:
        for name in line.removeprefix("~").split():
            if line.startswith("~"):
                allowed -= _members(name, sets)
            else:
                allowed |= _members(name, sets)
    return allowed


def _members(name: str, sets: dict[str, set[str]]) -> set[str]:
    if not name.startswith("@"):
        return {name}
    return set().union(*(_members(member, sets) for member in sets[name]))
