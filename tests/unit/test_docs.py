"""The documentation tells what the code has: settings, metrics, error codes, routes, and links that lead somewhere."""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import yaml
from prometheus_client import Counter
from pydantic import BaseModel
from starlette.routing import Route

from sentinel import error, provider_config
from sentinel.cache import keys
from sentinel.cli import main
from sentinel.config import Settings
from sentinel.dev.simulators import VENDORS
from sentinel.governance.service.arguments import OPERATION, add_commands
from sentinel.governance_settings import GovernanceSettings
from sentinel.observability.metrics import Metrics
from sentinel.provider_presets import PRESETS, TYPES, Preset
from sentinel.proxy.logging import RequestContext, TracedLine
from sentinel.routes import openapi
from sentinel.routes.state import AppState
from sentinel.routes.table import rest
from sentinel.tokens import media_request, request
from sentinel.vocabulary_packages import PACKAGES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUARANTEES = (ROOT / "docs/guarantees.md").read_text()
OPENAPI: dict[str, Any] = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())


def _table(text: str, heading: str) -> str:
    return text.split(heading, 1)[1].split("\n#", 1)[0]


def test_the_readme_lists_every_setting_with_its_default() -> None:
    """A setting without a row, a row without a setting, or a wrong default fails."""
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", _table(README, "### Settings"), re.MULTILINE))
    assert set(rows) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, str | int | float) and not isinstance(field.default, bool):
            assert rows[name.upper()] == f"`{field.default}`", name


