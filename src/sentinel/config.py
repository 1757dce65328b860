"""Environment in, the frozen settings of one program out, or the full list of mistakes.

The only file that reads the environment. A `.env` file in the working directory is read too; the environment wins.
Every field is the setting of the same name in upper case; the table in the README is compared with it by a test.
What is a mistake in a single value is decided in setting_types.py, setting_checks.py, redis_address.py and egress.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import urlsplit

from dotenv.parser import parse_stream
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import DotEnvSettingsSource, NoDecode

from sentinel import tracing_settings
from sentinel.egress import Egress, TlsFiles, authorities_mistake, bypasses_proxy, client_mistake, parse_proxy
from sentinel.governance_settings import GovernanceSettings
from sentinel.provider_config import ConfigMistakes, KeySource, ProviderConfig, read_config
from sentinel.redis_address import parse_redis_url
from sentinel.setting_checks import is_example_host, is_placeholder, misspelt, strangers
from sentinel.setting_types import (
    EXAMPLE_HOST,
    PLACEHOLDER,
    AbsentIfEmpty,
    AnyCase,
    Authorities,
    HttpUrl,
    LogLevel,
    OwnFile,
    Port,
    ProgramSettings,
    Proxy,
    Seconds,
    Secret,
)
from sentinel.vocabulary_packages import PACKAGES, file_of

Dimension = Literal["ai_requests", "ai_input_tokens", "ai_output_tokens"]
DIMENSIONS: tuple[Dimension, ...] = ("ai_requests", "ai_input_tokens", "ai_output_tokens")

OBJECT_KINDS = frozenset(
    (
        *("agents", "assistants", "batches", "chat_completions", "containers", "conversations", "environments"),
        *("evals", "files", "fine_tuning", "models", "responses", "skills", "threads", "uploads", "vaults"),
        *("vector_stores", "videos", "voices"),
    )
)
"""What users create at a provider and may have in common, by the family of paths that it belongs to."""

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RATE = re.compile(r"(?P<limit>\d{1,15})/(?P<count>\d{1,6})(?P<unit>[smhd])")
_LONGEST_WINDOW_SECONDS = 31 * 86400
_UNREADABLE = ".env cannot be read as UTF-8 text"
_MOST_SECRET_BYTES = 65_536


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


def _redis_url(value: str) -> str:
    address = parse_redis_url(value)
    if any(is_example_host(f"//{host}") for host, _ in address.hosts if ":" not in host):
        raise ValueError(EXAMPLE_HOST)
    if any(is_placeholder(login.password or "") for login in (address.login, address.sentinel_login)):
        raise ValueError(PLACEHOLDER)
    return value


def _redis_prefix(value: str | None) -> str | None:
    # Braces would move a user's keys to other nodes of a cluster; and these words begin keys without a prefix.
    if value is not None and (
        not re.fullmatch(r"[A-Za-z0-9_.-]{0,32}", value) or value in ("sentinel", "jwt", "limits")
    ):
        raise ValueError(
            "must be at most 32 letters, digits, dots, dashes and underscores; not sentinel, jwt or limits"
        )
    return value


def _object_kinds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    kinds = frozenset(filter(None, (part.strip().lower() for part in value.split(","))))
    if unknown := sorted(kinds - OBJECT_KINDS):
        raise ValueError(f"{', '.join(map(repr, unknown))}: not one of {', '.join(sorted(OBJECT_KINDS))}")
    return kinds


def _vocabularies(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    names = frozenset(filter(None, (part.strip().lower() for part in value.split(","))))
    if unknown := sorted(names - PACKAGES.keys()):
        raise ValueError(f"{', '.join(map(repr, unknown))}: not one of {', '.join(PACKAGES)}")
    for name in sorted(names):
        file_of(name)
    return names


def _origins(value: str) -> str:
    for origin in filter(None, (part.strip() for part in value.split(","))):
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#]+", origin):
            raise ValueError("must be * or origins such as https://app.example.org, parted by commas, without a path")
    return value


def _rates(value: Any) -> Any:
    return parse_rate_limits(value) if isinstance(value, str) else value


SECRETS = ("zion_api_key", "openai_api_key", "redis_url", "admin_key", "https_proxy", "http_proxy", "all_proxy")
_PROXIES = {"https": ("https_proxy", "all_proxy"), "http": ("http_proxy", "all_proxy")}
"""Which proxy a URL of either scheme uses, the first that is given."""


class Settings(ProgramSettings):
    """Every setting of the proxy. Durations are seconds, sizes bytes."""

    secrets: ClassVar = SECRETS

    zion_api_url: HttpUrl
    zion_api_key: Secret
    openai_api_key: Annotated[Secret | None, AbsentIfEmpty] = None
    openai_api_url: HttpUrl = "https://api.openai.com/v1"
    sentinel_config: OwnFile = None
    redis_url: Annotated[str, AfterValidator(_redis_url)] = Field(default="redis://localhost:6379", repr=False)
    redis_prefix: Annotated[str | None, AbsentIfEmpty, AfterValidator(_redis_prefix)] = None

    sentinel_host: str = "0.0.0.0"
    sentinel_port: Port = 8080
    sentinel_workers: int = Field(default=1, ge=1, le=256)
    sentinel_replicas: int = Field(default=1, ge=1, le=10_000)
    sentinel_debug: bool = False

    rate_limits: Annotated[RateLimits, NoDecode, BeforeValidator(_rates)] = RateLimits(
        windows=(RateLimit("ai_requests", 100, 60),), concurrency=None
    )
    default_output_tokens: int = Field(default=4096, ge=1, le=1_000_000)
    vocabularies: Annotated[frozenset[str], NoDecode, BeforeValidator(_vocabularies)] = frozenset()
    lease_seconds: Seconds = 30

    cache_ttl_seconds: Seconds = 300
    jwt_cache_ttl_seconds: Seconds = 300
    tier_config_ttl_seconds: Seconds = 1800
    session_ttl_seconds: Seconds = 86_400
    cache_stale_seconds: float = Field(default=3600, ge=0, le=31 * 86400)
    redis_down: Annotated[Literal["refuse", "local"], AnyCase] = "refuse"
    # An empty one would be the working directory, of which other programs' *.jsonl are no spool.
    spool_dir: str = Field(default="spool", min_length=1)

    usage_flush_seconds: Seconds = 1
    zion_calls_per_second: float = Field(default=20, gt=0, le=10_000)

    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, le=1024**3)
    max_buffered_bytes: int = Field(default=128 * 1024 * 1024, ge=1024 * 1024, le=1024**4)
    request_header_timeout_seconds: Seconds = 10
    request_body_timeout_seconds: Seconds = 30
    client_stall_timeout_seconds: Seconds = 60
    upstream_connect_timeout_seconds: Seconds = 5
    upstream_idle_timeout_seconds: Seconds = 600
    upstream_keepalive_seconds: float = Field(default=4, ge=0, le=3600)
    stream_keepalive_seconds: float = Field(default=15, ge=0, le=3600)
    abandoned_streams: Annotated[Literal["cancel", "drain"], AnyCase] = "cancel"
    shutdown_grace_seconds: float = Field(default=30, ge=0, le=3600)

    shared_objects: Annotated[frozenset[str], NoDecode, BeforeValidator(_object_kinds)] = frozenset()
    cors_origins: Annotated[str, AfterValidator(_origins)] = "*"
    admin_key: Annotated[Secret | None, AbsentIfEmpty] = None
    log_level: LogLevel = "info"

    # A key stands before its certificate, and NO_PROXY before the proxies: a later one is judged by the earlier ones.
    zion_ca_file: Authorities = None
    zion_client_key_file: OwnFile = None
    zion_client_cert_file: OwnFile = None
    upstream_ca_file: Authorities = None
    upstream_client_key_file: OwnFile = None
    upstream_client_cert_file: OwnFile = None
    no_proxy: Annotated[str | None, AbsentIfEmpty] = None
    https_proxy: Proxy = None
    http_proxy: Proxy = None
    all_proxy: Proxy = None

    @field_validator("zion_client_cert_file", "upstream_client_cert_file")
    @classmethod
    def _fits_its_key(cls, path: str | None, info: ValidationInfo) -> str | None:
        key_file = info.data.get(str(info.field_name).replace("_cert_", "_key_"))
        if reason := client_mistake(TlsFiles(cert_file=path, key_file=key_file)):
            raise ValueError(reason)
        return path

    @field_validator("https_proxy", "http_proxy", "all_proxy")
    @classmethod
    def _is_a_proxy(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        # Shells have proxies for all kinds of programs; only what we would use must be right.
        given = {**info.data, str(info.field_name): value}
        used = [_proxy_name(given.get(name), given) for name in ("zion_api_url", "openai_api_url")]
        if value and info.field_name in used:
            parse_proxy(value.get_secret_value())
        return value

    @property
    def effective_log_level(self) -> str:
        """What is logged: SENTINEL_DEBUG says more than LOG_LEVEL."""
        return "debug" if self.sentinel_debug else self.log_level

    @property
    def zion_egress(self) -> Egress:
        """How Zion is reached."""
        return self.egress_to(
            self.zion_api_url, TlsFiles(self.zion_ca_file, self.zion_client_cert_file, self.zion_client_key_file)
        )

    @property
    def provider_egress(self) -> Egress:
        """How the provider is reached."""
        return self.egress_to(
            self.openai_api_url,
            TlsFiles(self.upstream_ca_file, self.upstream_client_cert_file, self.upstream_client_key_file),
        )

    def egress_to(self, url: str, tls: TlsFiles) -> Egress:
        """How this address is reached, by HTTPS_PROXY and the like."""
        proxies = {"https_proxy": self.https_proxy, "http_proxy": self.http_proxy, "all_proxy": self.all_proxy}
        name = _proxy_name(url, {**proxies, "no_proxy": self.no_proxy})
        proxy = proxies.get(name) if name else None
        return Egress(parse_proxy(proxy.get_secret_value()) if proxy else None, tls)


def _proxy_name(url: str | None, given: Mapping[str, Any]) -> str | None:
    """The proxy that this URL is reached through; None if it is reached directly."""
    if url is None or bypasses_proxy(url, given.get("no_proxy") or ""):
        return None
    return next((name for name in _PROXIES[urlsplit(url).scheme] if given.get(name)), None)


S = TypeVar("S", bound=ProgramSettings)
PROGRAMS: tuple[type[ProgramSettings], ...] = (Settings, GovernanceSettings)


class ConfigError(Exception):
    """The settings are wrong; `mistakes` has one line for each, none of which repeats a value that may be secret."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def load_settings(**overrides: Any) -> Settings:
    """The settings of the proxy, as `load` reads them, and what SENTINEL_CONFIG names. Raises ConfigError."""
    try:
        settings = load(Settings, **overrides)
    except ConfigError as error:
        raise ConfigError([*_missing_provider(overrides), *error.mistakes]) from None
    if mistakes := [*_missing_provider(overrides), *tracing_settings.mistakes(_for_opentelemetry())]:
        raise ConfigError(mistakes)
    load_providers(settings)
    return settings


