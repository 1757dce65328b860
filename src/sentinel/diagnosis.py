"""Why something outside cannot be used, in words, and what to do: from the errors of sockets, TLS, HTTP and Redis.

Only the kind of an error decides, never what a server wrote: that may hold keys of Redis, and names in them.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import hiredis

Cause = Literal[
    "dns", "refused", "unreachable", "no_socket", "forbidden", "timeout", "closed", "protocol",
    "untrusted", "expired", "not_yet", "wrong_name", "wants_certificate", "no_tls", "tls", "proxy",
]  # fmt: skip

_TABLE: dict[Cause, tuple[str, str]] = {
    "dns": ("the host name is not known", "correct the host in {setting}, or mend name resolution"),
    "refused": ("nobody listens there (connection refused)", "start it, or correct host and port in {setting}"),
    "unreachable": ("no way leads to that host", "check the network, and the host in {setting}"),
    "no_socket": ("there is no such socket", "start it, or correct the path in {setting}"),
    "forbidden": ("we may not open that socket", "give Sentinel's user access to it"),
    "timeout": ("no answer in time", "check host and port in {setting}, and any firewall between"),
    "untrusted": (
        "its certificate is from an authority that is not known here",
        "make that authority known ({authorities})",
    ),
    "expired": ("its certificate has expired", "have it renewed there; or correct the clock of this machine"),
    "not_yet": ("its certificate is not valid yet", "correct the clock of this machine"),
    "wrong_name": ("its certificate is for another host name", "use a name in {setting} that its certificate has"),
    "wants_certificate": ("it wants a certificate of ours", "give it one, or turn that off there"),
    "no_tls": ("it does not speak TLS at that port", "use {plain}:// or another port in {setting}"),
    "tls": ("TLS cannot be agreed on", "check the versions and ciphers that it takes"),
    "proxy": ("the proxy does not let us through", "check what it permits, and user and password in its address"),
    "closed": ("it closes the connection without an answer", "check the port in {setting}; with TLS it is {tls}://"),
    "protocol": ("what answers there speaks another protocol", "check the port in {setting}; with TLS it is {tls}://"),
}
"""Each cause: what is said, and what to do about it."""

_CERTIFICATES: dict[int, Cause] = {9: "not_yet", 10: "expired", 62: "wrong_name", 64: "wrong_name"}
"""OpenSSL's X509_V_ERR_*; all others are about the authority."""

_ERRNOS: dict[int, Cause] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "closed",
    errno.EPIPE: "closed",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ETIMEDOUT: "timeout",
    errno.ENOENT: "no_socket",
    errno.EACCES: "forbidden",
}

_PHRASES: dict[str, Cause] = {
    "tunnel error: unsuccessful": "proxy",
    "proxy authorization required": "proxy",
    "dns error": "dns",
    "connection refused": "refused",
    "unreachable": "unreachable",
    "timed out": "timeout",
    "unknownissuer": "untrusted",
    "not valid for name": "wrong_name",
    "notvalidforname": "wrong_name",
    "certificate expired": "expired",
    "not valid yet": "not_yet",
    "certificaterequired": "wants_certificate",
    "invalidcontenttype": "no_tls",
    "invalid peer certificate": "untrusted",
    "connection reset": "closed",
    "connection closed": "closed",
    "invalid http": "protocol",
}
"""What pyreqwest, which tells its causes in words alone, says of each. The first that fits counts."""

_NO_COMMAND = ("does not know a command of ours", "use Redis 7.0 or later, and rename no command")
_NO_RIGHTS = ("does not permit what we do", "give our user the rights in docs/redis.md")
_REPLIES = {
    "WRONGPASS": ("does not take our password", "correct user and password in REDIS_URL"),
    "NOAUTH": ("wants a password", "put it into REDIS_URL: redis://:PASSWORD@HOST:PORT"),
    "ERR AUTH": ("has no password, and we sent one", "take the password out of REDIS_URL, or set it in Redis"),
    "NOPERM": _NO_RIGHTS,
    "ERR ACL failure in script": _NO_RIGHTS,
    "ERR The user executing the script": _NO_RIGHTS,
    "DENIED": ("takes no connections from other machines (protected mode)", "set a password in Redis"),
    "LOADING": ("is still loading its data", "wait until it has"),
    "MOVED": ("is a node of a cluster", "use redis+cluster:// in REDIS_URL"),
    "CLUSTERDOWN": ("is a cluster that is down", "look at CLUSTER INFO"),
    "READONLY": ("is a replica", "name the master in REDIS_URL, or use redis+sentinel://"),
    "MASTERDOWN": ("is a replica without its master", "name the master in REDIS_URL, or use redis+sentinel://"),
    "MISCONF": ("cannot write to its disk", "see Redis' log; its disk may be full"),
    "OOM": ("has no memory left", "raise maxmemory"),
    "NOREPLICAS": ("has too few replicas in step (min-replicas-to-write)", "look at its replicas"),
    "ERR unknown command": _NO_COMMAND,
    "ERR Unknown Redis command": _NO_COMMAND,
    "ERR DB index": ("has no database of that number", "correct the number at the end of REDIS_URL"),
}
"""What Redis says, by its beginning."""


