"""Every module has its place in the contracts of pyproject.toml, and what docs/architecture.md says of it holds."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
TOOLS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
CONTRACTS: dict[str, dict[str, Any]] = {contract["id"]: contract for contract in TOOLS["importlinter"]["contracts"]}
PLACED = [name for layer in CONTRACTS["direction"]["layers"] for name in re.split(r"[ :|]+", layer)]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def modules() -> list[str]:
    """All modules of the package, and its rooms as far as their `__init__.py` has code; docstrings need no place."""
    files = sorted(path for path in (SOURCE / "sentinel").rglob("*.py") if has_code(path))
    return [name for name in map(name_of, files) if name != "sentinel"]


def has_code(path: Path) -> bool:
    return path.name != "__init__.py" or bool(
        re.search(r"^(from|import) (?!__future__)", path.read_text(), re.MULTILINE)
    )


def is_within(module: str, names: list[str]) -> bool:
    """Whether a module is one of these, or in a room that is."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def described() -> Iterator[tuple[str, str]]:
    """Module or room, and its kind, as the code map of docs/architecture.md has them."""
    table = (ROOT / "docs/architecture.md").read_text().split("## Code map", 1)[1].split("\n## ", 1)[0]
    for names, kind in re.findall(r"^\| (`.+?`.*?) \| *(\w*) *\|", table, re.MULTILINE):
        room = ""
        for name in re.findall(r"`([\w./]+)`", names):
            # `proxy/sse.py`, `meter.py`: the second is in the room of the first.
            room = name.rpartition("/")[0] if "/" in name else room
            path = name if "/" in name or not room else f"{room}/{name}"
            yield "sentinel." + path.removesuffix(".py").strip("/").replace("/", "."), kind


def test_every_module_has_a_place() -> None:
    """In contract `direction`, which import-linter checks for the modules that it names, and for no others."""
    unplaced = [module for module in modules() if not is_within(module, PLACED)]
    assert unplaced == [], "give each of these a line in pyproject.toml, [[tool.importlinter.contracts]] `direction`"


def test_every_place_has_a_module() -> None:
    """A name that is no module any more would keep nobody from anything."""
    places = {*PLACED, *CONTRACTS["deciding"]["source_modules"]}
    there = {name_of(path) for path in SOURCE.rglob("*.py")}
    assert sorted(places - there) == []


def test_the_code_map_has_every_module() -> None:
    """docs/architecture.md says of each module, or of its room, what is in it."""
    told = [name for name, _ in described()]
    assert [module for module in modules() if not is_within(module, [*told, "sentinel.__main__"])] == []
    there = {name_of(path) for path in SOURCE.rglob("*.py")}
    assert sorted(set(told) - there) == []


def test_what_decides_is_held_to_it() -> None:
    """Rooms that are called deciding are in contract `deciding`, and no others."""
    sources: list[str] = CONTRACTS["deciding"]["source_modules"]
    decides = [name for name, kind in described() if kind == "decides"]
    assert [name for name in decides if not is_within(name, sources)] == [], "add these to contract `deciding`"
    assert [name for name in sources if not is_within(name, decides)] == [], "docs/architecture.md does not say so"


@pytest.mark.parametrize("kind", sorted({kind for _, kind in described()}))
def test_kinds_are_those_that_are_explained(kind: str) -> None:
    """A room decides, touches, conducts, or assembles; the simulators are of no kind."""
    assert kind in {"", "assembles", "conducts", "decides", "touches"}


def test_what_decides_is_measured() -> None:
    """`make coverage` looks at the modules of contract `deciding`, and at no others."""
    paths = [f"src/{name.replace('.', '/')}" for name in CONTRACTS["deciding"]["source_modules"]]
    expected = [f"{path}/*" if (ROOT / path).is_dir() else f"{path}.py" for path in paths]
    assert TOOLS["coverage"]["run"]["include"] == expected
