"""`sentinel config show`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.config import load_settings
from sentinel.config_show import lines_of
from sentinel.provider_config import read_config

FILE = """
[providers.openai]
type = "openai"
api_key = ["env:OPENAI_API_KEY", "file:/run/key"]
proxy = "http://user:secret-word@proxy:3128"

[providers.azure]
type = "azure"
url = "https://x.openai.azure.com"
token_command = ["az", "token"]
api_version = "2024-10-21"
stream_usage = false

[models."gpt-4o*"]
targets = [{ provider = "openai", weight = 9 }, { provider = "azure", model = "prod \\"1\\"", concurrency = 5 }]
fallback = [{ provider = "openai", model = "gpt-4o-mini" }]
price = { input = 2.50, output = 10 }

[models."*"]
targets = [{ provider = "openai" }]
"""


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_no_secret_is_shown() -> None:
    """All that is in force, as a `.env` has it; of a secret only that there is one, of a URL not who logs in."""
    settings = load_settings(
        zion_api_url="http://zion",
        zion_api_key="secret-word-1",
        openai_api_key="secret-word-2",
        redis_url="redis://:secret-word-3@store:6379",
        rate_limits="ai_requests=5/1m,concurrency=2",
        shared_objects="files,agents",
    )
    lines = list(lines_of(settings, None))
    assert not [line for line in lines if "secret-word" in line]
    assert {
        "ZION_API_KEY=(set)",
        "ADMIN_KEY=",
        "REDIS_URL=redis://***@store:6379",
        "RATE_LIMITS=ai_requests=5/60s,concurrency=2",
        "SHARED_OBJECTS=agents,files",
        "SENTINEL_DEBUG=false",
        "SENTINEL_PORT=8080",
    } <= set(lines)
    assert "RATE_LIMITS=" in lines_of(load_settings(**GIVEN, rate_limits=""), None)


GIVEN = {"zion_api_url": "http://zion", "zion_api_key": "z", "openai_api_key": "o"}


def test_what_is_shown_of_the_file_can_be_read_as_one() -> None:
    """With every default in it, and to the same effect; passwords of proxies are not shown."""
    config = read_config(FILE)
    lines = list(lines_of(load_settings(**GIVEN), config))
    text = "\n".join(lines[lines.index("[providers.openai]") :])
    assert "secret-word" not in text
    again = read_config(text.replace("***@", "user:secret-word@"))
    assert again.models == config.models
    for one, other in zip(again.providers, config.providers, strict=True):
        assert (one.name, one.url, one.keys, one.formats, one.stream_usage) == (
            *(other.name, other.url, other.keys),
            *(other.formats, other.stream_usage),
        )


def test_odd_characters_are_escaped() -> None:
    """No line of a terminal is steered by them."""
    config = read_config('[providers.a]\ntype="compatible"\nurl="http://x"\nca_file="\\u001b[31m"\n')
    assert 'ca_file = "\\u001b[31m"' in list(lines_of(load_settings(**GIVEN), config))
