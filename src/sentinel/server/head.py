"""What a request head must be, and what an application is told of it. Plain values in, plain values out."""

from __future__ import annotations

import re
from urllib.parse import unquote

import httptools

from sentinel.error import Header

MOST_HEAD_BYTES = 64 * 1024
"""Request line and headers together. nginx takes 32 KB, and no JWT that anybody uses is over 16 KB."""

_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+;=:\[\]]*")
"""A host and its port (RFC 9110, 7.2), as far as characters go; a comma is one in names alone, and for two hosts."""


def size_of(url: bytes, headers: list[Header]) -> int:
    """The bytes of a head; its method and version, and the blanks within, are left out."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def names_one_host(hosts: list[bytes], version: str) -> bool:
    """Whether these `Host` headers are what a request must have: one. HTTP/1.0 may go without. RFC 9112, 3.2."""
    if not hosts:
        return version == "1.0"
    return len(hosts) == 1 and _HOST.fullmatch(hosts[0]) is not None


def target_of(url: bytes) -> tuple[str, bytes, bytes]:
    """A request's target as ASGI has it: `path` (decoded), `raw_path`, `query_string`.

    Raises httptools.HttpParserInvalidURLError, and UnicodeDecodeError for a path that is not ASCII.
    """
    if url.startswith(b"/") and b"#" not in url:
        raw_path, _, query = url.partition(b"?")
    else:
        parsed = httptools.parse_url(url)
        raw_path, query = parsed.path, parsed.query or b""
    path = raw_path.decode("ascii")
    return unquote(path) if "%" in path else path, raw_path, query


def path_in(url: bytes) -> str:
    """The path of a target that may be unfinished or malformed; empty where there is none yet."""
    return unquote(url.partition(b"?")[0].decode("latin-1"))
