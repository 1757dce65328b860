"""What Linux tells of a process, which may end while it is asked about."""

from __future__ import annotations

from pathlib import Path


def told_of(pid: int, what: str) -> str:
    """A file of /proc about this process; empty where it has ended, also between the opening and the reading."""
    try:
        return Path(f"/proc/{pid}/{what}").read_text()
    except OSError:
        return ""


def state_of(pid: int) -> str:
    """One letter, such as Z for a zombie; empty where it has ended."""
    # It follows the command's name in parentheses.
    return told_of(pid, "stat").rpartition(")")[2].strip()[:1]


def is_running(pid: int) -> bool:
    """Whether it has not ended: a zombie has."""
    return state_of(pid) not in ("", "Z")


def children_of(pid: int) -> list[int]:
    """The processes that its main thread has started, and that are not waited for yet."""
    return [int(child) for child in told_of(pid, f"task/{pid}/children").split()]
