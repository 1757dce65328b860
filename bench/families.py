"""How far counts of other families' tokens are off, and what their vocabularies cost.

    make families                                   # python -m bench.families, with what requirements/families.txt has
    make families ARGS=--publish                    # into docs/tokens.md
    make families ARGS="--reference 'Gemma 3=FILE'" # a tokenizer.json of a family that no package here has

The texts are bench/texts/: prose, code and JSON, written for this. A family's count is that of its own vocabulary
(sentinel.tokens.vocabulary), held against its publisher's tokenizer where that can be had.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean

from sentinel.tokens.bpe import count_in
from sentinel.tokens.encoding import O200K
from sentinel.tokens.input_ratio import InputRatio
from sentinel.vocabulary_packages import ENGINE, PACKAGES, file_of

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tokens.md"
KINDS = ("english", "code", "json", "german", "chinese", "japanese", "arabic", "hindi")
TEXTS = {kind: (ROOT / "bench" / "texts" / f"{kind}.txt").read_text(encoding="utf-8") for kind in KINDS}
TITLES = {
    "qwen": "Qwen 1.5 to 3",
    "qwen3.5": "Qwen 3.5, 3.6",
    "deepseek": "DeepSeek V3, V4, R1",
    "llama3": "Llama 3",
    "llama4": "Llama 4",
    "mistral": "Mistral (Tekken)",
}
ROUNDS = 20
"""Of all kinds in turn, until a learned ratio has settled."""
RATIOS = [n / 100 for n in range(50, 301)]
PROSE = TEXTS["english"] * 900
"""A megabyte."""

_BEGIN, _END = "<!-- figures: written by make families ARGS=--publish -->", "<!-- end of figures -->"

Count = Callable[[str], int]


def main() -> None:
    options = _options()
    if options.load:
        print(json.dumps(_cost(options.load)))
        return
    counters = {TITLES[name]: count_in(name) for name in PACKAGES if _is_here(name)}
    checks = dict(each.split("=", 1) for each in options.check)
    for name, file in checks.items():
        print(_checked(name, count_in(name), _hugging_face(file)), file=sys.stderr)
    references = dict(each.split("=", 1) for each in options.reference)
    counters |= {title: _hugging_face(file) for title, file in references.items()}
    pages = [_off(counters), _starts(counters), _costs([name for name in PACKAGES if _is_here(name)])]
    text = "\n\n".join([*pages, _measured_with()])
    print(text)
    if options.publish:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
        PAGE.write_text(f"{before}{_BEGIN}\n\n{text}\n\n{_END}{rest.partition(_END)[2]}", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.families")
    parser.add_argument("--publish", action="store_true", help="write the figures into docs/tokens.md")
    parser.add_argument(
        "--reference", action="append", default=[], metavar="TITLE=FILE", help="one more tokenizer.json"
    )
    parser.add_argument("--check", action="append", default=[], metavar="NAME=FILE", help="hold NAME against this one")
    parser.add_argument("--load", choices=PACKAGES, help=argparse.SUPPRESS)
    return parser.parse_args()


def _is_here(name: str) -> bool:
    try:
        file_of(name)
    except ValueError as error:
        print(f"left out: {error}", file=sys.stderr)
        return False
    return True


def _hugging_face(file: str) -> Count:
    from tokenizers import Tokenizer  # noqa: PLC0415 (installed for this alone)

    tokenizer = Tokenizer.from_file(file)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _checked(name: str, ours: Count, theirs: Count) -> str:
    """Whether the two count alike, also of all that is documented here."""
    pages = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").rglob("*.md"))]
    texts = [*TEXTS.values(), *pages]
    alike = sum(ours(text) == theirs(text) for text in texts)
    return f"{name}: {alike} of {len(texts)} texts have as many tokens as in that tokenizer"


def _off(counters: Mapping[str, Count]) -> str:
    """The table of what each family makes of each kind of text, in percent of our estimate."""
    ours = {kind: count_in(O200K)(text) for kind, text in TEXTS.items()}
    rows = [["", *KINDS]]
    for title, count in counters.items():
        true = {kind: count(text) for kind, text in TEXTS.items()}
        rows.append([title, *(_percent(true[kind], ours[kind]) for kind in KINDS)])
        corrected = _learned(ours, true)
        rows.append(["... once learned", *(_percent(true[kind], corrected[kind]) for kind in KINDS)])
    return _table(rows)


def _learned(ours: Mapping[str, int], true: Mapping[str, int]) -> dict[str, float]:
    """Our estimates with the ratio that requests of all kinds in turn have taught: the mean over a turn of them."""
    ratio, corrected = InputRatio(), dict.fromkeys(KINDS, 0.0)
    for turn in range(ROUNDS):
        for kind in KINDS:
            if turn == ROUNDS - 1:
                corrected = {each: corrected[each] + ratio.corrected("m", ours[each]) / len(KINDS) for each in KINDS}
            ratio.note("m", ours[kind], true[kind])
    return corrected


def _starts(counters: Mapping[str, Count]) -> str:
    """Whether one ratio of a family would be a better first guess than 1.0."""
    ours = {kind: count_in(O200K)(text) for kind, text in TEXTS.items()}
    rows = [["", "English and code", "with the best ratio", "all kinds", "with the best ratio", "which is"]]
    for title, count in counters.items():
        true = {kind: count(text) for kind, text in TEXTS.items()}
        best = min(RATIOS, key=lambda ratio: _error(KINDS, ours, true, ratio))
        figures = [_error(kinds, ours, true, ratio) for kinds in (("english", "code"), KINDS) for ratio in (1.0, best)]
        rows.append([title, *(f"{figure:.0%}" for figure in figures), f"{best:.2f}"])
    return _table(rows)


def _error(kinds: Iterable[str], ours: Mapping[str, int], true: Mapping[str, int], ratio: float) -> float:
    """How far estimates are off, in the mean of their amounts, as a part of the true count."""
    return fmean(abs(ours[kind] * ratio - true[kind]) / true[kind] for kind in kinds)


def _costs(names: Sequence[str]) -> str:
    rows = [["vocabulary", "package", "load", "memory kept", "1 MB of prose", "the worst 6,000 bytes"]]
    for name in names:
        told = subprocess.run(
            [sys.executable, "-m", "bench.families", "--load", name], cwd=ROOT, check=True, capture_output=True
        )
        cost = json.loads(told.stdout)
        package = f"{PACKAGES[name].distribution} {_version(PACKAGES[name].distribution)}"
        figures = (f"{cost['seconds']:.1f} s", f"{cost['mb']:.0f} MB", f"{cost['prose_ms']:.0f} ms")
        rows.append([f"`{name}`", package, *figures, f"{cost['worst_ms']:.1f} ms"])
    return _table(rows)


def _cost(name: str) -> dict[str, float]:
    """Of loading a vocabulary and of counting in it; in a process of its own, for memory is not given back."""
    import tiktoken  # noqa: F401, PLC0415 (what it takes itself is the same for all)

    count_in(O200K)
    gc.collect()
    before, started = _resident_mb(), time.perf_counter()
    count = count_in(name)
    seconds = time.perf_counter() - started
    gc.collect()
    kept = _resident_mb() - before
    worst = [" " * 5_999 + "x", " " * 6_000, "A" * 6_000, "-" * 6_000, "\n" * 6_000, "日本語" * 666]
    return {
        "seconds": seconds,
        "mb": kept,
        "prose_ms": _best_ms(count, PROSE),
        "worst_ms": max(_best_ms(count, text) for text in worst),
    }


def _best_ms(count: Count, text: str) -> float:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        count(text)
        times.append(time.perf_counter() - started)
    return min(times) * 1000


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def _measured_with() -> str:
    names = sorted({ENGINE, "toktok-rs", *(shipped.distribution for shipped in PACKAGES.values())})
    told = [f"{name} {found}" for name in names if (found := _version(name))]
    return f"Measured on {time.strftime('%Y-%m-%d')} with {', '.join(told)}; Python {sys.version.split()[0]}."


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _percent(true: float, estimate: float) -> str:
    return f"{round(100 * (true / estimate - 1)):+d}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