_KIND = re.compile(r"[A-Z]{2,20}")
_NAMED = re.compile(r"(?:unknown command [`']|permissions to run the ')([A-Za-z]{2,20}(?:\|[a-z]{2,20})?)'")
"""A command that Redis does not know, or may not run, as it names it; our own words, for it was we who sent it."""

_STATUSES = (
    ((401, 403), "does not take our key", "correct {key}"),
    ((404, 405, 410), "does not know the path we ask for", "correct the path in {setting}"),
    ((407,), "is behind a proxy that wants a login", "give the proxy's address a user and password"),
    ((429,), "takes no more requests from us now", "wait; or look at the limits of our account there"),
    (range(500, 600), "is there, but fails", "look at its own log; it may be starting, or overloaded"),
)
"""Answers other than 200: what is said of them, and what to do."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong, and what to do."""

    said: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at. setting: the one that has its address; key: the one that has ours there.

    authorities: how others than the system's are named; plain, tls: the schemes of its URL without and with TLS.
    """

    setting: str
    key: str = ""
    authorities: str = "SSL_CERT_FILE"
    plain: str = "http"
    tls: str = "https"


def trouble_of(error: BaseException, subject: Subject) -> Trouble | None:
    """The trouble behind an error, found in the chain of its causes; None where nothing is known of it."""
    for link in _chain(error):
        if isinstance(link, hiredis.ReplyError):
            return _of_reply(str(link))
        if (cause := _cause(link)) is not None:
            return trouble(cause, subject)
    return None


def trouble(cause: Cause, subject: Subject) -> Trouble:
    """The words for a cause."""
    said, remedy = _TABLE[cause]
    return Trouble(
        said,
        remedy.format(setting=subject.setting, authorities=subject.authorities, plain=subject.plain, tls=subject.tls),
    )


def trouble_of_answer(status: int, body: bytes, subject: Subject) -> Trouble | None:
    """The trouble behind an answer to a GET that should have been JSON; None for one that is."""
    if body.lstrip().startswith(b"<") and status not in (401, 403):
        return Trouble(f"answers with a web page (status {status})", f"correct {subject.setting}: no API is there")
    if status == 200:
        is_json = body.lstrip()[:1] in (b"{", b"[")
        return None if is_json else Trouble("answers, but not with JSON", f"correct host and path in {subject.setting}")
    if 300 <= status < 400:
        return Trouble(f"sends us elsewhere (status {status})", f"put the address it leads to into {subject.setting}")
    for statuses, said, remedy in _STATUSES:
        if status in statuses:
            return Trouble(f"{said} (status {status})", remedy.format(setting=subject.setting, key=subject.key))
    return Trouble(f"answers with status {status}", f"check {subject.setting}")


def reason_of(error: BaseException) -> str:
    """The same for a log line: a few words."""
    trouble = trouble_of(error, Subject("REDIS_URL"))
    return trouble.said if trouble is not None else type(error).__name__


def plain(error: Exception) -> hiredis.ReplyError:
    """An answer of Redis without what only this one call was about: its kind, and a command that it names."""
    reply = str(error)
    kind = next((start for start in _REPLIES if reply.startswith(start)), None) or _first_word(reply)
    named = _NAMED.search(reply)
    return hiredis.ReplyError(f"{kind} '{named[1].upper()}'" if named else kind)


def _first_word(reply: str) -> str:
    """The kind of an error that is not known here."""
    word = reply.partition(" ")[0]
    return word if _KIND.fullmatch(word) else "ERR"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, the innermost first: it was there where things went wrong."""
    if error is not None:
        yield from _chain(error.__cause__)
        yield error


def _of_reply(reply: str) -> Trouble:
    for start, (said, remedy) in _REPLIES.items():
        if reply.startswith(start):
            return Trouble(said, remedy)
    return Trouble(f"refuses a command ({_first_word(reply)})", "see its log")


def _cause(error: BaseException) -> Cause | None:
    match error:
        case ssl.SSLCertVerificationError():
            return _CERTIFICATES.get(error.verify_code, "untrusted")
        case ssl.SSLError():
            return _of_tls(error)
        case socket.gaierror():
            return "dns"
        case TimeoutError():
            return "timeout"
        case ConnectionResetError() | BrokenPipeError():
            return "closed"
        case OSError():
            return _ERRNOS.get(error.errno or _errno_told(str(error)))
        case hiredis.ProtocolError():
            return "protocol"
    return _of_words(error)


def _errno_told(text: str) -> int:
    """That of the first of several addresses, of which asyncio tells in words alone."""
    told = re.search(r"\[Errno (\d+)\]", text)
    return int(told[1]) if told else 0


def _of_tls(error: ssl.SSLError) -> Cause:
    reason = error.reason or ""
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return "wants_certificate"
    # What does not speak TLS answers with bytes that are no record, or hangs up.
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING", "HTTP_REQUEST"):
        return "no_tls"
    return "tls"


def _of_words(error: BaseException) -> Cause | None:
    details = getattr(error, "details", None)
    causes = details.get("causes") if isinstance(details, dict) else None
    words = " / ".join(str(cause["message"]) for cause in causes or ()).lower()
    return next((cause for phrase, cause in _PHRASES.items() if phrase in words), None)
