"""Where a request belongs, as W3C Trace Context has it, and what its providers are told."""

from __future__ import annotations

import re

import pytest

from sentinel.proxy.trace import NOWHERE, Parent, Place, Trace, new_span_id, new_trace_id, parent_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = Parent(int(TRACE, 16), int(SPAN, 16), 1)


@pytest.mark.parametrize(
    ("header", "parent"),
    [
        (f"00-{TRACE}-{SPAN}-01", PARENT),
        (f"00-{TRACE}-{SPAN}-03", PARENT._replace(flags=3)),
        # A version to come may have more behind what we know.
        (f"cc-{TRACE}-{SPAN}-01", PARENT),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-has", PARENT),
        (f"cc-{TRACE}-{SPAN}-01.what", None),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        (f"00-{TRACE}-{SPAN}", None),
        # Two headers of the name are one list.
        (f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        ("", None),
    ],
)
def test_what_a_client_says(header: str, parent: Parent | None) -> None:
    """What is not valid is as if nothing was said."""
    assert parent_of(header.encode()) == parent


def test_ids_are_never_zero_and_differ() -> None:
    """Zero means that there is none."""
    assert len({new_trace_id() for _ in range(100)} | {new_span_id() for _ in range(100)}) == 200


def test_each_request_to_a_provider_has_its_own_id() -> None:
    """It is told the last one, with what others have added."""
    trace = Trace(PARENT.trace_id, 1, PARENT.span_id, 3, "vendor=1")
    told = []
    for _ in range(2):
        trace.goes_to(NOWHERE, "openai", "m", 0.0, is_translated=False)
        told.append(trace.header_lines())
    form = rb"traceparent: 00-%b-([0-9a-f]{16})-03\r\ntracestate: vendor=1\r\n" % TRACE.encode()
    found = [re.fullmatch(form, lines) for lines in told]
    assert [int(each[1], 16) for each in found if each] == [sent.span_id for sent in trace.sent]
    assert (trace.id, trace.span) == (TRACE, "0000000000000001")


def test_of_endless_requests_the_last_are_kept() -> None:
    """A WebSocket may stay for days."""
    trace = Trace(1, 1, 0, 1)
    for number in range(1000):
        trace.goes_to(NOWHERE, str(number), "", 0.0, is_translated=False)
    assert len(trace.sent) == 32
    assert trace.sent[-1].provider == "999"


def test_what_is_below_a_request() -> None:
    """The same trace, and a span of its own that knows over which socket it goes."""
    above = Trace(7, 8, 9, 1, "a=b")
    handshake = above.goes_to(NOWHERE, "openai", "", 0.0, is_translated=False)
    below = above.below()
    assert (below.trace_id, below.parent_id, below.flags, below.state, below.is_remote) == (7, 8, 1, "a=b", False)
    assert below.span_id != above.span_id
    assert (below.over, below.sent) == (handshake, [])


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://api.openai.com/v1", ("x", "api.openai.com", 443)),
        ("http://[::1]:9000", ("x", "::1", 9000)),
        ("http://user:pw@vllm/v1", ("x", "vllm", 80)),
    ],
)
def test_where_a_provider_is(url: str, place: tuple[str, str, int]) -> None:
    """Host and port, and nothing that may be a secret."""
    assert Place.of("x", url) == place
