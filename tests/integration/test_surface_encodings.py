"""Request bodies in a content coding: decoded, counted and sent on as they were before; bounded; refused by name.

About: `proxy/receive.py`.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import brotli
import pytest

from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import CHAT, COMPLETIONS, GENERATE, RESPONSES, STORES, asked, chat, head, post, read_answer
from tests.support.waiting import AT_ONCE_SECONDS
from tests.unit.proxy.test_content_coding import ENCODERS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ACCEPTED = "gzip, deflate, br, zstd"
MEGABYTE = 1 << 20

counted = pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, GENERATE])
metered = pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, GENERATE, STORES])
coded = pytest.mark.parametrize(("coding", "encode"), ENCODERS.values(), ids=ENCODERS)


@pytest.fixture(scope="module")
def sentinel(stack: Stack, provider: ScriptedProvider) -> SentinelProcess:
    return stack.sentinel(OPENAI_API_URL=provider.url, MAX_BODY_BYTES=str(8 * MEGABYTE))


def request(path: str, words: int = 5) -> bytes:
    return json.dumps(asked(path, "word " * words)).encode()


def sent_as_itself(provider: ScriptedProvider, body: bytes) -> bool:
    """Whether the provider was sent just this body, without a word of how it came."""
    call = provider.posts()[-1]
    assert "content-encoding" not in call.headers
    assert call.headers["content-length"] == str(len(body))
    assert call.headers["content-type"] == "application/json"
    return call.raw == body


@counted
@coded
@pytest.mark.parametrize("words", [5, 20_000])
def test_a_coded_body_is_as_good_as_another(
    stack: Stack,
    provider: ScriptedProvider,
    sentinel: SentinelProcess,
    path: str,
    coding: str,
    encode: Callable[[bytes], bytes],
    words: int,
) -> None:
    """Served, sent on decoded, and counted: an answer without usage is billed by our own count of the prompt."""
    email = f"coded-{zlib.crc32(f'{path}{coding}{encode}{words}'.encode())}@corp.test"
    _, token = stack.user(email)
    body = request(path, words)
    provider.says(b'{"choices":[{"message":{"content":"ok"}}]}')
    assert post(sentinel, token, encode(body), path, Content_Encoding=coding).status == 200
    assert sent_as_itself(provider, body)
    assert words <= stack.booked(1, email)["ai_input_tokens"] <= words + 10


@metered
@pytest.mark.parametrize("value", ["identity", "Identity", "IDENTITY", "", " , ", "identity, identity"])
def test_a_coding_that_changes_nothing_is_none(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, path: str, value: str
) -> None:
    """`identity` in any case, and no name at all."""
    provider.says(b'{"choices":[{"message":{"content":"ok"}}]}')
    assert post(sentinel, token, request(path), path, Content_Encoding=value).status == 200
    assert sent_as_itself(provider, request(path))


@metered
@pytest.mark.parametrize("value", ["GZip", "x-gzip", "gzip, identity", "identity,gzip", " gzip ", ",gzip,"])
def test_a_coding_is_read_in_any_spelling(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, path: str, value: str
) -> None:
    """Case, white space, other names, and elements that say nothing."""
    provider.says(b'{"choices":[{"message":{"content":"ok"}}]}')
    assert post(sentinel, token, gzip.compress(request(path)), path, Content_Encoding=value).status == 200
    assert sent_as_itself(provider, request(path))


def test_codings_upon_each_other_in_one_header_or_several(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str
) -> None:
    """The last that is named was put on last."""
    provider.says(b'{"choices":[{"message":{"content":"ok"}}]}')
    body = zstd.compress(gzip.compress(request(CHAT)))
    assert post(sentinel, token, body, Content_Encoding="gzip, zstd").status == 200
    assert sent_as_itself(provider, request(CHAT))
    lines = [f"authorization: Bearer {token}", f"content-length: {len(body)}"]
    with raw_connection(sentinel) as connection:
        connection.sendall(head(headers=[*lines, "content-encoding: gzip", "Content-Encoding: zstd"]) + body)
        assert read_answer(connection).status == 200
    assert sent_as_itself(provider, request(CHAT))


def test_a_stream_may_be_asked_for_in_a_coding(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str
) -> None:
    """What must be added is added to what was decoded."""
    provider.streams(b"data: [DONE]\n\n")
    body = zstd.compress(json.dumps(chat(stream=True)).encode())
    assert post(sentinel, token, body, Content_Encoding="zstd").status == 200
    call = provider.posts()[-1]
    assert call.body == chat(stream=True, stream_options={"include_usage": True})


def test_a_tiny_zstd_body_keeps_its_literals_and_is_decoded_all_the_same(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str
) -> None:
    """Its JSON stands there readable, between a frame's head and end: that is no reason to take it for JSON."""
    provider.says(b'{"choices":[{"message":{"content":"ok"}}]}')
    body = b'{"model":"m","messages":[]}'
    assert body in zstd.compress(body)
    assert post(sentinel, token, zstd.compress(body), Content_Encoding="zstd").status == 200
    assert sent_as_itself(provider, body)


