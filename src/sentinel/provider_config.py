"""The file that SENTINEL_CONFIG names: providers, and which of them serve which models. Decides.

Every mistake is told at once, with its line. Nothing here reads a file, the environment or a clock: keys are named
(`env:NAME`, `file:PATH`), and whoever needs them fetches them. Source: DESIGN section 9. Over 400 lines, for what may
be said and what it comes to are best read side by side.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sentinel.egress import parse_proxy
from sentinel.provider_presets import PRESETS, TYPES, Preset
from sentinel.setting_types import HttpUrl
from sentinel.toml_lines import LinesOf

ProviderType = Literal["openai", "azure", "anthropic", "gemini", "compatible"]
Format = Literal["chat", "completions", "embeddings", "responses", "messages", "gemini", "other"]
FORMATS: tuple[Format, ...] = get_args(Format)
MaxTokensField = Literal["max_completion_tokens", "max_tokens"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_OF_DEPLOYMENTS = ("chat", "completions", "embeddings")
"""What Azure's deployments speak; its v1 API has the rest."""
_ENV, _FILE = "env:", "file:"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BARE = re.compile(r"[A-Za-z0-9_-]{1,96}")
_MOST_NAMED = 96
"""Characters of a name in a mistake; one that is right may have 256."""


def _proxy(text: str) -> str:
    parse_proxy(text)
    return text


def _keys(value: Any) -> Any:
    """One key is a pool of one."""
    keys = [value] if isinstance(value, str) else value
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("must be env:NAME or file:PATH, or a list of such")
    if not all(map(_is_source, keys)):
        # It may be the key itself: what it says must not be told.
        raise ValueError("must be env:NAME or file:PATH: a key has no place in this file")
    if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
        raise ValueError(f"names {twice[0]} twice")
    return keys


def _is_source(text: str) -> bool:
    is_env = text.startswith(_ENV) and _VARIABLE.fullmatch(text.removeprefix(_ENV)) is not None
    return is_env or (text.startswith(_FILE) and text != _FILE and text.isprintable())


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError("must be a number")  # noqa: TRY004
    return value


Text = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Usd = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False), BeforeValidator(_no_truth)]


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where a key is: in the environment, or in a file, which is read anew when it changes."""

    kind: Literal["env", "file"]
    place: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}"


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """One provider. url: as its vendor's SDK takes it. formats: that it speaks. keys: a pool, used in turns.

    api_version: of Azure's deployments, None for its v1 API. token_command: prints a token in place of a key.
    renames_maximum: the client's own maximum goes by max_tokens_field, too.
    """

    name: str
    type: ProviderType
    url: str
    keys: tuple[KeySource, ...]
    formats: frozenset[Format]
    max_tokens_field: MaxTokensField
    stream_usage: bool
    connect_timeout_seconds: float = 5.0
    idle_timeout_seconds: float = 600.0
    keepalive_seconds: float = 4.0
    proxy: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    api_version: str | None = None
    token_command: tuple[str, ...] = ()
    preset: str | None = None
    renames_maximum: bool = False

    def speaks(self, format_name: str) -> bool:
        """Whether it speaks this format; those that have no name of their own in the file are `other`."""
        return (format_name if format_name in FORMATS else "other") in self.formats


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """A provider for a model. model: its name there, None = as the client names it. concurrency: requests at once."""

    provider: str
    model: str | None = None
    weight: int = 1
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which targets a model has. pattern: an exact name, or a prefix with `*` behind it."""

    pattern: str
    targets: tuple[TargetSpec, ...]
    fallback: tuple[TargetSpec, ...] = ()
    price: Mapping[str, Decimal] | None = None

    @property
    def is_exact(self) -> bool:
        """Whether it is about one model."""
        return not self.pattern.endswith("*")

    def fits(self, model: str) -> bool:
        """Whether it is about this model."""
        return model == self.pattern if self.is_exact else model.startswith(self.pattern[:-1])


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """All of the file. lines: where in it things are, for what is found wrong with keys and files later."""

    providers: tuple[ProviderSpec, ...]
    models: tuple[ModelSpec, ...]
    lines: LinesOf = field(compare=False, repr=False)


