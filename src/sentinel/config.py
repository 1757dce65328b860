"""Environment in, one frozen `Settings` out, or the full list of mistakes.

The only file that reads the environment. A `.env` file in the working directory is read too; the environment wins.
Every field is the setting of the same name in upper case; docs/settings in the README is compared with it by a test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, NoDecode, SettingsConfigDict

Dimension = Literal["ai_requests", "ai_input_tokens", "ai_output_tokens"]
DIMENSIONS: tuple[Dimension, ...] = ("ai_requests", "ai_input_tokens", "ai_output_tokens")

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RATE = re.compile(r"(?P<limit>\d{1,15})/(?P<count>\d{1,6})(?P<unit>[smhd])")
_LONGEST_WINDOW_SECONDS = 31 * 86400
_UNREADABLE = ".env cannot be read as UTF-8 text"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `limit` units of `dimension` in any interval of `window_seconds`."""

    dimension: Dimension
    limit: int
    window_seconds: int


@dataclass(frozen=True, slots=True)
class RateLimits:
    """All sliding windows of one user, and how many requests may be in flight at once (None: any number)."""

    windows: tuple[RateLimit, ...]
    concurrency: int | None


def parse_rate_limits(text: str) -> RateLimits:
    """Read `ai_requests=100/60s,ai_input_tokens=200000/1h,concurrency=20`; an empty text means no rate limit.

    Raises ValueError that lists every faulty part.
    """
    windows: list[RateLimit] = []
    concurrency: int | None = None
    mistakes: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        rate = _RATE.fullmatch(value)
        if name == "concurrency" and value.isdecimal() and len(value) < 10:
            concurrency = int(value)
        elif name in DIMENSIONS and rate:
            seconds = int(rate["count"]) * _UNIT_SECONDS[rate["unit"]]
            if 1 <= seconds <= _LONGEST_WINDOW_SECONDS:
                windows.append(RateLimit(name, int(rate["limit"]), seconds))
            else:
                mistakes.append(f"{part!r}: a window is 1s to 31d long")
        else:
            mistakes.append(
                f"{part!r} is neither DIMENSION=LIMIT/WINDOW such as ai_requests=100/60s nor concurrency=20"
            )
    if len({(w.dimension, w.window_seconds) for w in windows}) < len(windows):
        mistakes.append("the same dimension and window is given twice")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return RateLimits(tuple(windows), concurrency)


def _http_url(value: str) -> str:
    # A password in the URL would become an Authorization header beside ours.
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value) or not _has_host(value):
        raise ValueError("must be an http:// or https:// URL with a host, a port up to 65535, no password and no query")
    return value.rstrip("/")


def _redis_url(value: str) -> str:
    scheme, _, rest = value.partition("://")
    if scheme == "unix":
        good = rest.startswith("/")
    elif scheme == "redis+sentinel":
        hosts, _, master = rest.rpartition("@")[2].partition("/")
        good = bool(re.fullmatch(r"[^/]+(/\d*)?", master)) and all(_has_host(f"redis://{h}") for h in hosts.split(","))
    else:
        good = scheme in ("redis", "rediss", "redis+cluster", "rediss+cluster") and _has_host(value)
    if not good:
        raise ValueError(
            "must be redis://HOST:PORT/DB, rediss://..., redis+cluster://..., rediss+cluster://..., unix:///PATH "
            "or redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB"
        )
    return value


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _origins(value: str) -> str:
    for origin in filter(None, (part.strip() for part in value.split(","))):
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#]+", origin):
            raise ValueError("must be * or origins such as https://app.example.org, parted by commas, without a path")
    return value


