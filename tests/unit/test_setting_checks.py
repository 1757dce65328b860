"""Misspelt names and values that were never filled in."""

from __future__ import annotations

import pytest

from sentinel.config import SECRETS, Settings
from sentinel.setting_checks import is_example_host, is_placeholder, misspelt, strangers

KNOWN = {*(name.upper() for name in Settings.model_fields), *(f"{name.upper()}_FILE" for name in SECRETS)}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RATE_LIMIT", "RATE_LIMITS"),
        ("SENTINEL_PROT", "SENTINEL_PORT"),
        ("SENTINAL_PORT", "SENTINEL_PORT"),
        ("ZION_URL", "ZION_API_URL"),
        ("ZION_KEY", "ZION_API_KEY"),
        ("OPENAI_KEY", "OPENAI_API_KEY"),
        ("OPENAI_URL", "OPENAI_API_URL"),
        ("ADMIN_API_KEY", "ADMIN_KEY"),
        ("REDIS_URI", "REDIS_URL"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("CORS_ORIGIN", "CORS_ORIGINS"),
        ("JWT_CACHE_TTL", "JWT_CACHE_TTL_SECONDS"),
        ("USAGE_FLUSH", "USAGE_FLUSH_SECONDS"),
        ("OPENAI_KEY_FILE", "OPENAI_API_KEY_FILE"),
        ("ZION_CAFILE", "ZION_CA_FILE"),
    ],
)
def test_a_misspelt_name_is_told_with_the_right_one(name: str, meant: str) -> None:
    """One letter, one word, or the unit too few."""
    assert misspelt({name: "x"}, KNOWN) == {name: f"{name} is not a setting of Sentinel; did you mean {meant}?"}


@pytest.mark.parametrize("name", ["SENTINEL_PROVIDERS", "SENTINEL_X", "ZION_TENANT", "GOVERNANCE_PORT", "CONSOLE_PORT"])
def test_what_begins_like_ours_is_told(name: str) -> None:
    """It was meant for us, though nothing reads it."""
    assert list(misspelt({name: "x"}, KNOWN)) == [name]


@pytest.mark.parametrize(
    "given",
    [
        "PATH=/bin HOME=/ LANG=C TZ=UTC HOSTNAME=pod PWD=/ MAIL=x LOGNAME=x LS_COLORS=x PYTHONUNBUFFERED=1",
        "SENTINEL_TOKEN=eyJ",
        "HTTP_PROXY=x FTP_PROXY=x RSYNC_PROXY=x NO_PROXY=x SSL_CERT_FILE=x SSL_CERT_DIR=x GIT_SSL_CAINFO=x",
        "OPENAI_ORG_ID=x OPENAI_BASE_URL=x OPENAI_API_BASE=x OPENAI_PROJECT_ID=x OPENAI_API_TYPE=x OPENAI_LOG=debug",
        "ANTHROPIC_API_KEY=x GEMINI_API_KEY=x AZURE_OPENAI_API_KEY=x ZHIPU_API_KEY=x DATABASE_URL=x REDIS_TLS_URL=x",
        "APP_LOG_LEVEL=x UV_LOG_LEVEL=x DD_LOG_LEVEL=x RUST_LOG=x OTEL_LOG_LEVEL=x",
        "REDIS_HOST=r REDIS_PORT=tcp://10.0.0.1:6379 REDIS_SERVICE_HOST=10.0.0.1 REDIS_PASSWORD=x",
        "SENTINEL_SERVICE_HOST=10.0.0.1 SENTINEL_SERVICE_PORT=8080 SENTINEL_SERVICE_PORT_HTTP=8080",
        "SENTINEL_PORT_8080_TCP=tcp://10.0.0.1:8080 SENTINEL_PORT_8080_TCP_PROTO=tcp SENTINEL_PORT_8080_TCP_ADDR=x",
        "SENTINEL_PROXY_PORT=tcp://10.0.0.1:8080 SENTINEL_PROXY_SERVICE_PORT=8080 ZION_PORT=tcp://10.0.0.2:80",
        "ZION_API_SERVICE_HOST=10.0.0.2 ZION_API_PORT_80_TCP_PORT=80",
    ],
)
def test_innocent_environments_are_let_be(given: str) -> None:
    """Shells, platforms, other programs, and the service links of Kubernetes."""
    assert misspelt(dict(pair.split("=", 1) for pair in given.split()), KNOWN) == {}


def test_every_setting_is_its_own_name() -> None:
    """None of ours is told."""
    assert misspelt(dict.fromkeys(KNOWN, "x"), KNOWN) == {}


def test_strangers_of_an_env_file_are_named() -> None:
    """What the file holds for nobody; what tools around us read there is no stranger."""
    names = ["OPENAI_BASE_URL", "SSL_CERT_FILE", "FOO", "COMPOSE_PROJECT_NAME", "TZ", "SENTINEL_TOKEN", "LOG_LEVEL"]
    assert strangers(names, KNOWN) == ["FOO", "OPENAI_BASE_URL", "SSL_CERT_FILE"]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "replace-me",
            "REPLACE_ME",
            "replaceme",
            "changeme",
            "change-me",
            "change-me-please",
            "your-key",
            "your-key-here",
        ),
        *(
            "your_api_key",
            "<your key>",
            "<...>",
            "sk-...",
            "sk-xxx",
            "xxx",
            "XXXXXXXX",
            "***",
            "sk-your-key",
            "my-api-key",
        ),
        *("TODO", "${OPENAI_API_KEY}", "{{ key }}", "placeholder", "api-key-here", "example-key", "insert-here", "..."),
    ],
)
def test_placeholders_are_known(text: str) -> None:
    """As examples have them."""
    assert is_placeholder(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "z",
            "sk-key",
            "simulated",
            "dummy",
            "none",
            "EMPTY",
            "ollama",
            "sk-proj-Yx9_replace",
            "test-key",
            "lm-studio",
        ),
        *("yourself", "replacement-key", "sk-xx1", "changeling", "exampled", "k...y", "in-order", "secret"),
    ],
)
def test_keys_are_no_placeholders(text: str) -> None:
    """What people really use, also for servers that want any key."""
    assert not is_placeholder(text)


@pytest.mark.parametrize(
    ("url", "example"),
    [
        ("https://zion.example.org", True),
        ("https://EXAMPLE.com:8443/v1", True),
        ("https://zion.example", True),
        ("https://zion.invalid", False),
        ("https://your-zion/", True),
        ("https://your.zion.corp/", True),
        ("https://<host>", True),
        ("https://zion.example.com.", True),
        ("https://example.company.com", False),
        ("https://notexample.com", False),
        ("https://examples.org", False),
        ("https://zion.test", False),
        ("http://[::1]:80", False),
        ("https://yourcorp.com", False),
    ],
)
def test_hosts_of_examples_are_known(url: str, *, example: bool) -> None:
    """RFC 2606, and what stands in angle brackets."""
    assert is_example_host(url) == example


def test_what_is_no_url_is_on_no_example_host() -> None:
    """What is wrong with it is said elsewhere."""
    assert not is_example_host("http://[::1")