class ConfigMistakes(Exception):
    """The file is wrong; `mistakes` has a line for each mistake, in the order of their lines."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = list(mistakes)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class _Provider(_Table):
    type: ProviderType
    preset: str | None = None
    url: HttpUrl | None = None
    api_key: Annotated[list[str] | None, BeforeValidator(_keys)] = None
    formats: list[Format] | None = Field(default=None, min_length=1)
    connect_timeout_seconds: Seconds = 5.0
    idle_timeout_seconds: Seconds = 600.0
    keepalive_seconds: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = 4.0
    max_tokens_field: MaxTokensField | None = None
    stream_usage: bool | None = None
    proxy: Annotated[Text, AfterValidator(_proxy)] | None = None
    ca_file: Text | None = None
    api_version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] | None = None
    token_command: list[str] = []


class _Target(_Table):
    provider: str
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    weight: Annotated[int, Field(ge=1, le=1_000)] = 1
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None


class _Price(_Table):
    # A file has numbers; exactly as they are written, not as floats have them.
    model_config = ConfigDict(extra="forbid", strict=False, frozen=True, hide_input_in_errors=True)

    input: Usd | None = None
    cached_input: Usd | None = None
    cache_write: Usd | None = None
    cache_write_1h: Usd | None = None
    output: Usd | None = None
    reasoning: Usd | None = None
    input_audio: Usd | None = None
    input_image: Usd | None = None
    input_video: Usd | None = None
    cached_audio: Usd | None = None
    cached_image: Usd | None = None
    output_audio: Usd | None = None
    output_image: Usd | None = None
    output_video: Usd | None = None


class _Model(_Table):
    targets: list[_Target] = Field(min_length=1)
    fallback: list[_Target] = []
    price: _Price | None = None


T = TypeVar("T", bound=_Table)


def read_config(text: str) -> ProviderConfig:
    """Read the file. Raises ConfigMistakes with all that is wrong in it."""
    try:
        return _read(_parsed(text), text)
    except RecursionError:
        raise ConfigMistakes(["the file is nested too deeply"]) from None


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigMistakes([_syntax_mistake(str(error), text)]) from None
    except (ValueError, ArithmeticError):
        # What makes numbers says so, and not where.
        raise ConfigMistakes(["the file has a number that is too long"]) from None


def _read(data: dict[str, Any], text: str) -> ProviderConfig:
    lines = LinesOf(text)
    reading = _Reading(lines)
    providers = reading.tables(data, "providers", _Provider)
    models = reading.tables(data, "models", _Model)
    for name in data.keys() - {"providers", "models"}:
        reading.tell((name,), f"{_place((name,))} is no setting")
    if not data.get("providers"):
        reading.tell(("providers",), "providers is missing: at least one [providers.NAME]")
    for path, mistake in (*_of_names(data), *_contradictions(providers, models)):
        reading.tell(path, mistake)
    if reading.told:
        raise ConfigMistakes([f"line {line}: {mistake}" for line, mistake in sorted(reading.told)])
    return ProviderConfig(
        providers=tuple(_spec(name, provider) for name, provider in providers.items()),
        models=tuple(_model(pattern, model) for pattern, model in models.items()),
        lines=lines,
    )


class _Reading:
    """Tables that could be read, and what was wrong with the others."""

    def __init__(self, lines: LinesOf) -> None:
        self._lines = lines
        self.told: list[tuple[int, str]] = []

    def tell(self, path: Sequence[str | int], mistake: str) -> None:
        self.told.append((self._lines(path), mistake))

    def tables(self, data: Mapping[str, Any], kind: str, table: type[T]) -> dict[str, T]:
        """The tables below [kind], by their names, of those that are right by themselves."""
        found: dict[str, T] = {}
        inner = data.get(kind, {})
        if not isinstance(inner, dict):
            self.tell((kind,), f"{kind} must be tables: [{kind}.NAME]")
            return found
        for name, fields in inner.items():
            try:
                found[name] = table.model_validate(_floats(fields))
            except ValidationError as error:
                for each in error.errors(include_url=False, include_input=False):
                    path = (kind, name, *each["loc"])
                    self.tell(path, _mistake(path, dict(each)))
        return found


def _syntax_mistake(reason: str, text: str) -> str:
    if found := re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", reason):
        return f"line {found[2]}: {found[1]} (column {found[3]})"
    return f"line {text.rstrip().count(chr(10)) + 1}: {reason}"


def _floats(value: Any, *, is_price: bool = False) -> Any:
    """Prices stay as they are written; durations are floats."""
    if isinstance(value, dict):
        return {name: _floats(each, is_price=is_price or name == "price") for name, each in value.items()}
    if isinstance(value, list):
        return [_floats(each, is_price=is_price) for each in value]
    if isinstance(value, Decimal) and not is_price:
        return float(value)
    return value


def _mistake(path: Sequence[str | int], error: dict[str, Any]) -> str:
    place = _place(path)
    if error["type"] == "missing":
        return f"{place} is missing"
    if error["type"] == "extra_forbidden":
        return f"{place} is no setting"
    if error["type"] == "model_type":
        return f"{place} must be a table"
    return f"{place}: {str(error['msg']).removeprefix('Value error, ')}"


def _place(path: Sequence[str | int]) -> str:
    """The path as one would write it, on one line and not too long."""
    place = ""
    for part in path:
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            place += ("." if place else "") + (part if _BARE.fullmatch(part) else _quoted(part))
    return place


def _quoted(name: str) -> str:
    return json.dumps(name[:_MOST_NAMED], ensure_ascii=False)


Mistake = tuple[tuple[str | int, ...], str]


def _of_names(data: Mapping[str, Any]) -> Iterator[Mistake]:
    """What is wrong with what providers and models are called, whatever else is wrong with them."""
    providers, models = _tables(data, "providers"), _tables(data, "models")
    for name in providers:
        at = ("providers", name)
        if not _NAME.fullmatch(name):
            yield at, f"{_place(at)}: a name has letters, digits, dots, dashes, underscores, at most 63"
    for pattern, fields in models.items():
        at = ("models", pattern)
        if not pattern or "*" in pattern[:-1] or len(pattern) > 256:
            yield at, f"{_place(at)}: must be a name, or a prefix with one * at its end"
        for path, name in _named_providers(at, fields):
            # Where there are none, that is what is told.
            if providers and name not in providers:
                known = ", ".join(map(_quoted, providers))
                yield path, f"{_place(path)} {_quoted(name)} is none of: {known}"


def _tables(data: Mapping[str, Any], kind: str) -> dict[str, Any]:
    found = data.get(kind)
    return found if isinstance(found, dict) else {}


def _named_providers(at: tuple[str, ...], fields: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The providers that a model names, with where it does."""
    for kind in ("targets", "fallback"):
        targets = fields.get(kind) if isinstance(fields, dict) else None
        for number, target in enumerate(targets if isinstance(targets, list) else []):
            name = target.get("provider") if isinstance(target, dict) else None
            if isinstance(name, str):
                yield (*at, kind, number, "provider"), name


