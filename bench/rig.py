"""Everything that a scenario needs, started together: provider and Zion, Valkey, and the subjects on their core."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import servers, wrk
from bench.machine import cores
from bench.servers import Subject
from sentinel.dev.store import EmbeddedStore

WARM_UP_SECONDS = 3.0
_AS_DEPLOYED = {"auto-aof-rewrite-min-size": "1gb"}


@dataclass(frozen=True, slots=True)
class Rig:
    """What stands for a scenario. upstream: port of the provider and Zion; core: the subject's, rest: all others."""

    folder: Path
    store: EmbeddedStore
    upstream: int
    core: int
    rest: list[int]

    @contextlib.contextmanager
    def subjects(self) -> Iterator[list[Subject]]:
        """nginx and Sentinel, both warm: every user is known and has been served."""
        with (
            servers.nginx_proxy(self.folder, self.upstream, self.core) as nginx,
            self.sentinel() as sentinel,
        ):
            for subject in (nginx, sentinel):
                wrk.run(subject.port, 16, WARM_UP_SECONDS, self.folder)
            yield [nginx, sentinel]

    @contextlib.contextmanager
    def stream_subjects(self, provider: int) -> Iterator[list[Subject]]:
        """nginx without buffering and Sentinel, in front of a streaming provider."""
        with (
            servers.nginx_proxy(self.folder, provider, self.core, buffering=False) as nginx,
            self.sentinel(provider=provider) as sentinel,
        ):
            yield [nginx, sentinel]

    @contextlib.contextmanager
    def sentinel(self, *, provider: int | None = None, workers: int = 1) -> Iterator[Subject]:
        """Sentinel on its core; several workers have a core each as far as there are any."""
        cpus = [self.core, *self.rest][:workers]
        with self.sentinel_on(cpus, provider=provider, workers=workers) as subject:
            yield subject

    @contextlib.contextmanager
    def sentinel_on(self, cpus: list[int], *, provider: int | None = None, workers: int = 1) -> Iterator[Subject]:
        """Sentinel on these cores."""
        with servers.sentinel(
            self.folder, self.store.url, self.upstream, provider or self.upstream, cpus, workers
        ) as subject:
            yield subject


@contextlib.contextmanager
def rig(*, appendonly: str = "yes") -> Iterator[Rig]:
    """Provider, Zion and an empty Valkey, in a temporary folder; appendonly: as in valkey.conf."""
    core, rest = cores()
    with (
        tempfile.TemporaryDirectory(prefix="sentinel-bench-") as name,
        EmbeddedStore(Path(name) / "store", appendonly=appendonly, extra=_AS_DEPLOYED) as store,
        servers.provider_and_zion(Path(name)) as upstream,
    ):
        yield Rig(Path(name), store, upstream, core, rest)
