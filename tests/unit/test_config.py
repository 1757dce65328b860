"""Environment in, settings out, or every mistake (`config.py`, `setting_types.py`)."""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from sentinel.config import (
    DIMENSIONS,
    SECRETS,
    ConfigError,
    RateLimit,
    RateLimits,
    Settings,
    key_of,
    load_providers,
    load_settings,
    parse_rate_limits,
    settings_given,
    settings_warnings,
    told_opentelemetry,
)
from sentinel.egress import DIRECT, ForwardProxy
from sentinel.provider_config import KeySource

REQUIRED = {"zion_api_url": "http://zion", "zion_api_key": "z", "openai_api_key": "o"}


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, and none of our settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)


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
    secret = {"openai_api_key": "sk-secret", "admin_key": "adm-secret", "redis_url": "redis://:secret@h"}
    settings = load_settings(**{**REQUIRED, **secret, "https_proxy": "http://u:secret@p"})
    assert "secret" not in f"{settings!r} {settings}"
    with pytest.raises(ConfigError) as caught:
        load_settings(**{**REQUIRED, "openai_api_key": "sk secret", "zion_api_url": "secret"})
    assert "secret" not in str(caught.value)
    assert [mistake.partition(":")[0] for mistake in caught.value.mistakes] == ["ZION_API_URL", "OPENAI_API_KEY"]


def test_settings_cannot_be_changed() -> None:
    """One frozen value for the life of the process."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings(**REQUIRED).sentinel_port = 1  # type: ignore[misc]  # That is the test.


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


# ---------------------------------------------------------------------------------------- every setting has an effect

SOURCES = Path(__file__).parents[2] / "src" / "sentinel"


def attributes_read(tree: ast.AST) -> set[str]:
    """The names of all attributes that are read somewhere in it."""
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


@functools.cache
def settings_read() -> set[str]:
    """The settings that code outside of config.py reads: `settings.name`, or a property of `Settings` that does."""
    trees = {path: ast.parse(path.read_text()) for path in SOURCES.rglob("*.py")}
    config = trees.pop(SOURCES / "config.py")
    read = set[str]()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).rpartition(".")[2] in (
                "settings",
                "_settings",
            ):
                read.add(node.attr)
    methods = {
        function.name: attributes_read(function)
        for node in config.body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
        for function in node.body
        if isinstance(function, ast.FunctionDef)
    }
    while more := {name for method in read & methods.keys() for name in methods[method]} - read:
        read |= more
    return read


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_read(name: str) -> None:
    """A setting that no code outside of config.py reads would be silently without effect."""
    assert name in settings_read()


@pytest.mark.parametrize(
    ("debug", "level", "effective"),
    [("true", None, "debug"), ("true", "error", "debug"), ("false", "error", "error"), ("false", None, "info")],
)
def test_debug_is_debug(monkeypatch: pytest.MonkeyPatch, debug: str, level: str | None, effective: str) -> None:
    """SENTINEL_DEBUG=true logs at debug level, whatever LOG_LEVEL says."""
    monkeypatch.setenv("SENTINEL_DEBUG", debug)
    if level:
        monkeypatch.setenv("LOG_LEVEL", level)
    assert load_settings(**REQUIRED).effective_log_level == effective


# ------------------------------------------------------------------------------------------------ names and values


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_misspelt_setting_is_a_wrong_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str) -> None:
    """With the right name, beside all other mistakes, and without its value."""
    given = {"RATE_LIMIT": "x", "OPENAI_KEY": "sk-hidden", "SENTINEL_PROT": "1", "LOG_LEVEL": "loud"}
    if place == ".env":
        (tmp_path / ".env").write_text("\ufeff" + "".join(f"{name}={value}\n" for name, value in given.items()))
    else:
        for name, value in given.items():
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_settings(zion_api_url="http://zion", zion_api_key="z")
    assert "hidden" not in str(caught.value)
    assert [mistake.split()[0].strip(":") for mistake in caught.value.mistakes] == [
        *("OPENAI_API_KEY", "LOG_LEVEL", "OPENAI_KEY", "RATE_LIMIT", "SENTINEL_PROT"),
    ]


def test_kubernetes_service_links_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """SENTINEL_PORT=tcp://... comes from a Service of that name; the others beside it are let be."""
    monkeypatch.setenv("SENTINEL_SERVICE_HOST", "10.0.0.1")
    assert load_settings(**REQUIRED).sentinel_port == 8080
    monkeypatch.setenv("SENTINEL_PORT", "tcp://10.0.0.1:8080")
    with pytest.raises(ConfigError) as caught:
        load_settings(**REQUIRED)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith("SENTINEL_PORT: ")
    assert "enableServiceLinks: false" in mistake


