"""What the programs in programs/ share: one does each case with its client, and tells the outcome in a line of JSON.

They run in the environment of their client, so here is the standard library alone.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SAY, CALL = "Say hello", "What is the weather in Paris? [[tool]]"
LONG = "Tell me a long story [[tokens=600 delay=0.02]]"
TAKEN = 3
"""So many pieces of the long story are taken by who leaves."""
EMBEDDING_MODEL = "text-embedding-3-small"
TEXTS = ["one", "two"]
UPLOAD = b'{"prompt": "one"}\n{"prompt": "two"}\n'


@dataclass(frozen=True)
class Access:
    """Where Sentinel is, without a slash at the end, the token for one case, and the model to ask."""

    url: str
    token: str
    model: str

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"


def run(ways: Mapping[str, Mapping[str, Callable[[Access], Any]]]) -> None:
    """The cases of the way that is asked for, as far as they are asked for."""
    asked = json.loads(sys.argv[1])
    cases = ways[asked["way"]]
    for case, access in asked["cases"].items():
        outcome = _outcome(cases[case], Access(asked["url"], **access))
        sys.stdout.write(json.dumps({"case": case, **outcome}) + "\n")
        sys.stdout.flush()


def _outcome(function: Callable[[Access], Any], access: Access) -> dict[str, Any]:
    async def awaited() -> Any:
        return await function(access)

    try:
        return {"told": asyncio.run(awaited()) if inspect.iscoroutinefunction(function) else function(access)}
    except Exception as error:  # noqa: BLE001  Whatever it is, the test tells of it.
        return {"raised": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
