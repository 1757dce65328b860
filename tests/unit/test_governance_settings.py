"""The settings of the built-in governance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sentinel.config import ConfigError, load, load_settings
from sentinel.governance_settings import GovernanceSettings


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def settings(**given: Any) -> GovernanceSettings:
    return load(GovernanceSettings, **given)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("postgres://u:p@h/db", "postgresql+psycopg://u:p@h/db"),
        ("postgresql://h:5433/db?sslmode=require", "postgresql+psycopg://h:5433/db?sslmode=require"),
        ("postgresql+psycopg:///db?host=/run/pg", "postgresql+psycopg:///db?host=/run/pg"),
    ],
)
def test_databases(url: str, expected: str) -> None:
    """SQLite in a file, PostgreSQL by whatever name its URLs begin with."""
    found = settings(governance_database_url=url)
    assert found.governance_database_url == expected
    assert found.sqlite_file == (Path("a/b.db") if url.startswith("sqlite") else None)
    assert url not in repr(found)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///", "mysql://h/db", "postgresql://h", ""])
def test_no_other_databases(url: str) -> None:
    """A database in memory would be another one for each process."""
    with pytest.raises(ConfigError, match="GOVERNANCE_DATABASE_URL: must be"):
        settings(governance_database_url=url)


def test_lists_are_parted_by_commas() -> None:
    """With or without blanks."""
    found = settings(governance_proxies="http://a:1, http://b:2/ ,", oidc_audience="x,y")
    assert found.governance_proxies == ("http://a:1", "http://b:2")
    assert found.oidc_audience == ("x", "y")


def test_what_keeps_the_service_from_starting() -> None:
    """All of it at once; a command needs none of it."""
    told = settings(governance_proxies="http://a:1", oidc_audience="x").mistakes_of_service()
    assert [each.partition(" ")[0] for each in told] == ["GOVERNANCE_API_KEY", "GOVERNANCE_PROXIES", "OIDC_AUDIENCE"]
    assert settings(oidc_issuer="https://id.corp.test").mistakes_of_service()[1].startswith("OIDC_ISSUER needs")
    right = settings(governance_api_key="k", oidc_issuer="https://id.corp.test", oidc_audience="x")
    assert right.mistakes_of_service() == []


def test_programs_share_their_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A setting of one is no mistake to the other; a misspelt one is to both."""
    given = "ZION_API_URL=http://z\nZION_API_KEY=k\nOPENAI_API_KEY=o\nGOVERNANCE_API_KEY=g\nOIDC_AUDIENCE=x\n"
    (tmp_path / ".env").write_text(given)
    assert load_settings().zion_api_url == "http://z"
    assert settings().governance_api_key is not None
    monkeypatch.setenv("GOVERNANCE_PORTS", "1")
    for read in (load_settings, settings):
        with pytest.raises(ConfigError, match="did you mean GOVERNANCE_PORT"):
            read()


def test_a_secret_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As for the proxy."""
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.setenv("GOVERNANCE_API_KEY_FILE", str(tmp_path / "key"))
    key = settings().governance_api_key
    assert key is not None
    assert key.get_secret_value() == "from-file"
