"""Whose a Redis, and a folder of spooled usage, is: two installations on one would bill each other's usage.

The first process whose Zion answers writes down what it belongs to: a digest of where that Zion is, and the number of
what stands in the keys. Whoever belongs elsewhere, or is of a version that cannot share those keys, uses nothing of
this Redis. REDIS_PREFIX gives an installation keys of its own. In SPOOL_DIR the same stands in a file.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from urllib.parse import urlsplit

from sentinel.cache import keys
from sentinel.cache.connection import Command
from sentinel.error import ForeignStore

_ANOTHER = (
    "it belongs to an installation with another ZION_API_URL: give this one keys of its own (REDIS_PREFIX), or another "
    "Redis. If it is the same Zion at a new address: redis-cli SET {key} '{mark}'"
)
_OTHER_VERSION = (
    "its data is of a version of Sentinel that this one cannot share it with (schema {theirs}, ours is {ours}): end "
    "all processes of that one, then: redis-cli SET {key} '{mark}'"
)

_FOLDER_OF_ANOTHER = (
    "it belongs to an installation with another ZION_API_URL or REDIS_PREFIX: set SPOOL_DIR to another folder. If it "
    "is the same one, delete {file}"
)
_FILE = ".installation"


def digest(zion_api_url: str) -> str:
    """What tells installations apart. http or https, capitals in the host and a slash at the end make no difference."""
    parts = urlsplit(zion_api_url.rstrip("/"))
    return hashlib.sha256(f"{parts.netloc.lower()}{parts.path}".encode()).hexdigest()[:16]


class Installation:
    """One installation, by the digest of where its Zion is.

    proven: that Zion has answered us. Nothing is written for an address in which there may be a slip.
    """

    def __init__(self, zion_api_url: str) -> None:
        self.name = digest(zion_api_url)
        self.proven = False
        self._ours = False

    @property
    def mark(self) -> str:
        """What it writes into its Redis."""
        return f"{self.name} schema {keys.SCHEMA}"

    async def claim(self, command: Command, anew: bool) -> None:
        """See whose this Redis is; if it is nobody's, it is ours once we are proven.

        anew: over a new connection. Over one on which it was ours we go on until that ends: whoever has given it away,
        to the same Zion at another address, lets us finish what is open. Raises ForeignStore, RedisUnavailable.
        """
        key = keys.installation()
        found = await command("GET", key)
        if found is None and self.proven:
            found = await command("SET", key, self.mark, "NX", "GET")
            self._ours = found is None
        elif found is not None:
            self._ours = found.decode(errors="replace") == self.mark or (self._ours and not anew)
        if found is not None and not self._ours:
            raise ForeignStore(self._refusal(found.decode(errors="replace")))

    def spool_refusal(self, folder: Path) -> str | None:
        """Why we must not replay what is in this folder; None if we may."""
        try:
            found = (folder / _FILE).read_text(errors="replace")
        except OSError:
            return None
        return None if found == self._spool_mark else _FOLDER_OF_ANOTHER.format(file=folder / _FILE)

    def claim_spool(self, folder: Path) -> None:
        """It is ours from now on, if it can be written to and is nobody's."""
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / _FILE).open("x") as file:
                file.write(self._spool_mark)

    @property
    def _spool_mark(self) -> str:
        return f"{self.name} {keys.installation().decode()}"

    def _refusal(self, found: str) -> str:
        name, _, schema = found.partition(" schema ")
        words = {"key": keys.installation().decode(), "mark": self.mark, "theirs": schema, "ours": keys.SCHEMA}
        return (_OTHER_VERSION if name == self.name else _ANOTHER).format(**words)
