"""Spans on the wire; the SDK's own encoder is the oracle."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from sentinel.observability.otlp import Encoder

RESOURCE = Resource({"service.name": "sentinel", "long": "x" * 300}, "https://schema.test/1")
SCOPE = InstrumentationScope("sentinel", "1.2", "https://schema.test/2")

# Around 128 the lengths of lengths change.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.integers(90, 140).map("é".__mul__)
VALUES: st.SearchStrategy[Any] = st.one_of(
    TEXTS,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(TEXTS, max_size=3).map(tuple),
)
TIMES = st.integers(0, 2**64 - 1)


@st.composite
def spans(draw: st.DrawFn) -> ReadableSpan:
    trace, flags = draw(st.integers(1, 2**128 - 1)), TraceFlags(1)
    state = draw(st.sampled_from([None, TraceState([("a", "1"), ("b", "2")])]))
    parent = draw(st.none() | st.builds(SpanContext, st.just(trace), st.integers(1, 2**64 - 1), st.booleans()))
    return ReadableSpan(
        draw(TEXTS.filter(bool)),
        SpanContext(trace, draw(st.integers(1, 2**64 - 1)), False, flags, state),
        parent,
        RESOURCE,
        draw(st.dictionaries(st.text("abc.", min_size=1, max_size=90), VALUES, max_size=30)),
        kind=draw(st.sampled_from([SpanKind.SERVER, SpanKind.CLIENT])),
        status=draw(st.sampled_from([Status(StatusCode.UNSET), Status(StatusCode.ERROR)])),
        start_time=draw(TIMES.filter(bool)),
        end_time=draw(TIMES.filter(bool)),
        instrumentation_scope=SCOPE,
    )


@given(st.lists(spans(), min_size=1, max_size=5))
def test_the_bytes_are_those_of_the_sdk(some: list[ReadableSpan]) -> None:
    """Of any spans as we have them."""
    assert Encoder(some[0]).encoded(some) == encode_spans(some).SerializeToString()


def test_without_schemas() -> None:
    """A field that is empty is not written."""
    span = ReadableSpan("a", SpanContext(1, 1, False), resource=Resource({}), start_time=1, end_time=2)
    assert Encoder(span).encoded([span]) == encode_spans([span]).SerializeToString()


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb" * 100])
def test_half_a_character_spoils_no_batch(text: str) -> None:
    """What cannot be written in UTF-8 is `?`."""
    span = ReadableSpan(text, SpanContext(1, 1, False), resource=Resource({}), attributes={"a": text, "b": (text,)})
    example = ReadableSpan("", SpanContext(1, 1, False), resource=Resource({}))
    read = ExportTraceServiceRequest.FromString(Encoder(example).encoded([span]))
    (seen,) = read.resource_spans[0].scope_spans[0].spans
    expected = text.encode("utf-8", "replace").decode()
    assert [seen.name, seen.attributes[0].value.string_value] == [expected] * 2
