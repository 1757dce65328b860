"""What is measured of streams: the scenarios of scenarios.py in which answers come in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

from bench import messages, servers, stream_client
from bench.latency import latency
from bench.machine import cpu_seconds_of
from bench.plan import Data, Plan, compared
from bench.rig import Rig, rig
from bench.servers import Subject
from bench.watchers import told, watch, watching

FORMATS = {"chat": messages.CHAT, "responses": messages.RESPONSES, "messages": messages.MESSAGES}
WARM_UP_SECONDS = 0.5

CHUNKS_PER_SECOND = 5_000.0
"""Of very many streams together: about 20% of a core."""
STREAMS_PER_FILE = 0.45
SETTLE_SECONDS = 10.0
"""Until each of them has had some chunks, and memory is what it stays."""


def streams(plan: Plan, count: int, per_second: float, formats: Sequence[str]) -> Data:
    """CPU per relayed chunk in each format, chat first, and of chat's its delay, and memory per open stream."""
    with rig() as stand, servers.stream_provider(stand.folder, per_second) as provider:
        direct = stream_client.run(provider, count, plan.seconds)
        result: Data = {"streams": count, "per_stream": per_second, "direct": asdict(latency(direct.lives))}
        with stand.stream_subjects(provider) as subjects:
            for subject in subjects:
                stream_client.run(subject.port, 32, WARM_UP_SECONDS)
            taken: dict[str, dict[str, list[Data]]] = {name: {each.name: [] for each in subjects} for name in formats}
            for _ in range(plan.stream_rounds):
                for name, rounds in taken.items():
                    for subject in subjects:
                        rounds[subject.name].append(_streamed(stand, subject, count, plan.seconds, FORMATS[name]))
    result["formats"] = {name: _format(rounds) for name, rounds in taken.items()}
    chat, *others = formats
    result["over_chat"] = {name: _cost_over(taken[chat]["sentinel"], taken[name]["sentinel"]) for name in others}
    return result


def _format(rounds: dict[str, list[Data]]) -> Data:
    return {
        **compared(**rounds, figure="cpu_us"),
        # Later rounds find room that the first one has left.
        "kib_per_stream": {name: max(each["kib_per_stream"] for each in taken) for name, taken in rounds.items()},
    }


def _cost_over(chat: list[Data], other: list[Data]) -> float:
    ratios: list[float] = [each["cpu_us"] / of_chat["cpu_us"] for of_chat, each in zip(chat, other, strict=True)]
    return median(ratios)


@dataclass(frozen=True, slots=True)
class _Used:
    """What a subject has used so far; store: of that, what Valkey has."""

    cpu_seconds: float
    store_seconds: float
    memory_bytes: int

    @classmethod
    def by(cls, stand: Rig, subject: Subject) -> _Used:
        process = subject.process
        return cls(process.cpu_seconds(), cpu_seconds_of(stand.store.pid), process.memory_bytes())


def _streamed(stand: Rig, subject: Subject, count: int, seconds: float, path: str = messages.CHAT) -> Data:
    memory_before = subject.process.memory_bytes()
    looks: list[_Used] = []
    seen = stream_client.run(subject.port, count, seconds, lambda: looks.append(_Used.by(stand, subject)), path)
    before, after = looks
    return {
        "per_second": seen.chunks / seen.seconds,
        "refused": seen.refused,
        "p99_ms": latency(seen.lives).p99_ms,
        "cpu_us": (after.cpu_seconds - before.cpu_seconds) / seen.chunks * 1e6,
        "store_us": (after.store_seconds - before.store_seconds) / seen.chunks * 1e6,
        "kib_per_stream": (after.memory_bytes - memory_before) / count / 1024,
    }


def many_streams(plan: Plan, watched: list[int], files: int) -> Data:
    """So many streams open at once on one worker: its memory, and how late chunks come.

    files: how many a process may have open; a stream takes two of Sentinel's.
    """
    count = min(plan.most_streams, int(files * STREAMS_PER_FILE))
    with (
        rig() as stand,
        servers.stream_provider(stand.folder, CHUNKS_PER_SECOND / count) as provider,
        stand.sentinel(provider=provider) as subject,
        watching(watched) as watchers,
    ):
        direct = watch(watchers, lambda: stream_client.run(provider, count, plan.seconds))
        stream_client.run(subject.port, 32, WARM_UP_SECONDS)
        memory = subject.process.memory_bytes()
        looks: list[_Used] = []
        load = partial(
            stream_client.run,
            subject.port,
            count,
            plan.steady_seconds,
            lambda: looks.append(_Used.by(stand, subject)),
            settle_seconds=SETTLE_SECONDS,
        )
        ours = watch(watchers, load)
    before, after = looks
    return {
        "asked": plan.most_streams,
        "open": count,
        "files": files,
        "refused": ours.load.refused,
        "seconds": ours.load.seconds,
        "per_second": ours.load.chunks / ours.load.seconds,
        "core_busy": (after.cpu_seconds - before.cpu_seconds) / ours.load.seconds,
        "memory_mb": [before.memory_bytes / 1e6, after.memory_bytes / 1e6],
        "kib_per_stream": (after.memory_bytes - memory) / count / 1024,
        "direct": told([direct]),
        "sentinel": told([ours]),
    }
