"""`sentinel serve` whose garbage collector works at the test's command: `python collector.py FOLDER`.

When the file `collect` appears in the folder it collects, and writes into `collected` how many of what it has found. In
between it does nothing.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from sentinel import cli

ASK, ANSWER = "collect", "collected"


def main(folder: Path) -> int:
    """Serve, and collect when asked."""
    threading.Thread(target=_listen, args=(folder,), daemon=True).start()
    return cli.main(["serve"])


def _listen(folder: Path) -> None:
    while True:
        time.sleep(0.02)
        if (folder / ASK).exists():
            (folder / ASK).unlink()
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            found = Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.garbage)
            gc.set_debug(0)
            gc.garbage.clear()
            gc.collect()
            (folder / "unfinished").write_text(json.dumps(found))
            (folder / "unfinished").rename(folder / ANSWER)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
