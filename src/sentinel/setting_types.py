"""Types of settings that several programs of ours have: what a single value must be, and what is said if it is not.

What is only for one program stands beside its settings (config.py, governance_settings.py).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from sentinel.egress import authorities_mistake
from sentinel.setting_checks import KUBERNETES_PORT, is_example_host, is_placeholder

PLACEHOLDER = "is a placeholder: fill in the real value"
EXAMPLE_HOST = "is an example's host: fill in the real one"


def _http_url(value: str) -> str:
    # A password in the URL would become an Authorization header beside ours.
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value) or not _has_host(value):
        raise ValueError("must be an http:// or https:// URL with a host, a port up to 65535, no password and no query")
    if is_example_host(value):
        raise ValueError(EXAMPLE_HOST)
    return value.rstrip("/")


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _header_safe(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
        raise ValueError("must be non-empty and have only visible ASCII characters")
    if is_placeholder(value.get_secret_value()):
        raise ValueError(PLACEHOLDER)
    return value


def _of_kubernetes(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str) and KUBERNETES_PORT.fullmatch(value.strip()):
        name = str(info.field_name)
        raise ValueError(
            f"is what Kubernetes sets for a Service named {name.partition('_')[0]}; "
            f"give the container its own {name.upper()}, or set enableServiceLinks: false for the pod"
        )
    return value


def _authorities(path: str | None) -> str | None:
    if path and (reason := authorities_mistake(path)):
        raise ValueError(reason)
    return path


def _absent_if_empty(value: Any) -> Any:
    return None if value == "" else value


def _in_lower_case(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


HttpUrl = Annotated[str, AfterValidator(_http_url)]
Secret = Annotated[SecretStr, AfterValidator(_header_safe)]
Port = Annotated[int, BeforeValidator(_of_kubernetes), Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=31 * 86400, allow_inf_nan=False)]
AnyCase = BeforeValidator(_in_lower_case)
AbsentIfEmpty = BeforeValidator(_absent_if_empty)
OwnFile = Annotated[str | None, AbsentIfEmpty]
Authorities = Annotated[str | None, AbsentIfEmpty, AfterValidator(_authorities)]
Proxy = Annotated[SecretStr | None, AbsentIfEmpty]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], AnyCase]


class ProgramSettings(BaseSettings):
    """The settings of one program, each of the name of its field in upper case.

    secrets: fields that may hold one; such a value can be in a file that NAME_FILE names.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8-sig",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )
    secrets: ClassVar[tuple[str, ...]] = ()
