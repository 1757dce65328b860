"""What is measured of streams: the scenarios of scenarios.py in which answers come in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench import messages, servers, stream_client
from bench.latency import latency
from bench.machine import cpu_seconds_of
from bench.plan import Data, Plan, compared
from bench.rig import Rig, rig
from bench.servers import Subject

FORMATS = {"chat": messages.CHAT, "responses": messages.RESPONSES, "messages": messages.MESSAGES}
WARM_UP_SECONDS = 0.5


def streams(plan: Plan, count: int, per_second: float, formats: Sequence[str]) -> Data:
    """CPU per relayed chunk in each format, and of chat's its delay, and memory per open stream."""
    with rig() as stand, servers.stream_provider(stand.folder, per_second) as provider:
        direct = stream_client.run(provider, count, plan.seconds)
        result: Data = {"streams": count, "per_stream": per_second, "direct": asdict(latency(direct.lives))}
        with stand.stream_subjects(provider) as subjects:
            for subject in subjects:
                stream_client.run(subject.port, 32, WARM_UP_SECONDS)
            result["formats"] = {name: _format(stand, subjects, name, count, plan) for name in formats}
    return result


def _format(stand: Rig, subjects: list[Subject], name: str, count: int, plan: Plan) -> Data:
    rounds: dict[str, list[Data]] = {subject.name: [] for subject in subjects}
    for _ in range(plan.stream_rounds):
        for subject in subjects:
            rounds[subject.name].append(_streamed(stand, subject, count, plan.seconds, FORMATS[name]))
    return {
        **compared(**rounds, figure="cpu_us"),
        # Later rounds find room that the first one has left.
        "kib_per_stream": {name: max(each["kib_per_stream"] for each in taken) for name, taken in rounds.items()},
    }


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
        "p99_ms": latency(seen.lives).p99_ms,
        "cpu_us": (after.cpu_seconds - before.cpu_seconds) / seen.chunks * 1e6,
        "store_us": (after.store_seconds - before.store_seconds) / seen.chunks * 1e6,
        "kib_per_stream": (after.memory_bytes - memory_before) / count / 1024,
    }
