"""The tree of unit tests mirrors src/, so that whoever opens a file knows where its tests are."""

from pathlib import Path

import pytest

UNIT = Path(__file__).parent
SOURCE = UNIT.parents[1] / "src" / "sentinel"
ABOUT_THE_CHECKOUT = {
    "test_contracts.py",
    "test_deploy.py",
    "test_docs.py",
    "test_glossary.py",
    "test_mirror.py",
}  # These look at the files around src/.


@pytest.mark.parametrize("test", sorted(UNIT.rglob("test_*.py")), ids=lambda path: str(path.relative_to(UNIT)))
def test_each_unit_test_sits_where_its_module_does(test: Path) -> None:
    """tests/unit/limits/test_ledger.py, or test_ledger_<aspect>.py, is about src/sentinel/limits/ledger.py."""
    if test.parent == UNIT and test.name in ABOUT_THE_CHECKOUT:
        return
    room = SOURCE / test.parent.relative_to(UNIT)
    words = test.stem.removeprefix("test_").split("_")
    candidates = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
    found = [name for name in candidates if (room / f"{name}.py").is_file() or (room / name / "__init__.py").is_file()]
    assert found, f"no module {' or '.join(candidates)} in {room}"