def test_a_line_of_the_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    """It may have been meant to be a setting; where it is is told, and nothing of what it says."""
    lines = ["\ufeff# ours", "", "RATE_LIMITS ai_requests=5/1s", "export OTHER=info", "", 'ADMIN_KEY="s3cret', "OTHER"]
    (tmp_path / ".env").write_text("\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        load_settings(**REQUIRED)
    assert caught.value.mistakes == [".env: line 3 is no NAME=VALUE", ".env: line 6 is no NAME=VALUE"]


def test_no_folder_is_not_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`SPOOL_DIR=` is a mistake: what ends in .jsonl there would be set aside as lines that cannot be read."""
    monkeypatch.setenv("SPOOL_DIR", "")
    with pytest.raises(ConfigError, match="SPOOL_DIR"):
        load_settings(**REQUIRED)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("zion_api_url", "https://zion.example.org"),
        ("openai_api_url", "https://api.example.com/v1"),
        ("zion_api_key", "replace-me"),
        ("openai_api_key", "sk-..."),
        ("admin_key", "changeme"),
        ("redis_url", "redis://redis.example.net:6379"),
        ("redis_url", "redis://:changeme@h"),
        ("redis_url", "redis+sentinel://a/m?sentinel_password=xxx"),
    ],
)
def test_what_was_never_filled_in_is_a_mistake(name: str, value: str) -> None:
    """Placeholders of examples."""
    with pytest.raises(ConfigError, match=r"placeholder|example") as caught:
        load_settings(**{**REQUIRED, name: value})
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"{name.upper()}: ")
    assert value not in mistake


def test_what_has_no_effect_is_warned_of(tmp_path: Path) -> None:
    """Strangers in .env, and certificates for what is not https://."""
    (tmp_path / ".env").write_text("OPENAI_BASE_URL=http://x\nTZ=UTC\nLOG_LEVEL=info\n")
    both = tmp_path / "both.pem"
    authority = trustme.CA()
    authority.issue_cert("me.test").private_key_and_cert_chain_pem.write_to_path(both)
    settings = load_settings(**REQUIRED, zion_client_cert_file=str(both), upstream_client_cert_file=str(both))
    assert settings_warnings(settings) == [
        "OPENAI_BASE_URL in .env is not a setting of Sentinel and has no effect",
        "ZION_CLIENT_CERT_FILE has no effect: ZION_API_URL is not https://",
    ]


# ------------------------------------------------------------------------------------------------------------- traces


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Path]:
    """Variables of OpenTelemetry's in the environment, and none but these; and a place for more."""
    before = dict(os.environ)
    for name in [name for name in before if name.upper().startswith("OTEL_")]:
        del os.environ[name]
    os.environ.update({"OTEL_SERVICE_NAME": "edge", "otel_bsp_schedule_delay": "5", "OTEL_TRACES_SAMPLER": ""})
    yield tmp_path / ".env"
    os.environ.clear()
    os.environ.update(before)


def test_what_opentelemetry_is_told(told: Path) -> None:
    """What `.env` says counts as the environment does, which wins; an empty variable is none."""
    told.write_text("OTEL_SERVICE_NAME=file\nOTEL_TRACES_EXPORTER=otlp\nLOG_LEVEL=info\n")
    given = {"OTEL_SERVICE_NAME": "edge", "OTEL_BSP_SCHEDULE_DELAY": "5", "OTEL_TRACES_EXPORTER": "otlp"}
    assert told_opentelemetry() == given
    assert {name: value for name, value in os.environ.items() if name.upper().startswith("OTEL_")} == given


