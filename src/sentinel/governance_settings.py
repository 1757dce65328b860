"""The settings of the built-in governance (`sentinel governance`, governance/service/), which config.py reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from sentinel.setting_types import AbsentIfEmpty, Authorities, HttpUrl, LogLevel, OwnFile, Port, ProgramSettings, Secret

_DATABASE = "must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME"
_SQLITE = "sqlite:///"


def _database_url(value: str) -> str:
    """As SQLAlchemy takes it. A file in memory would be another database for each process."""
    if value.startswith(_SQLITE):
        path = value.removeprefix(_SQLITE)
        if not path or path.startswith((":", "file:")) or "?" in path:
            raise ValueError(_DATABASE)
        return value
    found = re.fullmatch(r"postgres(?:ql)?(?:\+psycopg)?(://\S+)", value)
    if not found or not urlsplit(value).path.strip("/"):
        raise ValueError(_DATABASE)
    return f"postgresql+psycopg{found[1]}"


def _list(value: Any) -> Any:
    return tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else value


class GovernanceSettings(ProgramSettings):
    """Every setting of the built-in governance. Those that only the service needs are checked where it starts."""

    secrets: ClassVar = ("governance_api_key", "governance_admin_key", "governance_database_url", "admin_key")

    governance_host: str = "127.0.0.1"
    governance_port: Port = 8090
    governance_api_key: Annotated[Secret | None, AbsentIfEmpty] = None
    governance_admin_key: Annotated[Secret | None, AbsentIfEmpty] = None
    governance_database_url: Annotated[str, AfterValidator(_database_url)] = Field(
        default="sqlite:///.sentinel/governance.db", repr=False
    )
    governance_tiers_file: OwnFile = None
    governance_proxies: Annotated[tuple[HttpUrl, ...], NoDecode, BeforeValidator(_list)] = ()
    admin_key: Annotated[Secret | None, AbsentIfEmpty] = None

    oidc_issuer: Annotated[str | None, AbsentIfEmpty] = None
    oidc_audience: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_list)] = ()
    oidc_default_plan: Annotated[str | None, AbsentIfEmpty] = None
    oidc_email_claim: str = Field(default="email", min_length=1)
    oidc_external_id_claim: str = Field(default="sub", min_length=1)
    oidc_plan_claim: Annotated[str | None, AbsentIfEmpty] = None
    oidc_ca_file: Authorities = None

    log_level: LogLevel = "info"

    @property
    def sqlite_file(self) -> Path | None:
        """The file of the database; None where it is PostgreSQL."""
        url = self.governance_database_url
        return Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else None

    def mistakes_of_service(self) -> list[str]:
        """What keeps the service from starting, though commands would work."""
        told = []
        if self.governance_api_key is None:
            told.append("GOVERNANCE_API_KEY is required but not set: proxies show it as their ZION_API_KEY")
        if self.governance_proxies and self.admin_key is None:
            told.append("GOVERNANCE_PROXIES needs ADMIN_KEY, which the proxies have as theirs")
        if self.oidc_issuer and not self.oidc_audience:
            told.append("OIDC_ISSUER needs OIDC_AUDIENCE: a token for another application is none for us")
        if self.oidc_issuer is None:
            given = [name for name in ("oidc_audience", "oidc_default_plan", "oidc_plan_claim") if getattr(self, name)]
            told += [f"{name.upper()} has no effect without OIDC_ISSUER" for name in given]
        return told
