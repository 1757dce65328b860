"""A provider that streams: each stream gets a chunk every so often, with the moment of its sending inside.

Usage: python -m bench.stream_server PORT CHUNKS_PER_SECOND. One ticker serves all streams, spread evenly, so that the
provider never limits: about 5 us a chunk. A stream ends when the client leaves. GET /v1/models answers, too.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from typing import cast

import uvloop

from bench import messages

TICK_SECONDS = 0.002
STAMP = b'"fp_'
STAMP_DIGITS = 16

_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nx-request-id: req_5d1fd1b8c7b64e0f9a3c\r\n"
    b"openai-processing-ms: 212\r\nopenai-version: 2020-10-01\r\ntransfer-encoding: chunked\r\n\r\n"
)
_MODELS = b'{"object":"list","data":[{"id":"%b","object":"model"}]}' % messages.MODEL.encode()
_WORDS = [b" " + word.encode() for word in messages.ANSWER.split() if word.isalpha()]


def _frames_of(path: str) -> list[tuple[bytes, bytes]]:
    """The same without stamps, in the format of another path: events as large as their providers' are."""
    frames = []
    for number, word in enumerate(_WORDS):
        if path == messages.RESPONSES:
            data = (
                b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%d,'
                b'"item_id":"msg_0c4f1a77b2e8d9a300691f6b0c5d2881a0b1e6d3f4a5c6b7d8","output_index":0,'
                b'"content_index":0,"delta":"%b","logprobs":[],"obfuscation":"hV3uX9sQ2LmK"}\n\n' % (number + 4, word)
            )
        else:
            data = (
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
                b'"delta":{"type":"text_delta","text":"%b"}}\n\n' % word
            )
        frames.append((b"%x\r\n%b\r\n" % (len(data), data), b""))
    return frames


def _beginning_of(path: str) -> bytes:
    """The event that streams of this path begin with."""
    if path == messages.RESPONSES:
        data = (
            b'event: response.created\ndata: {"type":"response.created","sequence_number":0,'
            b'"response":{"id":"resp_0c4f1a77b2e8","object":"response","created_at":1764000000,"status":"in_progress","model":"%b","usage":null}}\n\n'
        ) % messages.MODEL.encode()
    elif path == messages.MESSAGES:
        data = (
            b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_01XFDUDYJgAACzvnptvVoYEL",'
            b'"type":"message","role":"assistant","model":"%b","content":[],"stop_reason":null,"stop_sequence":null,'
            b'"usage":{"input_tokens":75,"output_tokens":1}}}\n\n'
        ) % messages.MODEL.encode()
    else:
        return b""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _frames() -> list[tuple[bytes, bytes]]:
    """What stands before and after the stamp, for each word; sizes as chunked transfer wants them."""
    frames = []
    for word in _WORDS:
        before = (
            b'data: {"id":"chatcmpl-CbV3kq9X0QmF1aYHkz2cQe7rWn5Tj","object":"chat.completion.chunk",'
            b'"created":1764000000,"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":'
            + STAMP
        )
        after = b'","choices":[{"index":0,"delta":{"content":"%b"},"logprobs":null,"finish_reason":null}]}\n\n' % word
        size = len(before) + STAMP_DIGITS + len(after)
        frames.append((b"%x\r\n%b" % (size, before), after + b"\r\n"))
    return frames


class Stream(asyncio.Protocol):
    """One connection."""

    open: set[Stream] = set()  # noqa: RUF012 (one server, one set)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.sent = 0

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET"):
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(_MODELS), _MODELS))
        elif data.startswith(b"POST"):
            self.path = data[5 : data.index(b" ", 5)].decode()
            self.transport.write(_HEAD + _beginning_of(self.path))
            self.open.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.open.discard(self)


async def _tick(per_second: float) -> None:
    """Give each open stream its chunks: the streams in turn, so many in each tick."""
    loop = asyncio.get_running_loop()
    formats = {path: _frames_of(path) for path in (messages.RESPONSES, messages.MESSAGES)}
    formats[messages.CHAT] = _frames()
    turn: list[Stream] = []
    owed, before = 0.0, loop.time()
    while True:
        await asyncio.sleep(TICK_SECONDS)
        now = loop.time()
        owed, before = owed + (now - before) * per_second * len(Stream.open), now
        while owed >= 1:
            owed -= 1
            if not turn:
                turn = list(Stream.open)
            if not turn:
                break
            stream = turn.pop()
            if stream in Stream.open:
                frames = formats[stream.path]
                head, tail = frames[stream.sent % len(frames)]
                stream.sent += 1
                stamp = b"%016d" % (time.monotonic_ns() // 1000) if tail else b""
                stream.transport.write(head + stamp + tail)


async def main(port: int, per_second: float) -> None:
    server = await asyncio.get_running_loop().create_server(Stream, "127.0.0.1", port, backlog=4096)
    async with server:
        await _tick(per_second)


if __name__ == "__main__":
    # Looking through ten thousand streams for garbage takes so long that each chunk would be late.
    gc.disable()
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
