"""What can be known of the deployment files without a container engine."""

import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from sentinel.config import PROGRAMS, Settings, load_settings, settings_given, settings_warnings
from sentinel.dev.command import STORE_PACKAGE
from sentinel.dev.openai import OpenAISimulator
from sentinel.dev.zion import ZionSimulator
from sentinel.governance_settings import GovernanceSettings

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = {"ZION_API_URL", "ZION_API_KEY", "OPENAI_API_KEY"}
EXAMPLE_LINE = re.compile(r"^(?P<comment># )?(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)$", re.MULTILINE)


def settings_names() -> set[str]:
    """Of all programs."""
    return {name.upper() for program in PROGRAMS for name in program.model_fields}


def example() -> dict[str, str]:
    text = (ROOT / ".env.example").read_text()
    return {match["name"]: match["value"] for match in EXAMPLE_LINE.finditer(text)}


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def dockerfile() -> list[list[str]]:
    """Each instruction as its words, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


def copied() -> list[str]:
    """The paths that the Dockerfile takes from the checkout."""
    return [
        source
        for word, *arguments in dockerfile()
        if word == "COPY" and not arguments[0].startswith("--from")
        for source in arguments[:-1]
    ]


def test_env_example_lists_exactly_the_settings() -> None:
    """Whoever reads .env.example sees every setting, and none that does not exist."""
    in_files = {f"{name.upper()}_FILE" for program in PROGRAMS for name in program.secrets}
    assert set(example()) == settings_names() | in_files


def test_env_example_names_each_setting_once() -> None:
    """No setting is told twice, perhaps in two ways."""
    names = [match["name"] for match in EXAMPLE_LINE.finditer((ROOT / ".env.example").read_text())]
    assert sorted(names) == sorted(set(names))


def test_env_example_starts_with_what_has_no_default() -> None:
    """The first three lines are the settings without which Sentinel does not start; a file may stand for the last."""
    required = {name.upper() for name, field in Settings.model_fields.items() if field.is_required()}
    assert set(list(example())[:3]) == REQUIRED
    assert required == REQUIRED - {"OPENAI_API_KEY"}


def test_a_copy_of_env_example_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cp .env.example .env` gives no setting a value and earns no warning."""
    for name in settings_names():
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.chdir(tmp_path)
    filled_in = {"zion_api_url": "http://zion", "zion_api_key": "z", "openai_api_key": "o"}
    before = load_settings(**filled_in)
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text())
    assert settings_given() == frozenset()
    assert load_settings(**filled_in) == before
    assert settings_warnings(before) == []


