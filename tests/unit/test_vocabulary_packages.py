"""Where vocabularies lie: in packages that are found and not imported, and known by their content."""

import sys
from pathlib import Path

import pytest

from sentinel.vocabulary_packages import PACKAGES, file_of


def installed(folder: Path, name: str, content: bytes) -> Path:
    """A package that has a file of this vocabulary's name; importing it fails."""
    shipped = PACKAGES[name]
    path = folder / shipped.module / shipped.file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (folder / shipped.module / "__init__.py").write_text("raise AssertionError('imported')")
    return path


@pytest.mark.parametrize("name", ["qwen", "qwen3.5", "deepseek"])
def test_a_file_is_found(name: str) -> None:
    """In the package that the tests have."""
    assert file_of(name).name == Path(PACKAGES[name].file).name


def test_what_to_install_is_said() -> None:
    """Where a package is absent."""
    with pytest.raises(ValueError, match=r"'mistral' needs the package mistral-common, which is not installed"):
        file_of("mistral")


def test_what_counts_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever vocabulary it is."""
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ValueError, match=r"'qwen' needs the package tiktoken, which is not installed"):
        file_of("qwen")


def test_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be counted in a vocabulary that nobody has compared; so is a package without the file."""
    monkeypatch.syspath_prepend(tmp_path)
    path = installed(tmp_path, "mistral", b"{}")
    with pytest.raises(ValueError, match="mistral-common is not a version whose vocabulary is known"):
        file_of("mistral")
    path.unlink()
    with pytest.raises(ValueError, match="mistral-common is not a version whose vocabulary is known"):
        file_of("mistral")
