"""`sentinel serve` that waits longer for Redis: `python patient.py`.

What is exact while Redis answers is tested with crowds, under which a busy machine misses the deadline of a service.
Then nobody knows who was admitted.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from sentinel import app, cli
from sentinel.cache.redis import open_store


def main() -> int:
    """Serve, with ten seconds for each call."""
    assembly: Any = app
    assembly.open_store = partial(open_store, deadline_seconds=10.0)
    return cli.main(["serve"])


if __name__ == "__main__":
    raise SystemExit(main())