def test_mistakes_of_traces_are_settings_mistakes(told: Path) -> None:
    """In the same list, and in the same places."""
    told.write_text("OTEL_EXPORTER_OTLP_ENDPOINT=collector\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(**{name: value for name, value in REQUIRED.items() if name != "openai_api_key"})
    assert [mistake.split()[0] for mistake in caught.value.mistakes] == [
        "OPENAI_API_KEY",
        "OTEL_EXPORTER_OTLP_ENDPOINT:",
    ]
    told.write_text("")
    assert settings_warnings(load_settings(**REQUIRED)) == [
        "OTEL_BSP_SCHEDULE_DELAY has no effect: OTEL_EXPORTER_OTLP_ENDPOINT switches traces on, and is not set"
    ]


# --------------------------------------------------------------------------------------------------- secrets in files


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_every_secret_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, end: str) -> None:
    """NAME_FILE is NAME, without the line end; it counts as given."""
    value = {"redis_url": "redis://:pw@h"}.get(name, "http://user:pw@p" if "proxy" in name else "key")
    (tmp_path / "secret").write_bytes(f"{value}{end}".encode())
    monkeypatch.setenv(f"{name.upper()}_FILE", str(tmp_path / "secret"))
    found = getattr(load_settings(**{n: v for n, v in REQUIRED.items() if n != name}), name)
    assert (found if isinstance(found, str) else found.get_secret_value()) == value
    assert settings_given() == {name}


def test_every_secret_is_named() -> None:
    """All that pydantic hides may be in a file."""
    hidden = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field) or not field.repr}
    assert hidden == set(SECRETS)


def test_secrets_that_cannot_be_had_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is missing or no text is named, not its content; twice given is a mistake; each is told once."""
    (tmp_path / "binary").write_bytes(b"\xff\xfehidden")
    (tmp_path / "spaces").write_text("hidden key\n")
    monkeypatch.setenv("ZION_API_KEY_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(tmp_path / "binary"))
    monkeypatch.setenv("ADMIN_KEY", "hidden")
    monkeypatch.setenv("ADMIN_KEY_FILE", str(tmp_path / "none"))
    (tmp_path / ".env").write_text(f"REDIS_URL_FILE={tmp_path / 'spaces'}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(zion_api_url="http://zion")
    assert "hidden" not in str(caught.value)
    assert sorted(caught.value.mistakes) == [
        "ADMIN_KEY and ADMIN_KEY_FILE are both given: remove one",
        f"OPENAI_API_KEY_FILE: {tmp_path / 'binary'} cannot be read: it is not UTF-8 text",
        next(mistake for mistake in caught.value.mistakes if mistake.startswith("REDIS_URL: must be")),
        f"ZION_API_KEY_FILE: {tmp_path / 'none'} cannot be read: No such file or directory",
    ]


# ----------------------------------------------------------------------------------------------------- forward proxies

FAR = {**REQUIRED, "zion_api_url": "http://zion.test", "openai_api_url": "https://api.test/v1"}


@pytest.mark.parametrize(
    ("environment", "zion", "provider"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": "http://p:1"}, None, "p"),
        ({"HTTP_PROXY": "http://p:1"}, "p", None),
        ({"ALL_PROXY": "http://p:1"}, "p", "p"),
        ({"ALL_PROXY": "http://p:1", "HTTPS_PROXY": "http://q:1"}, "p", "q"),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:1"}, None, "q"),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": ""}, None, None),
        ({"all_proxy": "http://p:1", "NO_PROXY": "zion.test"}, None, "p"),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "test", "no_proxy": "api.test"}, "p", None),
        ({"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "socks5://s", "NO_PROXY": "zion.test"}, None, "p"),
        ({"HTTP_PROXY": "nonsense://", "NO_PROXY": "zion.test"}, None, None),
    ],
)
def test_proxies_are_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], zion: str | None, provider: str | None
) -> None:
    """By scheme, else for all; lower case wins; NO_PROXY is obeyed; what would not be used need not be right."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(**FAR)
    for egress, host in ((settings.zion_egress, zion), (settings.provider_egress, provider)):
        assert egress == DIRECT if host is None else egress.proxy == ForwardProxy(host, 1)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_that_would_be_used_must_be_right(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """SOCKS is refused by name, and no password is told."""
    monkeypatch.setenv(name, "socks5://me:hidden@p")
    with pytest.raises(ConfigError) as caught:
        load_settings(**FAR)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"{name.upper()}: ")
    assert "SOCKS" in mistake
    assert "hidden" not in mistake
    # Nothing on this machine is reached through a proxy.
    load_settings(**{**REQUIRED, "zion_api_url": "http://127.0.0.1", "openai_api_url": "https://localhost/v1"})