@counted
@coded
@pytest.mark.parametrize("broken", ["cut", "flipped", "followed", "not at all", "empty"])
def test_a_body_that_is_not_what_it_says_is_400(
    provider: ScriptedProvider,
    sentinel: SentinelProcess,
    token: str,
    path: str,
    coding: str,
    encode: Callable[[bytes], bytes],
    broken: str,
) -> None:
    """Naming the header and the coding; the provider hears nothing."""
    body, before = encode(request(path)), len(provider.posts())
    wrong = {
        "cut": body[:-1],
        "flipped": b"\xff" * 8 + body[8:],
        "followed": body + b"{}",
        "not at all": request(path),
        "empty": b"",
    }[broken]
    answer = post(sentinel, token, wrong, path, Content_Encoding=coding)
    assert answer.is_error(400, "invalid_json", param="content-encoding")
    assert coding in answer.error["message"]
    assert len(provider.posts()) == before


@metered
@pytest.mark.parametrize("value", ["foo", "compress", "gzip, foo", "gzip;q=1", "*", "br, br, br, br"])
def test_another_coding_is_415_and_says_which_would_do(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, path: str, value: str
) -> None:
    """RFC 9110, 15.5.16: the answer names the codings that are accepted."""
    before = len(provider.posts())
    answer = post(sentinel, token, request(path), path, Content_Encoding=value)
    assert answer.is_error(415, "unsupported_encoding", param="content-encoding")
    assert answer.headers["accept-encoding"] == ACCEPTED
    assert len(provider.posts()) == before


def test_an_unknown_coding_is_refused_before_the_body_has_come(sentinel: SentinelProcess, token: str) -> None:
    """Nothing of it would be of use."""
    with raw_connection(sentinel) as connection:
        lines = [f"authorization: Bearer {token}", "content-length: 1000", "content-encoding: foo"]
        connection.sendall(head(headers=lines))
        assert read_answer(connection, AT_ONCE_SECONDS).is_error(415, "unsupported_encoding", param="content-encoding")


def test_a_stranger_learns_nothing_of_codings(sentinel: SentinelProcess) -> None:
    """401 comes first."""
    assert post(sentinel, None, b"x", Content_Encoding="foo").is_error(401, "missing_api_key")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw deflate", "br", "zstd"])
def test_a_bomb_is_413_in_bounded_memory(stack: Stack, sentinel: SentinelProcess, token: str, coding: str) -> None:
    """A gigabyte in at most a megabyte: refused for a second of work, and no more memory than the limit allows."""
    name, encode = ENCODERS[coding]
    # Of some codings several make one.
    parts = 32 if name in ("gzip", "zstd") else 1
    bomb = encode(b"\0" * (1024 // max(parts, 4) * MEGABYTE)) * parts
    assert len(bomb) < 2 * MEGABYTE
    before, worked = peak_bytes(sentinel), cpu_seconds(sentinel)
    for _ in range(3):
        assert post(sentinel, token, bomb, Content_Encoding=name).is_error(413, "request_too_large")
    assert cpu_seconds(sentinel) - worked < 3
    assert peak_bytes(sentinel) - before < 3 * 8 * MEGABYTE + 16 * MEGABYTE


def cpu_seconds(sentinel: SentinelProcess) -> float:
    """What the process has worked: on a busy machine its answers come late all the same."""
    fields = Path(f"/proc/{sentinel.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(sentinel: SentinelProcess) -> int:
    status = Path(f"/proc/{sentinel.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "deflate, stored"])
def test_the_limit_is_for_what_comes_out(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, name: str
) -> None:
    """The largest body passes in any coding, and one byte more does not; stored, it is too large as it comes."""
    coding, encode = ENCODERS[name]
    provider.says(b'{"choices":[{"message":{"content":"ok"}}]}')
    body = request(CHAT)
    full = body + b" " * (8 * MEGABYTE - len(body))
    assert post(sentinel, token, encode(full), Content_Encoding=coding).status == 200
    assert post(sentinel, token, encode(full + b" "), Content_Encoding=coding).is_error(413, "request_too_large")


def test_refused_codings_cost_nothing(stack: Stack, provider: ScriptedProvider, sentinel: SentinelProcess) -> None:
    """After all of these only the good request is booked."""
    provider.says(b'{"choices":[{"message":{"content":"ok"}}]}')
    _, token = stack.user("odd-codings@corp.test")
    for body, coding, status in (
        (b"x", "foo", 415),
        (b"x", "gzip", 400),
        (brotli.compress(b"\0" * (9 * MEGABYTE)), "br", 413),
        (brotli.compress(b"{"), "br", 400),
        (brotli.compress(request(CHAT)), "br", 200),
    ):
        assert post(sentinel, token, body, Content_Encoding=coding).status == status
    assert stack.booked(1, "odd-codings@corp.test")["ai_requests"] == 1
