"""Causes of trouble that need no server to be told apart."""

from __future__ import annotations

import socket

import pytest

from sentinel.diagnosis import Subject, reason_of, trouble_of

SUBJECT = Subject("ZION_API_URL", "ZION_API_KEY")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 9), [Errno 111] ..."), "refused"),
        (OSError(113, "No route to host"), "no way leads"),
        (PermissionError(13, "Permission denied"), "may not open"),
        (socket.gaierror(-3, "Temporary failure in name resolution"), "host name"),
        (TimeoutError(), "in time"),
    ],
    ids=["several-addresses", "no-route", "permission", "dns", "time-out"],
)
def test_the_innermost_cause_is_told(error: OSError, said: str) -> None:
    """However deep it lies in the chain."""
    try:
        try:
            raise error
        except OSError as cause:
            raise ValueError("ours") from cause
    except ValueError as ours:
        found = trouble_of(ours, SUBJECT)
    assert found is not None
    assert said in found.said


def test_what_nobody_has_thought_of_has_no_trouble() -> None:
    """The caller says it in its own words, a log line by its name."""
    assert trouble_of(ValueError("odd"), SUBJECT) is None
    assert reason_of(ValueError("odd")) == "ValueError"
