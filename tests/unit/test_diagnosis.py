"""Causes of trouble that need no server to be told apart."""

from __future__ import annotations

import socket
import ssl

import hiredis
import pytest

from sentinel.diagnosis import Subject, plain, reason_of, trouble_of, trouble_of_answer

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


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b" {}", None),
        (200, b"[1]", None),
        (200, b"hello", "not with JSON"),
        (200, b"\n<html>", "web page"),
        (401, b"<html>", "our key"),
        (302, b"", "elsewhere"),
        (404, b"{}", "the path"),
        (407, b"{}", "a login"),
        (429, b"{}", "no more requests"),
        (503, b"{}", "but fails"),
        (418, b"{}", "status 418"),
    ],
)
def test_an_answer_tells_what_is_wrong(status: int, body: bytes, said: str | None) -> None:
    """By its status and its first bytes; the remedy names the setting or the key that is to be corrected."""
    found = trouble_of_answer(status, body, SUBJECT)
    assert (found is None) is (said is None)
    if found is not None:
        assert said is not None
        assert said in found.said
        assert "{" not in found.remedy


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("NOAUTH Authentication required.", "wants a password"),
        ("ERR unknown command 'FCALL', with args beginning with: ", "does not know a command"),
        ("EXECABORT Transaction discarded", "refuses a command (EXECABORT)"),
        ("no word of Redis'", "refuses a command (ERR)"),
    ],
)
def test_what_redis_says_is_told_by_its_kind(reply: str, said: str) -> None:
    """Never by its text, which may hold keys and names."""
    assert said in reason_of(hiredis.ReplyError(reply))


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        ("ERR unknown command 'fcall', with args beginning with: 'secret'", "ERR unknown command 'FCALL'"),
        ("NOPERM User x has no permissions to run the 'config|get' command", "NOPERM 'CONFIG|GET'"),
        ("WRONGTYPE Operation against a key", "WRONGTYPE"),
        ("sentinel:secret is odd", "ERR"),
    ],
)
def test_what_a_call_was_about_is_left_out(reply: str, kept: str) -> None:
    """Its kind stays, and the command that it names."""
    assert str(plain(hiredis.ReplyError(reply))) == kept


def _tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


def _certificate(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "no")
    error.verify_code = code
    return error


class Told(Exception):
    """An error of a library that tells its causes in words alone."""

    def __init__(self, *causes: str) -> None:
        super().__init__("no")
        self.details = {"causes": [{"message": cause} for cause in causes]}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (_certificate(10), "expired"),
        (_certificate(62), "another host name"),
        (_certificate(20), "an authority"),
        (_tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "a certificate of ours"),
        (_tls("WRONG_VERSION_NUMBER"), "does not speak TLS"),
        (_tls("NO_SHARED_CIPHER"), "cannot be agreed on"),
        (ConnectionResetError(), "closes the connection"),
        (BrokenPipeError(), "closes the connection"),
        (hiredis.ProtocolError("no"), "another protocol"),
        (Told("error", "DNS error: no such host"), "host name"),
        (Told("tunnel error: unsuccessful"), "does not let us through"),
    ],
)
def test_libraries_tell_their_causes(error: Exception, said: str) -> None:
    """TLS by its codes, the HTTP library in words."""
    assert said in reason_of(error)


def test_words_that_are_not_known_are_no_trouble() -> None:
    """Nor is an error of the operating system that has no number."""
    assert trouble_of(Told("odd"), SUBJECT) is None
    assert trouble_of(OSError("odd"), SUBJECT) is None
