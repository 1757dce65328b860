"""The tree of unit tests mirrors src/, so that whoever opens a file knows where its tests are.

What is tested elsewhere has a line in tests/covered_by.toml.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

UNIT = Path(__file__).parent
ROOT = UNIT.parents[1]
SOURCE = ROOT / "src" / "sentinel"
COVERED_BY: dict[str, str] = tomllib.loads((ROOT / "tests/covered_by.toml").read_text())
ABOUT_THE_CHECKOUT = {
    "test_bench.py",
    "test_clients.py",
    "test_contracts.py",
    "test_deploy.py",
    "test_docs.py",
    "test_glossary.py",
    "test_mirror.py",
}  # These look at the files around src/.


def module_of(test: Path) -> str | None:
    """The module, such as `limits/ledger.py`, or room that a unit test is about by its name; None: there is none."""
    room = test.parent.relative_to(UNIT)
    words = test.stem.removeprefix("test_").split("_")
    for count in range(len(words), 0, -1):
        module = room / f"{'_'.join(words[:count])}.py"
        if (SOURCE / module).is_file() or (SOURCE / module.with_suffix("") / "__init__.py").is_file():
            return str(module)
    return None


def unit_tests() -> list[Path]:
    return [test for test in sorted(UNIT.rglob("test_*.py")) if test.name not in ABOUT_THE_CHECKOUT]


def has_code(module: Path) -> bool:
    """Whether there is anything in it that could be tested; most `__init__.py` only explain their room."""
    imports = re.search(r"^(?:from|import) (?!__future__)", module.read_text(), re.MULTILINE)
    return module.name != "__init__.py" or imports is not None


def names(test: str, module: str) -> bool:
    """Whether the text of a test names a module: by its path, or by an import."""
    room, _, name = f"sentinel/{module}".removesuffix(".py").removesuffix("/__init__").rpartition("/")
    package = re.escape(room.replace("/", ".") or "sentinel")
    imported = rf"\b{package}\.{name}\b|^from {package} import .*\b{name}\b" if room else r"^from sentinel import "
    return f"`{module}`" in test or re.search(imported, test, re.MULTILINE) is not None


@pytest.mark.parametrize("test", unit_tests(), ids=lambda path: str(path.relative_to(UNIT)))
def test_each_unit_test_sits_where_its_module_does(test: Path) -> None:
    """tests/unit/limits/test_ledger.py, or test_ledger_<aspect>.py, is about src/sentinel/limits/ledger.py."""
    assert module_of(test) is not None, "no module of this name in the room of src/sentinel that this folder mirrors"


def test_each_module_has_a_test() -> None:
    """A unit test of its name, or a line that says what tests it; and no line is left of what has, or is no more."""
    modules = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if has_code(path)}
    elsewhere = modules - {module_of(test) for test in unit_tests()}
    assert sorted(elsewhere - COVERED_BY.keys()) == [], "add a unit test, or a line to tests/covered_by.toml"
    assert sorted(COVERED_BY.keys() - elsewhere) == [], "these need no line in tests/covered_by.toml"


@pytest.mark.parametrize("module", COVERED_BY)
def test_what_covers_a_module_names_it(module: str) -> None:
    """So that who reads the test finds the module as well."""
    test = ROOT / COVERED_BY[module]
    assert test.name.startswith("test_")
    assert names(test.read_text(), module), f"{COVERED_BY[module]} neither imports {module} nor has `{module}` in it"


def test_what_tests_are_made_of_is_described() -> None:
    """tests/support/README.md names each file of the folder, and no other."""
    support = ROOT / "tests/support"
    named = set(re.findall(r"`(\w+\.py)`", (support / "README.md").read_text()))
    assert named == {path.name for path in support.glob("*.py")}


@pytest.mark.parametrize("word", ["wait_until", "until", "Answer"])
def test_there_is_one_of_each(word: str) -> None:
    """Who needs another waiter or answer extends the one there is (tests/support/README.md)."""
    made = re.compile(rf"^ *(?:async )?(?:def|class) {word}\b(?!\(self)|^{word} =", re.MULTILINE)
    files = [path for path in (ROOT / "tests").rglob("*.py") if made.search(path.read_text())]
    assert {path.parent.name for path in files} == {"support"}
    assert len(files) == 1


OF_ASYNCIO = {
    "tests/support/metering.py": {"_asyncio_future_blocking"},  # As asyncio's own tasks do when they take a future.
    "tests/support/stopwatch.py": {"_run", "_call_connection_lost", "_read_ready_cb", "_write_ready"},  # It times all.
}
"""What is not under test, and can be had in no other way."""


def set_from_outside(tree: ast.AST) -> Iterator[str]:
    """The private attributes and the constants of others that this code sets or patches."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=of, attr=name, ctx=ast.Store()) if ast.unparse(of) not in ("self", "cls"):
                names = [name]
            case ast.Call(func=ast.Attribute(attr="setattr" | "patch" | "object") | ast.Name("setattr" | "patch")):
                names = [str(word.value).rpartition(".")[2] for word in node.args[:2] if isinstance(word, ast.Constant)]
            case _:
                continue
        yield from (name for name in names if re.fullmatch(r"_(?!_).*|[A-Z][A-Z0-9_]*", name))


@pytest.mark.parametrize("file", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_tested_is_not_reached_into(file: Path) -> None:
    """What a test wants different it hands in as an argument: nobody has an object whose insides a test has set."""
    found = set(set_from_outside(ast.parse(file.read_text())))
    assert found == OF_ASYNCIO.get(str(file.relative_to(ROOT)), set()), "hand it in as an argument"
