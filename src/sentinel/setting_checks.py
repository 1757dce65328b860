"""What gives away a setting that was misspelt or never filled in. Only names and values; config.py reads them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import SequenceMatcher
from urllib.parse import urlsplit

OUR_PREFIXES = ("SENTINEL_", "ZION_", "GOVERNANCE_", "CONSOLE_")
"""Whatever begins like this is meant for us."""

_NOT_SETTINGS = frozenset({"SENTINEL_TOKEN"})
"""Ours, but not read: the greeting of `sentinel dev` has it exported for the commands that it shows."""

_KUBERNETES = re.compile(r"[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
"""What Kubernetes and Docker put into a container for each service: SENTINEL_SERVICE_HOST, ZION_PORT_80_TCP_ADDR."""

KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://\S*", re.IGNORECASE)
"""The value of NAME_PORT for a service called `name`."""

_OF_OTHERS = re.compile(
    r"(OPENAI_(API_BASE|API_TYPE|API_VERSION|BASE_URL|LOG|ORG(ANIZATION)?(_ID)?|PROJECT(_ID)?)|REDIS_TLS_URL|[A-Z]+_PROXY)"
)
"""Close to our names, and read by the OpenAI SDK or other programs, or set by a platform."""

_HARMLESS = re.compile(r"(COMPOSE|DOCKER|BUILDKIT|KUBERNETES|LC|OTEL|PIP|PYTHON|UV)_?\w*|TZ|LANG|PATH|HOME|USER|TAG")
"""Names that stand in a .env for the tools around us."""

_FAMILY, _CLOSE, _VERY_CLOSE = 0.68, 0.78, 0.9
"""How alike first words, and then names, must be; names that are very close need no first word in common."""
_EXAMPLE_HOST = re.compile(r"(?i)(.*\.)?(example\.(org|com|net)|example)\.?|your[-.].*|.*[<>{}].*|.*\.\.+.*")
_PLACEHOLDER = re.compile(
    r"(?i)(sk-)?((replace|change|fill|insert|put)[-_ ]?(me|this|it|in|here)\b.*|your[-_ ].*|my[-_]?(api[-_]?)?key|<.*>|"
    r"\$?{.*}|\.{2,}|x{3,}|\*{3,}|todo|tbd|placeholder|(api[-_]?)?key[-_]?here|example([-_]?key)?)"
)


def misspelt(given: Mapping[str, str], known: Collection[str]) -> dict[str, str]:
    """The names that look like ours and are not, each with a sentence on what is wrong.

    given: names in upper case with their values; known: the names of all settings.
    """
    told = {}
    for name, value in sorted(given.items()):
        if name in known or _is_foreign(name, value):
            continue
        meant = _meant(name, known)
        if meant is not None:
            told[name] = f"{name} is not a setting of Sentinel; did you mean {meant}?"
        elif name.startswith(OUR_PREFIXES):
            told[name] = f"{name} is not a setting of Sentinel; remove it (README.md has them all)"
    return told


def _is_foreign(name: str, value: str) -> bool:
    if name in _NOT_SETTINGS or _KUBERNETES.fullmatch(name) or _OF_OTHERS.fullmatch(name):
        return True
    return name.endswith("_PORT") and KUBERNETES_PORT.fullmatch(value) is not None


def _meant(name: str, known: Collection[str]) -> str | None:
    """The setting that was meant: a part of its words is missing, or most of its letters are the same."""
    longer = [k for k in known if "_" in name and k.startswith(f"{name}_")]
    if longer:
        return min(longer, key=len)
    best = max(known, key=lambda k: _likeness(name, k))
    likeness = _likeness(name, best)
    # APP_LOG_LEVEL and AZURE_OPENAI_API_KEY are somebody else's.
    same_family = _likeness(name.partition("_")[0], best.partition("_")[0]) > _FAMILY
    return best if likeness > _VERY_CLOSE or (likeness >= _CLOSE and same_family) else None


def _likeness(one: str, other: str) -> float:
    """From 0 to 1; 0 also for what is surely not close, which is told fast: an environment may have many names."""
    lengths = len(one), len(other)
    near = one[:1] == other[:1] or abs(lengths[0] - lengths[1]) == 1
    if not near or 2 * min(lengths) < _FAMILY * sum(lengths):
        return 0.0
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return matcher.ratio() if matcher.quick_ratio() > _FAMILY else 0.0


def strangers(names: Collection[str], known: Collection[str]) -> list[str]:
    """Names in a `.env` that have no effect on Sentinel, though the file is its own."""
    others = [name for name in names if name not in known and name not in _NOT_SETTINGS]
    return sorted(name for name in others if not (_HARMLESS.fullmatch(name) or _KUBERNETES.fullmatch(name)))


def is_placeholder(text: str) -> bool:
    """Whether this stands in an example for what should be filled in: `replace-me`, `<your key>`, `sk-...`, `xxx`."""
    return _PLACEHOLDER.fullmatch(text.strip()) is not None


def is_example_host(url: str) -> bool:
    """Whether this is on a host that exists in examples alone (RFC 2606, and `<host>`, `your-host`)."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host is not None and _EXAMPLE_HOST.fullmatch(host) is not None