def commands_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, set[str]]]:
    """Each command as it is typed behind `sentinel governance`, and its options."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        for deeper in group.choices.values():
            yield from commands_of(deeper)
    if not groups:
        words = [parser.get_default(OPERATION), *(str(action.metavar) for action in parser._get_positional_actions())]
        yield " ".join(words), {word for action in parser._actions for word in action.option_strings}


def test_the_page_on_governance_has_every_command() -> None:
    """As the help has them, with all options."""
    parser = argparse.ArgumentParser()
    add_commands(parser)
    page = (ROOT / "docs/governance.md").read_text()
    rows = re.findall(r"^\| (`.+?) \| .+ \|$", _table(page, "## Commands"), re.MULTILINE)
    told = {re.split(r" --| (?=')", command)[0] for row in rows for command in re.findall(r"`(.+?)`", row)}
    expected = dict(commands_of(parser))
    assert told == set(expected)
    options = {option for options in expected.values() for option in options} - {"-h"}
    assert sorted(option for option in options if option not in page) == []


def test_the_page_of_the_governance_lists_its_settings() -> None:
    """Each of its own, here or among those of single sign-on, with the right default."""
    page = (ROOT / "docs/governance.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", page, re.MULTILINE))
    assert set(rows) == {name.upper() for name in GovernanceSettings.model_fields}
    for name, field in GovernanceSettings.model_fields.items():
        if isinstance(field.default, str | int):
            assert rows[name.upper()] == f"`{field.default}`", name


PROVIDERS = (ROOT / "docs/providers.md").read_text()


def rows_of(heading: str) -> dict[str, list[str]]:
    """The rows of the table below a heading of the page on providers, by their first cell, with the others."""
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", _table(PROVIDERS, f"{heading}\n"), re.MULTILINE)
    return {name: cells.split(" | ") for name, cells in rows}


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("## Fields of a provider", provider_config._Provider),
        ("## Fields of a model", provider_config._Model),
        ("### Fields of a target", provider_config._Target),
        ("### Fields of a price", provider_config._Price),
    ],
)
def test_the_page_on_providers_has_every_field(heading: str, table: type[BaseModel]) -> None:
    """And no other, with the right default."""
    rows = rows_of(heading)
    assert set(rows) == set(table.model_fields)
    for name, field in table.model_fields.items():
        if field.is_required():
            assert rows[name][0] == "required", name
        elif isinstance(field.default, int | float):
            assert rows[name][0] == f"`{field.default:g}`", name


@pytest.mark.parametrize(("heading", "presets"), [("## Types", TYPES), ("## Presets", PRESETS)])
def test_the_page_on_providers_has_every_type_and_preset(heading: str, presets: dict[str, Preset]) -> None:
    """With its address, its formats and where that is told."""
    rows = rows_of(heading)
    assert set(rows) == set(presets)
    for name, preset in presets.items():
        url, formats, maximum = rows[name][:3]
        assert url == f"`{preset.url}`" if preset.url else url.startswith("required"), name
        assert formats == ", ".join(each for each in provider_config.FORMATS if each in preset.formats) or (
            set(formats.split(", ")) == set(preset.formats)
        ), name
        assert preset is TYPES["compatible"] or f"(https://{preset.source})" in PROVIDERS, name
        if presets is PRESETS:
            renamed = "" if preset.knows_both else ", renamed"
            assert maximum.split(";")[0] == f"`{preset.max_tokens_field}`{renamed}", name
            assert ("no `stream_options`" in maximum) is not preset.stream_usage, name


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.+?)```", PROVIDERS, re.DOTALL))
def test_the_examples_of_the_page_on_providers_can_be_read(example: str) -> None:
    """They can be copied as they are."""
    assert provider_config.read_config(example).models


def test_the_page_on_providers_has_every_simulated_vendor(capsys: pytest.CaptureFixture[str]) -> None:
    """And so has the help of `sentinel dev`."""
    with pytest.raises(SystemExit):
        main(["dev", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert set(rows_of("## Try it without an account")) == set(VENDORS)
    for name in VENDORS:
        assert re.search(rf"\b{name}\b", told)


def test_the_guarantees_name_tests_that_there_are() -> None:
    """Each file is there, and has the test that is named of it."""
    folders = "unit|exchange|integration|system|soak|clients"
    file = ""
    for name, test in re.findall(rf"`((?:{folders})/[\w/]+\.py)?(?:::(\w+))?(?:::\w+)?`", GUARANTEES):
        file = name or file
        if name or test:
            assert (ROOT / "tests" / file).exists(), file
            text = (ROOT / "tests" / file).read_text()
            assert not test or re.search(rf"(def|class) {test}\b", text), (file, test)


def test_each_route_of_the_readme_has_a_proof() -> None:
    """Its row among the guarantees names a test."""
    proofs = _table(GUARANTEES, "## The routes of the README")
    known = set(re.findall(r"`(/[\w/{}.]+)`", proofs))
    for row in README.split("| route | |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]:
        paths = re.findall(r"`(?:GET|POST|HEAD)? ?(/[\w/{}.]+)", row.split(" | ")[0])
        assert known.intersection(paths), row


def test_the_page_on_tokens_has_every_vocabulary() -> None:
    """With the package that it is in."""
    rows = [line for line in (ROOT / "docs/tokens.md").read_text().splitlines() if line.startswith("| `")]
    for name, shipped in PACKAGES.items():
        assert any(row.startswith(f"| `{name}` |") and f"`{shipped.distribution}`" in row for row in rows), name


def test_the_metrics_page_lists_every_metric() -> None:
    """Names and types, as Prometheus sees them."""
    rows = dict(re.findall(r"^\| `(sentinel_\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    found = {}
    for metric in vars(Metrics()).values():
        if hasattr(metric, "describe"):
            (family,) = metric.describe()
            found[family.name + ("_total" if isinstance(metric, Counter) else "")] = family.type
    assert rows == found


def test_the_log_page_lists_every_field_in_its_order() -> None:
    """The fields of the line that a request leaves, and no others."""
    rows = re.findall(r"^\| (`.+?`) \| ", (ROOT / "docs/logging.md").read_text(), re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == list(TracedLine.__struct_fields__)


def test_the_log_page_lists_every_outcome() -> None:
    """As the code explains them."""
    page = (ROOT / "docs/logging.md").read_text().split("| `outcome` |", 1)[1].split("\n", 1)[0]
    told = str(RequestContext.__doc__).split("outcome:", 1)[1].split("tokens_from:", 1)[0]
    assert re.findall(r"`(\w+)`", page) == re.findall(r"`(\w+)`", told)


def test_the_readme_lists_every_error_code() -> None:
    """Each class of the tree, by its status and code."""
    table = _table(README, "### Errors")
    classes = [c for _, c in inspect.getmembers(error, inspect.isclass) if issubclass(c, error.AppError)]
    for status, code in {(c.status, c.code) for c in classes if not c.__name__.startswith("_")}:
        assert re.search(rf"^\| {status} \|.*`{code}`", table, re.MULTILINE), code


@pytest.mark.parametrize("page", sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")]), ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of every page names a file that is there."""
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_openapi_page_is_what_is_served() -> None:
    """After a change of the page: `make openapi`."""
    assert json.loads(openapi.document()) == OPENAPI


def test_the_openapi_page_says_what_is_meant() -> None:
    """A comma in a text without quotes ends it, and begins a key."""
    odd: list[str] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            odd.extend(key for key, each in value.items() if each is None and " " in str(key))
            for each in value.values():
                look(each)
        elif isinstance(value, list):
            for each in value:
                look(each)

    look(OPENAPI)
    assert odd == []