@pytest.mark.parametrize("prefix", ["a{b}", "a:b", "x" * 33, "sentinel", "jwt", "limits"])
def test_a_prefix_that_would_mix_keys_up_is_a_mistake(prefix: str) -> None:
    """Braces move keys to other nodes of a cluster, and some words begin keys without a prefix."""
    assert load_settings(**REQUIRED, redis_prefix="team-a_1.x").redis_prefix == "team-a_1.x"
    with pytest.raises(ConfigError, match="REDIS_PREFIX: must be at most 32 letters"):
        load_settings(**REQUIRED, redis_prefix=prefix)


@pytest.mark.parametrize("origins", ["app.example.org", "https://app.example.org/", "https://a.test https://b.test"])
def test_what_is_no_origin_is_a_mistake(origins: str) -> None:
    """A path, or no scheme: no browser sends such an origin, so nobody would be let in."""
    with pytest.raises(ConfigError, match=r"CORS_ORIGINS: must be \* or origins"):
        load_settings(**REQUIRED, cors_origins=f"https://good.test, {origins}")


def test_files_that_are_of_no_use_are_mistakes(tmp_path: Path) -> None:
    """Authorities without a certificate, and a client's certificate that is none."""
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    with pytest.raises(ConfigError) as caught:
        load_settings(**REQUIRED, zion_ca_file=str(empty), upstream_client_cert_file=str(empty))
    assert sorted(mistake.partition(":")[0] for mistake in caught.value.mistakes) == [
        "UPSTREAM_CLIENT_CERT_FILE",
        "ZION_CA_FILE",
    ]


def test_a_misspelt_name_alone_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote it believes that it has an effect."""
    monkeypatch.setenv("RATE_LIMIT", "ai_requests=1/1m")
    with pytest.raises(ConfigError) as caught:
        load_settings(**REQUIRED)
    assert caught.value.mistakes == ["RATE_LIMIT is not a setting of Sentinel; did you mean RATE_LIMITS?"]


def test_an_env_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    """It would be as if its settings were not there."""
    (tmp_path / ".env").write_bytes(b"ADMIN_KEY=\xff\xfe\n")
    with pytest.raises(ConfigError, match=r"\.env"):
        load_settings(**REQUIRED)


@pytest.mark.parametrize(
    ("written", "kinds"),
    [("", set()), ("files", {"files"}), (" Files , responses,", {"files", "responses"})],
)
def test_kinds_of_shared_objects(monkeypatch: pytest.MonkeyPatch, written: str, kinds: set[str]) -> None:
    """Families of paths, in any case."""
    monkeypatch.setenv("SHARED_OBJECTS", written)
    assert load_settings(**REQUIRED).shared_objects == kinds


def test_unknown_kinds_of_shared_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, beside those that there are."""
    monkeypatch.setenv("SHARED_OBJECTS", "files, secrets")
    with pytest.raises(ConfigError, match=r"SHARED_OBJECTS.*'secrets'.*files"):
        load_settings(**REQUIRED)


@pytest.mark.parametrize(
    ("written", "names"),
    [("", set()), ("qwen", {"qwen"}), (" Qwen3.5 , deepseek,", {"qwen3.5", "deepseek"})],
)
def test_vocabularies(monkeypatch: pytest.MonkeyPatch, written: str, names: set[str]) -> None:
    """Of families, in any case."""
    monkeypatch.setenv("VOCABULARIES", written)
    assert load_settings(**REQUIRED).vocabularies == names


