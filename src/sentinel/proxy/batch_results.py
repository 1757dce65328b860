"""What a batch has cost whose provider does not sum it up: each line of its results tells what one request has.

OpenAI tells the usage of a batch; Anthropic and most that speak OpenAI's format tell it line by line.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from sentinel.endpoints.jobs import usage_of_lines
from sentinel.error import UpstreamError
from sentinel.proxy.headers import of_our_own
from sentinel.proxy.provider import AiProvider, ProviderRequest
from sentinel.tokens.usage import Usage

MOST_LINE_BYTES = 8 * 1024 * 1024
"""Of one result. What is longer costs its bytes."""


async def usage_of_results(
    provider: AiProvider, kind: str, path: str, request_id: str, threads: Executor
) -> Usage | None:
    """The sum of all lines at this path; None where they are no more. Raises UpstreamError, UpstreamTimeout."""
    asked = path.encode("ascii")
    request = ProviderRequest(asked, of_our_own(asked, request_id), b"", b"GET")
    stream = await provider.pass_on(request, _as_it_comes)
    try:
        if stream.status in {404, 410}:
            return None
        if stream.status != 200:
            raise UpstreamError("The results of a batch cannot be read.")
        inputs = outputs = 0
        rest = b""
        while (data := await stream.read()) is not None:
            begun = rest + data
            end = begun.rfind(b"\n") + 1
            if not end and len(begun) > MOST_LINE_BYTES:
                end = len(begun)
            rest = begun[end:]
            told = await _read(threads, kind, begun[:end])
            inputs, outputs = inputs + told.prompt_tokens, outputs + told.completion_tokens
        told = await _read(threads, kind, rest)
        return Usage(inputs + told.prompt_tokens, outputs + told.completion_tokens)
    finally:
        stream.close()


async def _read(threads: Executor, kind: str, lines: bytes) -> Usage:
    if not lines:
        return Usage()
    return await asyncio.get_running_loop().run_in_executor(threads, usage_of_lines, kind, lines)


async def _as_it_comes(_: int) -> None:
    """A piece and a line are held, and no more."""
