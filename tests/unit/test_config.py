"""Environment in, settings out, or every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.config import (
    DIMENSIONS,
    ConfigError,
    RateLimit,
    RateLimits,
    Settings,
    load_settings,
    parse_rate_limits,
    settings_given,
)

REQUIRED = {"zion_api_url": "http://zion", "zion_api_key": "z", "openai_api_key": "o"}


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, and none of our settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("text", "windows", "concurrency"),
    [
        ("", (), None),
        (" , ", (), None),
        ("ai_requests=100/60s", (RateLimit("ai_requests", 100, 60),), None),
        ("ai_requests = 0/1s", (RateLimit("ai_requests", 0, 1),), None),
        (
            "ai_input_tokens=200000/1h, ai_output_tokens=5/2d,concurrency=20",
            (RateLimit("ai_input_tokens", 200_000, 3600), RateLimit("ai_output_tokens", 5, 172_800)),
            20,
        ),
        (
            "ai_requests=1/1m,ai_requests=2/2m",
            (RateLimit("ai_requests", 1, 60), RateLimit("ai_requests", 2, 120)),
            None,
        ),
        ("concurrency=0", (), 0),
    ],
)
def test_rate_limits_are_read(text: str, windows: tuple[RateLimit, ...], concurrency: int | None) -> None:
    """Any dimension, any number of windows, and concurrency."""
    assert parse_rate_limits(text) == RateLimits(windows, concurrency)


@pytest.mark.parametrize(
    "text",
    [
        *("ai_requests", "ai_requests=", "ai_requests=100", "ai_requests=100/60", "ai_requests=100/0s", "tokens=1/1s"),
        *("ai_requests=-1/1s", "ai_requests=1.5/1s", "ai_requests=1/32d", "ai_requests=1/1w", "concurrency=1/1s"),
        *("concurrency=-1", "concurrency=many", "ai_requests=1/60s,ai_requests=2/1m", "ai_requests=1/60s;", "=", "a=b"),
        "ai_requests=99999999999999999999/60s",
    ],
)
def test_wrong_rate_limits_are_refused(text: str) -> None:
    """What is no limit is told, never dropped: a dropped limit would be no limit."""
    with pytest.raises(ValueError, match=r"."):
        parse_rate_limits(text)


@given(st.lists(st.tuples(st.sampled_from(DIMENSIONS), st.integers(0, 10**12), st.integers(1, 1000)), max_size=5))
def test_what_is_written_is_read(windows: list[tuple[str, int, int]]) -> None:
    """Every window comes back as it was given, in order."""
    unique = {(dimension, seconds): limit for dimension, limit, seconds in windows}
    text = ",".join(f"{dimension}={limit}/{seconds}s" for (dimension, seconds), limit in unique.items())
    read = parse_rate_limits(text).windows
    assert [(w.dimension, w.window_seconds, w.limit) for w in read] == [(d, s, n) for (d, s), n in unique.items()]


def test_the_defaults_are_those_of_the_design() -> None:
    """DESIGN section 8."""
    settings = load_settings(**REQUIRED)
    assert (settings.sentinel_host, settings.sentinel_port, settings.sentinel_workers) == ("0.0.0.0", 8080, 1)
    assert settings.redis_url == "redis://localhost:6379"
    assert settings.openai_api_url == "https://api.openai.com/v1"
    assert (settings.cache_ttl_seconds, settings.jwt_cache_ttl_seconds, settings.cache_stale_seconds) == (
        300,
        300,
        3600,
    )
    assert settings.rate_limits == RateLimits((RateLimit("ai_requests", 100, 60),), None)
    assert (settings.usage_flush_seconds, settings.max_body_bytes) == (1, 32 * 1024 * 1024)
    assert (settings.upstream_connect_timeout_seconds, settings.upstream_idle_timeout_seconds) == (5, 600)
    assert (settings.upstream_keepalive_seconds, settings.stream_keepalive_seconds) == (4, 15)
    assert (settings.shutdown_grace_seconds, settings.cors_origins) == (30, "*")
    assert (settings.log_level, settings.sentinel_debug, settings.redis_down) == ("info", False, "refuse")


def test_settings_do_not_show_their_secrets() -> None:
    """Neither the settings nor their mistakes print a key."""
    settings = load_settings(**{**REQUIRED, "openai_api_key": "sk-secret", "admin_key": "adm-secret"})
    assert "secret" not in f"{settings!r} {settings}"
    with pytest.raises(ConfigError) as caught:
        load_settings(**{**REQUIRED, "openai_api_key": "sk secret", "zion_api_url": "secret"})
    assert "secret" not in str(caught.value)
    assert [mistake.partition(":")[0] for mistake in caught.value.mistakes] == ["ZION_API_URL", "OPENAI_API_KEY"]


def test_settings_cannot_be_changed() -> None:
    """One frozen value for the life of the process."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings(**REQUIRED).sentinel_port = 1