@pytest.mark.parametrize(
    ("written", "told"),
    [("qwen, claude", r"'claude': not one of qwen, qwen3\.5, .*mistral"), ("llama4", "package llama-models")],
)
def test_vocabularies_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, written: str, told: str) -> None:
    """Of no family that is known, or without the package that has it."""
    monkeypatch.setenv("VOCABULARIES", written)
    with pytest.raises(ConfigError, match=f"VOCABULARIES: .*{told}"):
        load_settings(**REQUIRED)


# ------------------------------------------------------------------------------------------------ several providers

ZION = {"zion_api_url": "http://zion", "zion_api_key": "z"}
FILE = "[providers.own]\ntype = 'compatible'\nurl = 'http://h/v1'\napi_key = {}\n"


def config_mistakes(text: str | bytes, tmp_path: Path) -> list[str]:
    path = tmp_path / "sentinel.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_settings(**ZION, sentinel_config=str(path))
    return [mistake.removeprefix(f"SENTINEL_CONFIG: {path}").lstrip(": ") for mistake in caught.value.mistakes]


def test_one_key_or_a_file_is_required(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither is a mistake, told beside all others; the file alone is enough."""
    told = "OPENAI_API_KEY is required but not set, or SENTINEL_CONFIG with providers"
    for wrong, more in (({}, []), ({"zion_api_url": "zion"}, ["ZION_API_URL"])):
        with pytest.raises(ConfigError) as caught:
            load_settings(**{**ZION, **wrong})
        assert [mistake.split(":")[0] for mistake in caught.value.mistakes] == [told, *more]
    with pytest.raises(ConfigError) as caught:
        load_settings()
    names = ["ZION_API_URL", "ZION_API_KEY"]
    assert caught.value.mistakes == [told, *(f"{name} is required but not set" for name in names)]
    path = tmp_path / "sentinel.toml"
    path.write_text("\ufeff" + FILE.replace("api_key = {}", ""))
    monkeypatch.setenv("SENTINEL_CONFIG", str(path))
    config = load_providers(load_settings(**ZION))
    assert config is not None
    assert [provider.name for provider in config.providers] == ["own"]
    assert load_providers(load_settings(**ZION, sentinel_config=None, openai_api_key="o")) is None


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """With its path, and why."""
    with pytest.raises(ConfigError, match=r"SENTINEL_CONFIG: .*none.toml cannot be read: No such file"):
        load_settings(**ZION, sentinel_config=str(tmp_path / "none.toml"))
    assert config_mistakes(b"\xff", tmp_path) == ["cannot be read: it is not UTF-8 text"]
    assert config_mistakes("x = 1\ny = 2", tmp_path)[-1] == "line 2: y is no setting"


def test_keys_that_cannot_be_had_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each of them, and nothing of what they say."""
    (tmp_path / "odd").write_text("two words\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "right").write_text(" key-1 \n")
    monkeypatch.setenv("A_PLACEHOLDER", "sk-...")
    monkeypatch.setenv("A_KEY", "key-2")
    names = ["env:NONE", "env:A_PLACEHOLDER", *(f"file:{tmp_path}/{name}" for name in ("none", "odd", "binary"))]
    right = [f"file:{tmp_path}/right", "env:A_KEY"]
    text = FILE.format("[\n" + "".join(f"  '{name}',\n" for name in [*names, *right]) + "]")
    text += f"ca_file = '{tmp_path}/odd'\n"
    odd = f"file:{tmp_path}/odd"
    assert config_mistakes(text, tmp_path) == [
        "line 5: providers.own.api_key: NONE is not set",
        "line 6: providers.own.api_key: env:A_PLACEHOLDER is a placeholder: fill in the real value",
        f"line 7: providers.own.api_key: {tmp_path}/none cannot be read: No such file or directory",
        f"line 8: providers.own.api_key: {odd} must have visible ASCII characters alone",
        f"line 9: providers.own.api_key: {tmp_path}/binary cannot be read: no text",
        f"line 13: providers.own.ca_file: {tmp_path}/odd has no certificate in PEM form",
    ]
    assert [key_of(KeySource("file", f"{tmp_path}/right")), key_of(KeySource("env", "a_key"))] == ["key-1", "key-2"]
