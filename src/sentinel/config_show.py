"""`sentinel config show`: what is in force, by setting and by provider, with no secret in it. Decides."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr

from sentinel.config import RateLimits, Settings
from sentinel.egress import parse_proxy
from sentinel.provider_config import ModelSpec, ProviderConfig, ProviderSpec, TargetSpec

_MASKED = "(set)"
_LOGIN = re.compile(r"(?<=//)[^/@\s]*@")


def lines_of(settings: Settings, config: ProviderConfig | None) -> Iterator[str]:
    """A line for each setting, as a `.env` has it; then the providers and models of the file."""
    for name in type(settings).model_fields:
        yield f"{name.upper()}={_text(name, getattr(settings, name), settings)}"
    if config is None:
        return
    for provider in config.providers:
        yield ""
        yield from _of_provider(provider)
    for model in config.models:
        yield ""
        yield from _of_model(model)


def _text(name: str, value: Any, settings: Settings) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return _MASKED
    if isinstance(value, RateLimits):
        windows = [f"{each.dimension}={each.limit}/{each.window_seconds}s" for each in value.windows]
        return ",".join([*windows, *([] if value.concurrency is None else [f"concurrency={value.concurrency}"])])
    if isinstance(value, frozenset):
        return ",".join(sorted(value))
    if isinstance(value, bool):
        return str(value).lower()
    return _LOGIN.sub("***@", str(value)) if name in settings.secrets else str(value)


def _of_provider(spec: ProviderSpec) -> Iterator[str]:
    yield f"[providers.{spec.name}]"
    fields: dict[str, Any] = {
        "type": spec.type,
        "preset": spec.preset,
        "url": spec.url,
        "api_key": [str(source) for source in spec.keys],
        "token_command": [_MASKED] if spec.token_command else [],
        "formats": sorted(spec.formats),
        "max_tokens_field": spec.max_tokens_field,
        "stream_usage": spec.stream_usage,
        "connect_timeout_seconds": spec.connect_timeout_seconds,
        "idle_timeout_seconds": spec.idle_timeout_seconds,
        "keepalive_seconds": spec.keepalive_seconds,
        "proxy": None if spec.proxy is None else parse_proxy(spec.proxy).url,
        "ca_file": spec.ca_file,
        "api_version": spec.api_version,
    }
    for name, value in fields.items():
        if value not in (None, []):
            yield f"{name} = {_toml(value)}"


def _of_model(spec: ModelSpec) -> Iterator[str]:
    yield f"[models.{_toml(spec.pattern)}]"
    yield f"targets = [{', '.join(map(_target, spec.targets))}]"
    if spec.fallback:
        yield f"fallback = [{', '.join(map(_target, spec.fallback))}]"
    if spec.price:
        yield "price = {" + ", ".join(f"{name} = {value}" for name, value in spec.price.items()) + "}"


def _target(target: TargetSpec) -> str:
    fields: dict[str, Any] = {"provider": target.provider, "model": target.model, "weight": target.weight}
    fields["concurrency"] = target.concurrency
    told = ", ".join(f"{name} = {_toml(value)}" for name, value in fields.items() if value is not None)
    return f"{{ {told} }}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
    return str(value)
