"""A Sentinel that translates; and what came of each client goes into docs/clients.md when all of a row was tried."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator

import pytest

from tests.clients.roster import Row, write_page
from tests.support.stack import SentinelProcess, Stack

TRANSLATING = """
[providers.chat]
type = "openai"
url = "{url}/v1"
api_key = "env:OPENAI_API_KEY"
formats = ["chat"]

[providers.messages]
type = "anthropic"
url = "{url}"
api_key = "env:OPENAI_API_KEY"
formats = ["messages"]

[providers.gemini]
type = "gemini"
url = "{url}"
api_key = "env:OPENAI_API_KEY"
formats = ["gemini"]

[models."gpt-*"]
targets = [{{ provider = "chat" }}]

[models."claude-*"]
targets = [{{ provider = "messages" }}]

[models."gemini-*"]
targets = [{{ provider = "gemini" }}]
"""
"""Each provider has the name of the one format that it speaks."""


class Found:
    """What was tried in this session, and what failed."""

    def __init__(self) -> None:
        self._outcomes: dict[Row, dict[str, bool]] = defaultdict(dict)

    @contextlib.contextmanager
    def trying(self, row: Row, case: str) -> Iterator[None]:
        """It failed unless the block comes to its end."""
        self._outcomes[row][case] = False
        yield
        self._outcomes[row][case] = True

    def results(self) -> dict[Row, str]:
        """Of the rows of which all was tried."""
        return {
            row: row.result(case for case in row.cases if not outcomes[case])
            for row, outcomes in self._outcomes.items()
            if set(row.cases) == set(outcomes)
        }


@pytest.fixture(scope="session")
def found() -> Iterator[Found]:
    found = Found()
    yield found
    write_page(found.results())


@pytest.fixture(scope="module")
def translating(stack: Stack) -> SentinelProcess:
    """A Sentinel with providers that speak one format each."""
    file = stack.folder / "sentinel.toml"
    file.write_text(TRANSLATING.format(url=stack.simulators.openai_server.url))
    return stack.sentinel(SENTINEL_CONFIG=str(file))