@pytest.mark.parametrize("url", ["http://z", "https://z:8443/base/", "http://[::1]:80", "http://10.0.0.1"])
def test_good_urls_lose_their_last_slash(url: str) -> None:
    """Paths are put behind them."""
    assert load_settings(**{**REQUIRED, "zion_api_url": url}).zion_api_url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "z",
        "//z",
        "ftp://z",
        "http://",
        "http://z?q=1",
        "http://z#f",
        "http://z:0",
        "http://z:99999",
        "http://z:x",
        "http://u:p@z",
        "http://[::",
        "http://a b",
        "http:///path",
    ],
)
def test_wrong_urls_are_refused(url: str) -> None:
    """What could not be called is found at the start."""
    with pytest.raises(ConfigError, match="ZION_API_URL"):
        load_settings(**{**REQUIRED, "zion_api_url": url})


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://:p%40@h:1/2",
        "rediss://h:6380",
        "unix:///run/redis.sock",
        "redis+cluster://[::1]:7000",
        "rediss+cluster://u:p@h:7000",
        "redis+sentinel://a:26379,b:26379/mymaster/0",
        "redis+sentinel://u:p@a/m",
    ],
)
def test_stores_of_every_kind_are_taken(url: str) -> None:
    """Single, TLS, socket, cluster and Sentinel."""
    assert load_settings(**REQUIRED, redis_url=url).redis_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:6379",
        "redis:/h",
        "http://h",
        "redis://",
        "redis://h:x",
        "redis://h:70000",
        "unix://relative",
        "redis+sentinel://a",
        "redis+sentinel://a/m/x",
        "redis+sentinel:///m",
        "redis+cluster://",
    ],
)
def test_wrong_stores_are_refused(url: str) -> None:
    """Also before the first connection."""
    with pytest.raises(ConfigError, match="REDIS_URL"):
        load_settings(**REQUIRED, redis_url=url)


def test_words_are_read_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """INFO is info."""
    monkeypatch.setenv("LOG_LEVEL", " WARNING")
    monkeypatch.setenv("REDIS_DOWN", "Local")
    monkeypatch.setenv("abandoned_streams", "DRAIN")
    settings = load_settings(**REQUIRED)
    assert (settings.log_level, settings.redis_down, settings.abandoned_streams) == ("warning", "local", "drain")


def test_what_is_given_is_known_from_both_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment and .env count, empty values do not, and strangers are no settings."""
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk\nZION_API_URL=\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("REDIS_URL", "redis://h")
    monkeypatch.setenv("ZION_API_KEY", "")
    assert settings_given() == {"openai_api_key", "redis_url"}


def test_the_example_file_names_every_setting() -> None:
    """.env.example has each setting once, and no other."""
    example = (Path(__file__).parents[2] / ".env.example").read_text().splitlines()
    named = [
        line.removeprefix("# ").partition("=")[0] for line in example if "=" in line and line.strip("# ")[:1].isupper()
    ]
    named = [name for name in named if name.isupper()]
    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)
