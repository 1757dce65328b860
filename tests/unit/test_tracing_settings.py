"""What OpenTelemetry's variables switch on, and which of them cannot be (`tracing_settings.py`)."""

from __future__ import annotations

import pytest
from opentelemetry import environment_variables as api
from opentelemetry.sdk import environment_variables as sdk

from sentinel.tracing_settings import asked_by, has_old_names, mistakes, warnings

ON = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "edge", "OTEL_METRICS_EXPORTER": "otlp"}, None),
        (ON, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({**ON, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "OTEL_TRACES_EXPORTER"),
        ({**ON, "OTEL_TRACES_EXPORTER": "None"}, None),
        ({**ON, "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({**ON, "OTEL_SDK_DISABLED": "1"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ],
)
def test_what_switches_traces_on(given: dict[str, str], name: str | None) -> None:
    """An exporter or an address, unless they are switched off."""
    assert asked_by(given) == name


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, ["OTEL_TRACES_EXPORTER: must be otlp or none"]),
        (
            {**ON, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            ["OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf, which collectors take on port 4318"],
        ),
        ({**ON, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, []),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://"},
            [
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: must be an http:// or https:// URL with a host",
                "OTEL_EXPORTER_OTLP_ENDPOINT: must be an http:// or https:// URL with a host",
            ],
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "HTTPS://key:secret@host/otlp?x=y"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "nonsense", "OTEL_SDK_DISABLED": "true"}, []),
    ],
)
def test_what_is_wrong(given: dict[str, str], told: list[str]) -> None:
    """Only where traces are wanted, and without the value."""
    assert mistakes(given) == told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"OTEL_TRACES_SAMPLER": "always_on"},
            ["OTEL_TRACES_SAMPLER has no effect: OTEL_EXPORTER_OTLP_ENDPOINT switches traces on, and is not set"],
        ),
        ({"OTEL_TRACES_SAMPLER": "always_on", "OTEL_TRACES_EXPORTER": "none"}, []),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPIONT": "http://c",
                "OTEL_TRACES_SAMPLR": "x",
                "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "1",
            },
            [
                "OTEL_EXPORTER_OTLP_ENDPIONT is no variable of OpenTelemetry's, and has no effect",
                "OTEL_TRACES_SAMPLR is no variable of OpenTelemetry's, and has no effect",
            ],
        ),
        (
            {**ON, "OTEL_BSP_EXPORT_TIMEOUT": "5", "OTEL_CONFIG_FILE": "otel.yaml"},
            [
                "OTEL_BSP_EXPORT_TIMEOUT has no effect: OTEL_EXPORTER_OTLP_TIMEOUT bounds an export",
                "OTEL_CONFIG_FILE has no effect: traces are set up by variables alone",
            ],
        ),
        (
            {**ON, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "5"},
            ["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT has no effect: spans have few attributes, and short ones"],
        ),
        (
            {**ON, "OTEL_PROPAGATORS": "tracecontext, baggage,b3 ,jaeger"},
            ["b3, jaeger in OTEL_PROPAGATORS has no effect: Sentinel knows W3C trace context alone"],
        ),
        ({**ON, "OTEL_PROPAGATORS": "tracecontext,baggage", "OTEL_SERVICE_NAME": "x"}, []),
    ],
)
def test_what_has_no_effect(given: dict[str, str], told: list[str]) -> None:
    """It is said, for it may have been meant to have one."""
    assert warnings(given) == told


def test_what_the_sdk_knows_is_known() -> None:
    """No variable of its own is told as a mistyped one."""
    names = {name for module in (sdk, api) for name in vars(module) if name.startswith("OTEL_")}
    assert len(names) > 50
    assert not [told for told in warnings(dict.fromkeys(names, "otlp")) if "is no variable" in told]


def test_old_names() -> None:
    """Among the words that are for other programs."""
    assert has_old_names({"OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup, gen_ai/dup"})
    assert not has_old_names({"OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental"})
    assert not has_old_names({})
