"""A command that prints a token for a provider, such as one of Microsoft Entra, run again before that one ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from sentinel.clock import now_ms
from sentinel.governance.jwt import ends_ms
from sentinel.tasks import pause

log = structlog.get_logger()

RUN_SECONDS = 30.0
_EVERY_SECONDS, _AGAIN_SECONDS = 600.0, 15.0
"""Between two runs where a token does not tell its end, and after one that failed."""
_EARLY_SECONDS = 300.0
"""So long before its end a token is renewed."""
_MOST_BYTES = 65_536


class TokenCommand:
    """Of one provider. token: the last one that was printed, empty before the first."""

    def __init__(self, provider: str, command: Sequence[str]) -> None:
        self.token = ""
        self._due_seconds = 0.0
        self._provider = provider
        self._command = command

    async def refresh(self) -> None:
        """Run the command. While it fails, the last token stays."""
        reason = await self._run()
        if reason is not None:
            log.warning("a token command fails", provider=self._provider, reason=reason)
            self._due_seconds = _AGAIN_SECONDS
            return
        end = ends_ms(self.token.encode())
        early = _EVERY_SECONDS if end is None else (end - now_ms()) / 1000 - _EARLY_SECONDS
        self._due_seconds = max(_AGAIN_SECONDS, early)

    async def run(self) -> None:
        """Renew the token for ever, each time before it ends."""
        while True:
            await pause(self._due_seconds)
            await self.refresh()

    async def _run(self) -> str | None:
        """Why there is no new token; None if there is one."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            return f"it cannot be started: {error.strerror}"
        try:
            async with asyncio.timeout(RUN_SECONDS):
                printed, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            return "it takes too long"
        if process.returncode:
            return f"status {process.returncode}"
        token = printed[:_MOST_BYTES].decode("ascii", "replace").strip()
        if not token.isascii() or not token.isprintable() or not token or " " in token:
            return "it prints no token"
        self.token = token
        return None