def test_the_openapi_page_has_every_route() -> None:
    """Paths and methods, whatever their parameters are called."""
    routes = [route for route in rest(cast("AppState", None)).routes if isinstance(route, Route)]
    ours = {(method, re.sub(r"{.*?}", "{}", route.path)) for route in routes for method in route.methods or ()}
    page = {
        (method.upper(), re.sub(r"{.*?}", "{}", path)) for path, item in OPENAPI["paths"].items() for method in item
    }
    assert page == {(method, path) for method, path in ours if method != "HEAD"}


def test_the_openapi_page_has_every_error_code() -> None:
    """Each class of the tree has the schema of its code, and there is no other."""
    classes = [c for _, c in inspect.getmembers(error, inspect.isclass) if issubclass(c, error.AppError)]
    page = set(re.findall(r"code: { enum: \[(.*?)\] }", (ROOT / "docs/openapi.yaml").read_text()))
    assert {code for codes in page for code in codes.split(", ")} == {
        c.code for c in classes if not c.__name__.startswith("_")
    }


@pytest.mark.parametrize(
    "struct",
    [
        *(request.ChatRequest, request.CompletionRequest, request.Message, request.Part, request.StreamOptions),
        *(request.FunctionCall, request.ToolCall, request.Function, request.Tool),
        *(media_request.ImageRequest, media_request.InputImage, media_request.Svg, media_request.SpeechRequest),
        *(request.MessageRequest, request.CountRequest, request.Turn, request.Block, request.Source, request.Thinking),
    ],
    ids=lambda struct: struct.__name__,
)
def test_the_openapi_page_has_every_field_that_is_decided_on(struct: type[Any]) -> None:
    """Names of fields and which of them are required; any other may be there."""
    schema = OPENAPI["components"]["schemas"][struct.__name__]
    assert list(schema["properties"]) == list(struct.__struct_fields__)
    needed = {field.name for field in msgspec.structs.fields(struct) if field.required}
    # A prompt or a text that is not there is told apart later, as a missing parameter.
    assert set(schema.get("required", [])) - {"prompt", "input"} == needed
    assert schema["additionalProperties"] is True


def test_what_bounds_every_key_in_redis_is_told() -> None:
    """A key that nobody has a bound for is one that fills Redis."""
    told = re.findall(
        r"^\| `(\w+)` \|", _table((ROOT / "docs/scaling.md").read_text(), "## What Redis keeps"), re.MULTILINE
    )
    functions = {
        name
        for name, function in inspect.getmembers(keys, inspect.isfunction)
        if inspect.get_annotations(function).get("return") == "bytes" and name != "token_digest"
    }
    constants = {name for name, value in vars(keys).items() if isinstance(value, bytes) and name != "_prefix"}
    assert sorted(told) == sorted(functions | constants | {"account", "leases", "settled"})


DECISIONS = sorted(ROOT.glob("docs/adr/*.md"))


@pytest.mark.parametrize(
    "page", [*DECISIONS, ROOT / "CONTRIBUTING.md", ROOT / "docs/architecture.md"], ids=lambda p: p.name
)
def test_files_that_pages_name_are_there(page: Path) -> None:
    """A decision about a file that is gone or renamed is stale: it is amended, or its status says so."""
    named = set(re.findall(r"`((?:[\w.]+/)*\w+\.(?:py|lua|toml))`", page.read_text()))
    files = [path.as_posix() for folder in ("src", "tests", "bench") for path in (ROOT / folder).rglob("*.*")]
    gone = [name for name in named if not any(f"{file}".endswith(f"/{name}") for file in files)]
    assert sorted(name for name in gone if not (ROOT / name).exists()) == []


@pytest.mark.parametrize("page", DECISIONS, ids=lambda p: p.name)
def test_each_decision_says_what_became_of_it(page: Path) -> None:
    """Title, status, context, decision, consequences; what amends or supersedes another is named by that one, too."""
    text = page.read_text()
    assert re.match(rf"# {page.name[:4]}: ", text)
    for heading in ("Context", "Decision", "Consequences"):
        assert f"\n## {heading}\n" in text
    told = re.search(r"^Status: (accepted|superseded)\b(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert told is not None
    for word, back in (("Amends", "amended by"), ("Supersedes", "superseded by")):
        for number in re.findall(r"\[(\d{4})\]", told[2].partition(word)[2]):
            (other,) = ROOT.glob(f"docs/adr/{number}-*.md")
            status = other.read_text().split("\n\n")[1].lower()
            assert back in status
            assert f"[{page.name[:4]}]" in status
