"""Every name in src/ is made of the words of docs/glossary.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "sentinel"
GLOSSARY = (ROOT / "docs/glossary.md").read_text()
TERMS: list[tuple[str, str]] = re.findall(r"^\| ([^|`]+?) \| .+ \| `([\w./]+)` \|$", GLOSSARY, re.MULTILINE)
PLAIN = set(re.findall(r"\w+", GLOSSARY.split("## Plain words", 1)[1].lower()))


def singular(word: str) -> str:
    """The form in which words are compared: `entries`, `batches` and `leases` are about one entry, batch and lease."""
    for end, instead in (("ies", "y"), ("ches", "ch"), ("sses", "ss")):
        if word.endswith(end) and len(word) > len(end) + 1:
            return word.removesuffix(end) + instead
    return word if word.endswith(("ss", "us")) or len(word) <= 3 else word.removesuffix("s")


def words_of(name: str) -> list[str]:
    """`AiProvider` and `ai_provider` are made of ai and provider."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name.replace("OpenAI", "Openai"))
    return [singular(part.lower()) for part in parts]


def names() -> Iterator[tuple[str, str]]:
    """Each module, room and public class, and the file where it is. The simulators speak the words of others."""
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if place.parts[0] == "dev" or place.stem == "__main__":
            continue
        yield (place.parent.name if place.stem == "__init__" else place.stem), str(place)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node.name, str(place)


KNOWN = {singular(word) for word in PLAIN} | {word for term, _ in TERMS for word in words_of(term.lower())}


def test_every_name_has_its_words() -> None:
    """A word that is neither a term nor plain: take one that is, or add it with its meaning."""
    missing = {
        f"{word} (in {name}, {place})" for name, place in names() for word in words_of(name) if word not in KNOWN
    }
    assert sorted(missing) == [], "words that docs/glossary.md does not have"


def test_every_term_is_where_the_glossary_says() -> None:
    """Each file is there, and says one of the term's words, in its name or its text."""
    gone = [f"{term}: {where}" for term, where in TERMS if not (PACKAGE / where).is_file()]
    assert gone == []
    silent = [
        f"{term}: {where}"
        for term, where in TERMS
        if not any(word[:5] in f"{where} {(PACKAGE / where).read_text()}".lower() for word in words_of(term.lower()))
    ]
    assert silent == []


def test_a_term_is_explained_once() -> None:
    """One word for one idea."""
    terms = [term.lower() for term, _ in TERMS]
    assert sorted({term for term in terms if terms.count(term) > 1}) == []
    assert sorted(word for word in PLAIN if word in terms) == []