def test_env_example_shows_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncommenting any line of .env.example that has a value changes nothing."""
    for name in settings_names():
        monkeypatch.delenv(name, raising=False)
    given = example()
    whole, least = tmp_path / "whole.env", tmp_path / "least.env"
    whole.write_text("".join(f"{name}={value}\n" for name, value in given.items() if value))
    least.write_text("")
    filled_in: dict[str, Any] = {"zion_api_url": "http://zion", "zion_api_key": "z", "openai_api_key": "o"}
    assert Settings(_env_file=whole, **filled_in) == Settings(_env_file=least, **filled_in)
    assert GovernanceSettings(_env_file=whole) == GovernanceSettings(_env_file=least)


@pytest.mark.parametrize("service", ["sentinel", "governance", "sentinel-dev"])
def test_compose_sets_only_settings(service: str) -> None:
    """A misspelt variable in docker-compose.yml would be silently ignored."""
    assert set(compose()["services"][service]["environment"]) <= settings_names()


def test_compose_dev_service_needs_no_env_file() -> None:
    """The dev profile starts without any secret: all that is required is in the file."""
    service = compose()["services"]["sentinel-dev"]
    assert "env_file" not in service
    assert set(service["environment"]) >= REQUIRED


def test_compose_dev_service_has_the_simulators_keys() -> None:
    """Which take no others."""
    environment = compose()["services"]["sentinel-dev"]["environment"]
    keys = environment["OPENAI_API_KEY"], environment["ZION_API_KEY"]
    assert keys == (OpenAISimulator().api_key, ZionSimulator().api_key)


def test_compose_services_depend_on_services_that_exist() -> None:
    """Every name in depends_on, and every named volume, is declared."""
    loaded = compose()
    for service in loaded["services"].values():
        assert set(service.get("depends_on", {})) <= set(loaded["services"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in loaded["volumes"]


def test_compose_awaited_services_tell_their_health() -> None:
    """A service that others wait for until it is healthy has a health check of its own."""
    services = compose()["services"]
    awaited = {name for service in services.values() for name in service.get("depends_on", {})}
    assert awaited == {"governance", "store", "simulators"}
    assert all("healthcheck" in services[name] for name in awaited)


def test_compose_stops_later_than_sentinel_does() -> None:
    """The engine kills only after SHUTDOWN_GRACE_SECONDS have passed."""
    grace_seconds = float(example()["SHUTDOWN_GRACE_SECONDS"])
    assert float(compose()["services"]["sentinel"]["stop_grace_period"].removesuffix("s")) > grace_seconds
    unit = (ROOT / "deploy/sentinel.service").read_text()
    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert stop is not None
    assert float(stop[1]) > grace_seconds


def test_compose_store_forgets_nothing() -> None:
    """The store writes to disk and never evicts: it holds usage that is not yet billed."""
    lines = (ROOT / "deploy/redis.conf").read_text().splitlines()
    directives = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    assert directives["appendonly"] == "yes"
    assert directives["maxmemory-policy"] == "noeviction"


def test_dockerfile_copies_files_that_exist() -> None:
    """Every COPY from the checkout finds its file."""
    assert copied()
    assert [source for source in copied() if not (ROOT / source).exists()] == []


def test_dockerignore_lets_the_copied_files_through() -> None:
    """.dockerignore shuts out everything but names; each copied path is below one of them."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for source in copied():
        assert any(fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in allowed), source


def test_image_runs_without_rights_on_the_declared_port() -> None:
    """The image's last user is a number that is not root's, and its port is the default one."""
    instructions = {word: arguments for word, *arguments in dockerfile()}
    assert instructions["USER"] == ["10001:10001"]
    assert instructions["EXPOSE"] == [example()["SENTINEL_PORT"]]
    assert instructions["STOPSIGNAL"] == ["SIGTERM"]
    assert instructions["ENTRYPOINT"] == ['["sentinel"]']


def test_image_health_check_is_valid_python() -> None:
    """A typing mistake in the one-liner would make every container unhealthy."""
    (words,) = [arguments for word, *arguments in dockerfile() if word == "HEALTHCHECK"]
    command = yaml.safe_load(" ".join(words).split("CMD ", 1)[1])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    assert "/health/live" in command[2]


@pytest.mark.parametrize("name", ["run.txt", "build.txt"])
def test_dev_lock_contains_the_others(name: str) -> None:
    """What is tested is what runs: dev.txt has every pin of run.txt and build.txt, unchanged."""

    def pins(file: str) -> set[str]:
        lines = (ROOT / "requirements" / file).read_text().splitlines()
        return {shlex.split(line.rstrip("\\"))[0] for line in lines if line[:1].isalnum()}

    assert pins(name) <= pins("dev.txt")


@pytest.mark.parametrize("name", ["run.txt", "build.txt", "dev.txt"])
def test_locks_name_no_place_and_hash_everything(name: str) -> None:
    """A lock works behind any mirror: no URL, no option; and each package has its hashes."""
    text = (ROOT / "requirements" / name).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash=)", text, re.MULTILINE)
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert packages
    assert [package.split()[0] for package in packages if "--hash=sha256:" not in package] == []


def test_the_distribution_and_its_store_are_called_as_our_hints_say() -> None:
    """A hint to install something names no foreign package, and the version that the extra has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"`{project['name']}`" in (ROOT / "README.md").read_text()
    assert project["name"] != "sentinel"
    assert list(project["scripts"]) == ["sentinel"]
    assert project["optional-dependencies"]["dev"] == [STORE_PACKAGE]