def _header_safe(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
        raise ValueError("must be non-empty and have only visible ASCII characters")
    return value


def _absent_if_empty(value: Any) -> Any:
    return None if value == "" else value


def _in_lower_case(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _rates(value: Any) -> Any:
    return parse_rate_limits(value) if isinstance(value, str) else value


HttpUrl = Annotated[str, AfterValidator(_http_url)]
Secret = Annotated[SecretStr, AfterValidator(_header_safe)]
Seconds = Annotated[float, Field(gt=0, le=31 * 86400, allow_inf_nan=False)]
AnyCase = BeforeValidator(_in_lower_case)


class Settings(BaseSettings):
    """Every setting of Sentinel. Durations are seconds, sizes bytes."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True)

    zion_api_url: HttpUrl
    zion_api_key: Secret
    openai_api_key: Secret
    openai_api_url: HttpUrl = "https://api.openai.com/v1"
    redis_url: Annotated[str, AfterValidator(_redis_url)] = "redis://localhost:6379"

    sentinel_host: str = "0.0.0.0"
    sentinel_port: int = Field(default=8080, ge=1, le=65535)
    sentinel_workers: int = Field(default=1, ge=1, le=256)
    sentinel_replicas: int = Field(default=1, ge=1, le=10_000)
    sentinel_debug: bool = False

    rate_limits: Annotated[RateLimits, NoDecode, BeforeValidator(_rates)] = RateLimits(
        windows=(RateLimit("ai_requests", 100, 60),), concurrency=None
    )
    default_output_tokens: int = Field(default=4096, ge=1, le=1_000_000)
    lease_seconds: Seconds = 30

    cache_ttl_seconds: Seconds = 300
    jwt_cache_ttl_seconds: Seconds = 300
    cache_stale_seconds: float = Field(default=3600, ge=0, le=31 * 86400)
    redis_down: Annotated[Literal["refuse", "local"], AnyCase] = "refuse"
    spool_dir: str = "spool"

    usage_flush_seconds: Seconds = 1
    zion_calls_per_second: float = Field(default=20, gt=0, le=10_000)

    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, le=1024**3)
    request_header_timeout_seconds: Seconds = 10
    request_body_timeout_seconds: Seconds = 30
    client_stall_timeout_seconds: Seconds = 60
    upstream_connect_timeout_seconds: Seconds = 5
    upstream_idle_timeout_seconds: Seconds = 600
    upstream_keepalive_seconds: float = Field(default=4, ge=0, le=3600)
    stream_keepalive_seconds: float = Field(default=15, ge=0, le=3600)
    abandoned_streams: Annotated[Literal["cancel", "drain"], AnyCase] = "cancel"
    shutdown_grace_seconds: float = Field(default=30, ge=0, le=3600)

    cors_origins: Annotated[str, AfterValidator(_origins)] = "*"
    admin_key: Annotated[Secret | None, BeforeValidator(_absent_if_empty)] = None
    log_level: Annotated[Literal["debug", "info", "warning", "error"], AnyCase] = "info"


class ConfigError(Exception):
    """The settings are wrong; `mistakes` has one line for each, none of which repeats a value that may be secret."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def load_settings(**overrides: Any) -> Settings:
    """Read the environment and `.env`; `overrides` win over both. Raises ConfigError with every mistake."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigError([_mistake(dict(e)) for e in error.errors(include_url=False, include_input=False)]) from None
    except (OSError, UnicodeDecodeError):
        raise ConfigError([_UNREADABLE]) from None


def settings_given() -> frozenset[str]:
    """The settings that the environment or `.env` gives a value, in lower case. Raises ConfigError."""
    try:
        sources = (DotEnvSettingsSource(Settings)(), EnvSettingsSource(Settings)())
    except (OSError, UnicodeDecodeError):
        raise ConfigError([_UNREADABLE]) from None
    named = {name for source in sources for name, value in source.items() if value != ""}
    return frozenset(named & Settings.model_fields.keys())


def _mistake(error: dict[str, Any]) -> str:
    name = str(error["loc"][0]).upper()
    if error["type"] == "missing":
        return f"{name} is required but not set"
    return f"{name}: {str(error['msg']).removeprefix('Value error, ')}"
