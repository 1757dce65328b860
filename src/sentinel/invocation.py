"""How this command was started, and what to paste so that another of its commands runs from the same place."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def invocation() -> str:
    """What to paste in the working directory, in place of `sentinel`.

    The bare name where PATH leads to this very installation; the checkout's launcher, the installed script or
    `python -m sentinel` by its path where it does not.
    """
    script = Path(os.path.abspath(sys.argv[0]))  # noqa: PTH100 (resolve() would follow links: another path than was typed)
    if script.name != "sentinel":
        return f"{_from_here(Path(sys.executable))} -m sentinel"
    launcher = _launcher_of(script)
    found = shutil.which("sentinel")
    if found and any(os.path.samefile(found, path) for path in (script, launcher) if path and path.exists()):  # noqa: PTH121
        return "sentinel"
    return _from_here(launcher or script)


def with_setting(assignment: str, command: str) -> str:
    """What to paste to run a command once with another setting, as `SENTINEL_PORT=8081 make run`."""
    # make tells those that it starts; a Makefile of others in this folder would have no launcher beside it.
    by_make = command == "dev" and "MAKELEVEL" in os.environ  # noqa: TID251 (a message of make's, not a setting)
    if by_make and _launcher_of(Path(sys.argv[0]).absolute()) == Path.cwd() / "sentinel":
        return f"{assignment} make run"
    return f"{assignment} {invocation()} {command}"


def _launcher_of(script: Path) -> Path | None:
    """The launcher of the checkout whose environment has this script."""
    checkout = script.parent.parent.parent
    launcher = checkout / "sentinel"
    is_ours = script.parent.parent == checkout / ".venv" and (checkout / "Makefile").is_file()
    return launcher if is_ours and os.access(launcher, os.X_OK) and launcher.is_file() else None


def _from_here(path: Path) -> str:
    """A path as it is typed in a shell: relative where it is below the working directory."""
    here = Path.cwd()
    text = str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
    return shlex.quote(text if "/" in text else f"./{text}")