def _for_opentelemetry() -> dict[str, str]:
    """The variables that OpenTelemetry has; an empty one is none. Raises ConfigError."""
    given = {**_in_env_file(), **_in_environment()}
    return {name: value for name, value in given.items() if name.startswith(tracing_settings.PREFIX) and value}


def told_opentelemetry() -> dict[str, str]:
    """The same, and now the SDK knows them, too, which reads the environment alone. Raises ConfigError."""
    given = _for_opentelemetry()
    for name in [name for name in os.environ if name.upper().startswith(tracing_settings.PREFIX)]:
        del os.environ[name]
    os.environ.update(given)
    return given


def _missing_provider(overrides: Mapping[str, Any]) -> list[str]:
    """What is told where nothing names a provider. Raises ConfigError."""
    given = settings_given() | {name for name, value in overrides.items() if value}
    if given & {"openai_api_key", "sentinel_config"}:
        return []
    return ["OPENAI_API_KEY is required but not set, or SENTINEL_CONFIG with providers"]


def load_providers(settings: Settings) -> ProviderConfig | None:
    """The file that SENTINEL_CONFIG names, None if none. Raises ConfigError with every mistake and its line."""
    path = settings.sentinel_config
    if path is None:
        return None
    try:
        config = read_config(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError([f"SENTINEL_CONFIG: {path} cannot be read: {reason}"]) from None
    except ConfigMistakes as error:
        raise ConfigError([f"SENTINEL_CONFIG: {path}: {mistake}" for mistake in error.mistakes]) from None
    unusable = [*_unusable(config), *_unreachable(config, settings)]
    if found := sorted((config.lines(place), name, reason) for place, name, reason in unusable):
        raise ConfigError([f"SENTINEL_CONFIG: {path}: line {line}: {name}: {reason}" for line, name, reason in found])
    return config


def _unreachable(config: ProviderConfig, settings: Settings) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    """The providers that the proxy of the environment is for, where its address is wrong."""
    for provider in config.providers:
        if provider.proxy is None:
            try:
                settings.egress_to(provider.url, TlsFiles())
            except ValueError as error:
                yield ("providers", provider.name, "url"), f"providers.{provider.name}.url", f"its proxy: {error}"


def _unusable(config: ProviderConfig) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    """The keys and files that a file of providers names and that cannot be used: where, their field, and why."""
    for provider in config.providers:
        at, name = ("providers", provider.name), f"providers.{provider.name}"
        for number, source in enumerate(provider.keys):
            try:
                key_of(source)
            except ValueError as error:
                yield (*at, "api_key", number), f"{name}.api_key", str(error)
        if provider.ca_file and (reason := authorities_mistake(provider.ca_file)):
            yield (*at, "ca_file"), f"{name}.ca_file", reason


def key_of(source: KeySource) -> str:
    """The key that stands there now. Raises ValueError, which says what is wrong, and nothing of the key."""
    if source.kind == "env":
        text = {**_in_env_file(), **_in_environment()}.get(source.place.upper(), "")
        if not text:
            raise ValueError(f"{source.place} is not set")
    else:
        try:
            text = Path(source.place).read_text(encoding="utf-8")[:_MOST_SECRET_BYTES].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{source.place} cannot be read: {getattr(error, 'strerror', 'no text')}") from None
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError(f"{source} must have visible ASCII characters alone")
    if is_placeholder(text):
        raise ValueError(f"{source} {PLACEHOLDER}")
    return text


def load(program: type[S], **overrides: Any) -> S:
    """Read the environment and `.env`; `overrides` win over both. Raises ConfigError with every mistake.

    What is a setting of another program of ours is no mistake: they may share their `.env`.
    """
    given = {**_in_env_file(), **_in_environment()}
    mistakes = list(misspelt(given, _known()).values())
    secrets, unread = _secrets_from_files(given, program.secrets)
    try:
        settings = program(**{**_proxies_in_lower_case(), **secrets, **overrides})
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        wrong = [_mistake(dict(e)) for e in errors if e["loc"][0] not in unread]
        raise ConfigError([*wrong, *unread.values(), *mistakes]) from None
    if unread or mistakes:
        raise ConfigError([*unread.values(), *mistakes])
    return settings


def settings_given(program: type[ProgramSettings] = Settings) -> frozenset[str]:
    """The settings that the environment or `.env` gives a value, in lower case. Raises ConfigError."""
    named = {name.lower() for source in (_in_env_file(), _in_environment()) for name, value in source.items() if value}
    in_files = {name for name in program.secrets if f"{name}_file" in named}
    return frozenset((named & program.model_fields.keys()) | in_files)


def settings_warnings(settings: Settings) -> list[str]:
    """What was given and has no effect, but may have been meant for others: a sentence for each. Raises ConfigError."""
    told = [
        f"{name} in .env is not a setting of Sentinel and has no effect"
        for name in strangers(_in_env_file().keys(), _known())
    ]
    for url_name, egress, prefix in (
        ("zion_api_url", settings.zion_egress, "zion"),
        ("openai_api_url", settings.provider_egress, "upstream"),
    ):
        if getattr(settings, url_name).startswith("https:") or (egress.proxy and egress.proxy.tls):
            continue
        names = [f"{prefix}_{part}_file" for part in ("ca", "client_cert", "client_key")]
        in_vain = [name.upper() for name in names if getattr(settings, name)]
        told += [f"{name} has no effect: {url_name.upper()} is not https://" for name in in_vain]
    return [*told, *tracing_settings.warnings(_for_opentelemetry())]


def _known() -> frozenset[str]:
    """The names of all settings of all programs."""
    fields = {name.upper() for program in PROGRAMS for name in program.model_fields}
    return frozenset(fields | {f"{name.upper()}_FILE" for program in PROGRAMS for name in program.secrets})


def _in_environment() -> dict[str, str]:
    return {name.upper(): value for name, value in os.environ.items()}


def _in_env_file() -> dict[str, str]:
    try:
        if mistakes := _faulty_lines(Path(".env")):
            raise ConfigError(mistakes)
        return {name.upper(): value or "" for name, value in DotEnvSettingsSource(Settings).env_vars.items()}
    except (OSError, UnicodeDecodeError):
        raise ConfigError([_UNREADABLE]) from None


def _faulty_lines(path: Path) -> list[str]:
    """What its reader would skip: a setting may have been meant, and would be without effect."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8-sig") as file:
        faulty = [statement.original for statement in parse_stream(file) if statement.error]
    # A statement begins behind the one before, so blank lines before it are part of it.
    blank = [part.string[: len(part.string) - len(part.string.lstrip())].count("\n") for part in faulty]
    return [f".env: line {part.line + before} is no NAME=VALUE" for part, before in zip(faulty, blank, strict=True)]


def _proxies_in_lower_case() -> dict[str, str]:
    """The lower-case name wins over the other, as with curl; elsewhere there is no difference."""
    names = ("https_proxy", "http_proxy", "all_proxy", "no_proxy")
    return {name: os.environ[name] for name in names if name in os.environ}


def _secrets_from_files(given: Mapping[str, str], names: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """The secrets that NAME_FILE names, and what is wrong with those that cannot be had, both by their names."""
    secrets: dict[str, str] = {}
    mistakes: dict[str, str] = {}
    for name in names:
        variable = f"{name.upper()}_FILE"
        path = given.get(variable)
        if not path:
            continue
        if given.get(name.upper()):
            mistakes[name] = f"{name.upper()} and {variable} are both given: remove one"
            continue
        try:
            with Path(path).open(encoding="utf-8", newline="") as file:
                text = file.read(_MOST_SECRET_BYTES)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            mistakes[name] = f"{variable}: {path} cannot be read: {reason}"
        else:
            secrets[name] = text.rstrip("\r\n")
    return secrets, mistakes


def _mistake(error: dict[str, Any]) -> str:
    name = str(error["loc"][0]).upper()
    if error["type"] == "missing":
        return f"{name} is required but not set"
    return f"{name}: {str(error['msg']).removeprefix('Value error, ')}"
