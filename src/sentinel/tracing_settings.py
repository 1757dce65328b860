"""Whether traces are wanted, by the variables that all of OpenTelemetry has (`OTEL_*`), and what of these cannot be.

Only what must be known before the SDK is there; everything else it reads by itself, and what it does not understand is
told as a mistake (observability/tracing.py). An empty value is none. Source: OpenTelemetry's specification,
"Environment Variable Specification" and "OTLP exporter".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

PREFIX = "OTEL_"
EXPORTER, DISABLED = "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"
ENDPOINT, TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROPAGATORS, _OPT_IN = "OTEL_PROPAGATORS", "OTEL_SEMCONV_STABILITY_OPT_IN"
HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
"""They may have keys in them."""

OTLP, NONE = "otlp", "none"
HTTP = "http/protobuf"
OLD_NAMES = "gen_ai/dup"
_PROPAGATED = ("tracecontext", "baggage", "none")

_URL = re.compile(r"https?://[^\s/?#]+\S*", re.IGNORECASE)
_FAMILY = re.compile(r"OTEL_(SDK|SERVICE|TRACES|BSP|EXPORTER_OTLP)_\w+")
_KNOWN = re.compile(
    r"OTEL_(SDK_DISABLED|SERVICE_NAME|TRACES_(EXPORTER|SAMPLER(_ARG)?)"
    r"|BSP_(SCHEDULE_DELAY|EXPORT_TIMEOUT|MAX_QUEUE_SIZE|MAX_EXPORT_BATCH_SIZE)"
    r"|EXPORTER_OTLP_((TRACES|METRICS|LOGS|PROFILES)_)?"
    r"(ENDPOINT|PROTOCOL|HEADERS|TIMEOUT|COMPRESSION|CERTIFICATE|CLIENT_CERTIFICATE|CLIENT_KEY|INSECURE)"
    r"|EXPORTER_OTLP_METRICS_(TEMPORALITY_PREFERENCE|DEFAULT_HISTOGRAM_AGGREGATION))"
)
"""All that there is of these families: another name is a mistyped one."""
_OF_TRACES = re.compile(r"OTEL_(TRACES_SAMPLER|BSP_|EXPORTER_OTLP_TRACES_)\w*")
_WITHOUT_EFFECT = {
    "OTEL_BSP_EXPORT_TIMEOUT": "OTEL_EXPORTER_OTLP_TIMEOUT bounds an export",
    "OTEL_CONFIG_FILE": "traces are set up by variables alone",
}
_LIMITS = re.compile(r"OTEL_((SPAN|EVENT|LINK)_)?(ATTRIBUTE|EVENT|LINK)_(COUNT|VALUE_LENGTH)_LIMIT")


def asked_by(given: Mapping[str, str]) -> str | None:
    """The variable that switches traces on; None where they are off, as they are by default."""
    if given.get(DISABLED, "").strip().lower() == "true" or _word(given, EXPORTER) == NONE:
        return None
    return next((name for name in (EXPORTER, TRACES_ENDPOINT, ENDPOINT) if given.get(name)), None)


def has_old_names(given: Mapping[str, str]) -> bool:
    """Whether attributes are told by the names of earlier conventions, too."""
    return OLD_NAMES in (word.strip() for word in given.get(_OPT_IN, "").split(","))


def mistakes(given: Mapping[str, str]) -> list[str]:
    """What is wrong, where traces are wanted; a line for each, and no value that may be secret."""
    if asked_by(given) is None:
        return []
    told = []
    if _word(given, EXPORTER) not in ("", OTLP):
        told.append(f"{EXPORTER}: must be {OTLP} or {NONE}")
    protocol = next((name for name in _PROTOCOLS if given.get(name)), None)
    if protocol is not None and _word(given, protocol) != HTTP:
        told.append(f"{protocol}: must be {HTTP}, which collectors take on port 4318")
    told += [
        f"{name}: must be an http:// or https:// URL with a host"
        for name in (TRACES_ENDPOINT, ENDPOINT)
        if given.get(name) and not _URL.fullmatch(given[name])
    ]
    return told


def warnings(given: Mapping[str, str]) -> list[str]:
    """What has no effect: a sentence for each."""
    strange = sorted(name for name in given if _FAMILY.fullmatch(name) and not _KNOWN.fullmatch(name))
    told = [f"{name} is no variable of OpenTelemetry's, and has no effect" for name in strange]
    if asked_by(given) is None:
        is_off = DISABLED in given or EXPORTER in given
        vain = [] if is_off else sorted(name for name in given if _OF_TRACES.fullmatch(name) and name not in strange)
        return told + [f"{name} has no effect: {ENDPOINT} switches traces on, and is not set" for name in vain]
    told += [f"{name} has no effect: {why}" for name, why in _WITHOUT_EFFECT.items() if name in given]
    told += [
        f"{name} has no effect: spans have few attributes, and short ones"
        for name in sorted(given)
        if _LIMITS.fullmatch(name)
    ]
    words = [word.strip() for word in given.get(_PROPAGATORS, "").split(",")]
    if others := [word for word in words if word and word not in _PROPAGATED]:
        told.append(f"{', '.join(others)} in {_PROPAGATORS} has no effect: Sentinel knows W3C trace context alone")
    return told


def _word(given: Mapping[str, str], name: str) -> str:
    return given.get(name, "").strip().lower()
