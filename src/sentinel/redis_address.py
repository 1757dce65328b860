"""REDIS_URL taken apart: one parser for all its forms, which obeys an option or refuses it by name.

redis://, rediss://                     one server: [[USER]:PASSWORD@]HOST[:6379][/DB]
redis+cluster://, rediss+cluster://     a node of a cluster, which has no databases: [[USER]:PASSWORD@]HOST[:6379]
redis+sentinel://, rediss+sentinel://   the master behind Sentinels: [[USER]:PASSWORD@]HOST[:26379],HOST.../MASTER[/DB]
unix://                                 a socket: [[USER]:PASSWORD@]/PATH

`rediss` is TLS, also to the Sentinels. User and password are percent-encoded. Options after `?`: username, password and
db say the same in another place; ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs and ssl_check_hostname mean
what they mean to redis-py; sentinel_username and sentinel_password are for the Sentinels themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from sentinel.egress import TlsFiles, authorities_mistake, client_mistake

Kind = Literal["single", "unix", "cluster", "sentinel"]
Host = tuple[str, int]

FORM = (
    "must be redis://HOST:PORT/DB, rediss://..., redis+cluster://..., rediss+cluster://..., unix:///PATH, "
    "redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB or rediss+sentinel://...; "
    "special characters of user and password percent-encoded"
)
_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "unix": ("unix", False),
}
_DEFAULT_PORTS: dict[Kind, int] = {"single": 6379, "unix": 0, "cluster": 6379, "sentinel": 26379}
_OF_SENTINELS = ("sentinel_username", "sentinel_password")
_OF_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_KNOWN_ELSEWHERE = re.compile(r"[a-z]+(_[a-z]+)+|timeout|protocol|db|retry|health|encoding|ssl|tls")
"""Names of options as redis-py and others have them."""
_YES_OR_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:\[\]@/]+))(?::(?P<port>\d{1,5}))?")
_DB = re.compile(r"\d{1,5}")


@dataclass(frozen=True, slots=True)
class Login:
    """A user of Redis, or the default one, with their password."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)


NOBODY = Login()
"""Does not log in."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is. hosts: servers, or Sentinels; path: of a socket; master: its name. tls: None is without TLS."""

    kind: Kind
    hosts: tuple[Host, ...]
    path: str = ""
    master: str = ""
    db: int = 0
    login: Login = NOBODY
    sentinel_login: Login = NOBODY
    tls: TlsFiles | None = None


def parse_redis_url(url: str) -> RedisAddress:
    """Take a URL apart, and look into the files that it names.

    Raises ValueError that lists everything that is wrong, and repeats neither user nor password.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        raise ValueError(FORM)
    kind, tls = _SCHEMES[scheme]
    # urlsplit knows only some schemes' hosts, and no lists of them.
    try:
        parts = urlsplit(f"//{rest}")
    except ValueError:
        raise ValueError(FORM) from None
    userinfo, _, netloc = parts.netloc.rpartition("@")
    options = _Options(parts.query, kind, tls=tls)
    hosts = _hosts(netloc, _DEFAULT_PORTS[kind])
    master, db = _path(kind, parts.path)
    faulty = hosts is None or (kind in ("single", "cluster") and len(hosts) != 1) or (kind == "unix") == bool(netloc)
    if parts.fragment or faulty or db is None or (kind == "unix" and len(parts.path) < 2):
        options.mistakes.insert(0, FORM)
    address = RedisAddress(
        kind,
        hosts or (),
        unquote(parts.path) if kind == "unix" else "",
        master,
        options.database(db or ""),
        options.login(userinfo),
        Login(options.text("sentinel_username"), options.text("sentinel_password")),
        options.tls() if tls else None,
    )
    if kind == "cluster" and address.db:
        options.mistakes.append("a cluster has no database but 0")
    if options.mistakes:
        raise ValueError("; ".join(options.mistakes))
    return address


def _hosts(netloc: str, default_port: int) -> tuple[Host, ...] | None:
    found = [_HOST.fullmatch(part) for part in netloc.split(",")] if netloc else []
    hosts = tuple((m["six"] or unquote(m["name"]), int(m["port"] or default_port)) for m in found if m)
    good = len(hosts) == len(found) and all(0 < port < 65_536 for _, port in hosts)
    return hosts if good else None


def _path(kind: Kind, path: str) -> tuple[str, str | None]:
    """The master's name and the database; None for neither."""
    if kind == "unix":
        return "", ""
    pieces = path.strip("/").split("/")
    master = unquote(pieces.pop(0)) if kind == "sentinel" else ""
    db = pieces.pop(0) if pieces else ""
    good = not pieces and (not db or _DB.fullmatch(db)) and (master or kind != "sentinel")
    return master, db if good else None


class _Options:
    """What stands after the `?`. mistakes: what is wrong with it so far."""

    def __init__(self, query: str, kind: Kind, *, tls: bool) -> None:
        self.mistakes: list[str] = []
        self._values: dict[str, str] = {}
        takes = ("username", "password", "db", *(_OF_SENTINELS if kind == "sentinel" else ()), *_OF_TLS)
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name in self._values:
                self.mistakes.append(f"the option {name} is given twice")
            elif name in _OF_TLS and not tls:
                self.mistakes.append(f"the option {name} needs TLS: rediss:// or the like")
            elif name not in takes:
                self.mistakes.append(f"{_shown(name)} has no effect in Sentinel: remove it")
            self._values[name] = value

    def text(self, name: str) -> str | None:
        """An option, None where it is absent or empty."""
        return self._values.get(name) or None

    def login(self, userinfo: str) -> Login:
        """User and password, from before the host or from options."""
        username, _, password = (unquote(part) for part in userinfo.partition(":"))
        if (username and self.text("username")) or (password and self.text("password")):
            self.mistakes.append("user or password is given twice, before the host and as an option")
        return Login(username or self.text("username"), password or self.text("password"))

    def database(self, from_path: str) -> int:
        """The database, from the path or the option."""
        option = self.text("db")
        if option and from_path:
            self.mistakes.append("the database is given twice, in the path and as the option db")
        if option and not _DB.fullmatch(option):
            self.mistakes.append("the option db must be a number")
            return 0
        return int(option or from_path or 0)

    def tls(self) -> TlsFiles:
        """The files and checks of TLS."""
        require = self.text("ssl_cert_reqs") or "required"
        if require not in ("required", "none"):
            self.mistakes.append("the option ssl_cert_reqs must be required or none")
        check = _YES_OR_NO.get((self.text("ssl_check_hostname") or "true").lower())
        if check is None:
            self.mistakes.append("the option ssl_check_hostname must be true or false")
        tls = TlsFiles(
            self.text("ssl_ca_certs"),
            self.text("ssl_certfile"),
            self.text("ssl_keyfile"),
            verify=require != "none",
            check_hostname=check is not False,
        )
        if tls.ca_file and (reason := authorities_mistake(tls.ca_file)):
            self.mistakes.append(f"the option ssl_ca_certs: {reason}")
        if reason := client_mistake(tls):
            self.mistakes.append(f"the options ssl_certfile, ssl_keyfile: {reason}")
        return tls


def _shown(name: str) -> str:
    """An option by its name, unless it may be part of a password that should have been percent-encoded."""
    return f"the option {name}" if _KNOWN_ELSEWHERE.fullmatch(name) else "an option that it has"