def _contradictions(providers: Mapping[str, _Provider], models: Mapping[str, _Model]) -> Iterator[Mistake]:
    """What each value by itself does not show."""
    for name, provider in providers.items():
        yield from _of_provider(("providers", name), provider)
    for pattern, model in models.items():
        path = ("models", pattern, "price")
        if model.price is not None and not model.price.model_fields_set:
            yield path, f"{_place(path)} says nothing"


def _of_provider(at: tuple[str, ...], provider: _Provider) -> Iterator[Mistake]:
    place = _place(at)
    if provider.preset is not None and provider.preset not in PRESETS:
        yield (*at, "preset"), f"{place}.preset {_quoted(provider.preset)} is none of: {', '.join(sorted(PRESETS))}"
        return
    for name in ("preset", "api_version", "token_command"):
        wanted = "compatible" if name == "preset" else "azure"
        if getattr(provider, name) and provider.type != wanted:
            yield (*at, name), f"{place}.{name} is for type {wanted}"
    preset = _preset_of(provider)
    if provider.url is None and preset.url is None:
        kind = f"preset {provider.preset}" if provider.preset else f"type {provider.type}"
        yield at, f"{place}.url is missing: {kind} has no default"
    yield from _of_keys(at, provider, preset)
    if provider.formats is not None and (odd := set(provider.formats) - set(preset.can_speak)):
        yield (*at, "formats"), f"{place}.formats: type {provider.type} does not speak {', '.join(sorted(odd))}"


def _of_keys(at: tuple[str, ...], provider: _Provider, preset: Preset) -> Iterator[Mistake]:
    place, keys = _place(at), provider.api_key or []
    if not keys and not provider.token_command and preset.needs_key:
        yield at, f"{place}.api_key is missing: env:NAME or file:PATH"
    if keys and provider.token_command:
        yield (*at, "token_command"), f"{place}.token_command stands in place of api_key: remove one"


def _preset_of(provider: _Provider) -> Preset:
    return PRESETS[provider.preset] if provider.preset else TYPES[provider.type]


def _spec(name: str, provider: _Provider) -> ProviderSpec:
    preset = _preset_of(provider)
    url = provider.url or preset.url
    assert url is not None
    formats: Sequence[Any] = preset.formats if provider.formats is None else provider.formats
    if provider.api_version is not None and provider.formats is None:
        formats = _OF_DEPLOYMENTS
    field_name: Any = provider.max_tokens_field or preset.max_tokens_field
    return ProviderSpec(
        name=name,
        type=provider.type,
        url=url,
        keys=tuple(_source(text) for text in provider.api_key or []),
        formats=frozenset(formats),
        max_tokens_field=field_name,
        stream_usage=preset.stream_usage if provider.stream_usage is None else provider.stream_usage,
        connect_timeout_seconds=provider.connect_timeout_seconds,
        idle_timeout_seconds=provider.idle_timeout_seconds,
        keepalive_seconds=provider.keepalive_seconds,
        proxy=provider.proxy,
        ca_file=provider.ca_file,
        api_version=provider.api_version,
        token_command=tuple(provider.token_command),
        preset=provider.preset,
        renames_maximum=provider.max_tokens_field is not None or not preset.knows_both,
    )


def _source(text: str) -> KeySource:
    kind, _, place = text.partition(":")
    return KeySource("env" if kind == "env" else "file", place)


def _model(pattern: str, model: _Model) -> ModelSpec:
    price = None if model.price is None else model.price.model_dump(exclude_none=True)
    return ModelSpec(pattern, _targets(model.targets), _targets(model.fallback), price)


def _targets(targets: Sequence[_Target]) -> tuple[TargetSpec, ...]:
    return tuple(TargetSpec(each.provider, each.model, each.weight, each.concurrency) for each in targets)
