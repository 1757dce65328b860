"""What is measured. Each scenario starts its own servers and returns plain data for report.py."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench import caches, messages, servers, steady, stream_client, wrk
from bench.machine import cpu_seconds_of, wait_until
from bench.rig import Rig, rig
from bench.servers import Subject

Data = dict[str, Any]

SMALL_PER_SECOND = 500.0
"""The small requests beside large prompts: enough for a p99, far from full load."""

DELIVERY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. streams: (open, chunks a second each); prompts: (bytes, requests a second)."""

    connections: tuple[int, ...] = (1, 16, 64, 256, 1000)
    rounds: int = 3
    seconds: float = 5.0
    streams: tuple[tuple[int, float], ...] = ((256, 20), (256, 100), (2000, 4), (2000, 10))
    prompts: tuple[tuple[int, float], ...] = ((10_000, 50), (100_000, 20), (1_000_000, 8))
    hostile_per_second: float = 2.0
    users: tuple[int, ...] = (10, 1_000, 10_000, 100_000)
    starts: int = 5


QUICK = Plan(connections=(64,), rounds=2, seconds=4.0, streams=((256, 20),), prompts=(), starts=2)


def _medians(rounds: list[Data]) -> Data:
    return {name: median(each[name] for each in rounds) for name in rounds[0]}


# ---------------------------------------------------------------------------------------------------------- throughput


def throughput(plan: Plan) -> Data:
    """Requests a second at so many connections, nginx and Sentinel in turns; and whether Sentinel did all its work."""
    with rig() as stand, stand.subjects() as subjects:
        levels = [_level(stand, subjects, count, plan) for count in plan.connections]
        return {"levels": levels, "work": _work_done(subjects[1])}


def _level(stand: Rig, subjects: list[Subject], connections: int, plan: Plan) -> Data:
    rounds: dict[str, list[Data]] = {subject.name: [] for subject in subjects}
    for _ in range(plan.rounds):
        for subject in subjects:
            rounds[subject.name].append(_round(stand, subject, connections, plan.seconds))
    result: Data = {name: _medians(each) for name, each in rounds.items()}
    pairs = zip(rounds["nginx"], rounds["sentinel"], strict=True)
    return {"connections": connections, **result, "ratio": median(s["per_second"] / n["per_second"] for n, s in pairs)}


def _round(stand: Rig, subject: Subject, connections: int, seconds: float, users: int = messages.USERS) -> Data:
    cpu, store = subject.process.cpu_seconds(), cpu_seconds_of(stand.store.pid)
    load = wrk.run(subject.port, connections, seconds, stand.folder, users)
    cpu_us = (subject.process.cpu_seconds() - cpu) / load.requests * 1e6
    return {
        "per_second": load.per_second,
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "cpu_us": cpu_us,
        "core_busy": cpu_us * load.per_second / 1e6,
        "store_us": (cpu_seconds_of(stand.store.pid) - store) / load.requests * 1e6,
    }


def _work_done(sentinel: Subject) -> Data:
    """Everything was on: each answer is counted, logged, and its usage has reached Zion."""

    def answered() -> float:
        return servers.metric(sentinel.port, 'sentinel_requests_total{model="gpt-4o-mini",status="success"}')

    def delivered() -> float:
        return servers.metric(sentinel.port, 'sentinel_usage_delivered_total{result="taken"}')

    started = time.monotonic()
    wait_until(lambda: delivered() >= answered(), DELIVERY_SECONDS, "the delivery of all usage", pause_seconds=1.0)
    with sentinel.process.output.open("rb") as file:
        lines = sum(b'"event":"request"' in line for line in file)
    return {
        "answered": answered(),
        "log_lines": lines,
        "usage_delivered": delivered(),
        "delivered_after_seconds": time.monotonic() - started,
    }


# ------------------------------------------------------------------------------------------------------------- latency


def latency(plan: Plan, per_second: float) -> Data:
    """What nginx and Sentinel add to the latency at this rate, against going to the provider directly."""
    body = messages.chat()
    with rig() as stand, stand.subjects() as subjects:
        ports = {"direct": stand.upstream, **{subject.name: subject.port for subject in subjects}}
        rounds: dict[str, list[Data]] = {name: [] for name in ports}
        for _ in range(plan.rounds):
            for name, port in ports.items():
                rounds[name].append(asdict(steady.run(port, per_second, body, plan.seconds)))
    return {"per_second": per_second, **{name: _medians(each) for name, each in rounds.items()}}


# ------------------------------------------------------------------------------------------------------------- streams


def streams(plan: Plan, count: int, per_second: float) -> Data:
    """CPU per relayed chunk, its delay, and memory per open stream."""
    with rig() as stand, servers.stream_provider(stand.folder, per_second) as provider:
        direct = stream_client.run(provider, count, plan.seconds)
        result: Data = {"streams": count, "per_stream": per_second, "direct": asdict(direct)}
        with stand.stream_subjects(provider) as subjects:
            for subject in subjects:
                result[subject.name] = _streamed(stand, subject, count, plan.seconds)
            result["formats"] = _formats(stand, subjects[-1], count, plan)
    result["ratio"] = result["sentinel"]["cpu_us"] / result["nginx"]["cpu_us"]
    return result


def _formats(stand: Rig, sentinel: Subject, count: int, plan: Plan) -> Data:
    """CPU per chunk of each format that streams, in turns, in microseconds; and their ratios to chat's."""
    paths = {"chat": messages.CHAT, "responses": messages.RESPONSES, "messages": messages.MESSAGES}
    rounds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(plan.rounds):
        for name, path in paths.items():
            rounds[name].append(_streamed(stand, sentinel, count, plan.seconds, path)["cpu_us"])
    cpu = {name: median(each) for name, each in rounds.items()}
    return {"cpu_us": cpu, "ratio": {name: cpu[name] / cpu["chat"] for name in paths}}


def _streamed(stand: Rig, subject: Subject, count: int, seconds: float, path: str = messages.CHAT) -> Data:
    stream_client.run(subject.port, 32, 1.0, path=path)
    memory_before = subject.process.memory_bytes()
    cpu: list[float] = []
    store: list[float] = []
    memory: list[int] = []

    def look() -> None:
        cpu.append(subject.process.cpu_seconds())
        store.append(cpu_seconds_of(stand.store.pid))
        memory.append(subject.process.memory_bytes())

    seen = stream_client.run(subject.port, count, seconds, look, path)
    return {
        **asdict(seen),
        "per_second": seen.chunks / seen.seconds,
        "cpu_us": (cpu[1] - cpu[0]) / seen.chunks * 1e6,
        "store_us": (store[1] - store[0]) / seen.chunks * 1e6,
        "kib_per_stream": (memory[1] - memory_before) / count / 1024,
    }


# ------------------------------------------------------------------------------------------------------------- prompts


def prompts(plan: Plan) -> list[Data]:
    """Latency of large prompts, ordinary and hostile ones, and of small requests beside them."""
    bodies = [
        (f"{size // 1000:,} KB prompt", messages.chat(messages.prompt_of(size)), rate) for size, rate in plan.prompts
    ]
    bodies += [(f"hostile, {name}", body, plan.hostile_per_second) for name, body in messages.hostile().items()]
    with rig() as stand, stand.subjects() as subjects:
        ports = {"direct": stand.upstream, **{subject.name: subject.port for subject in subjects}}
        calm = {name: _small(port, plan) for name, port in ports.items()}
        return [
            {
                "prompt": what,
                **{name: {"calm": calm[name], **_beside(port, body, rate, plan)} for name, port in ports.items()},
            }
            for what, body, rate in bodies
        ]


def _small(port: int, plan: Plan) -> Data:
    return asdict(steady.run(port, SMALL_PER_SECOND, messages.chat(), plan.seconds))


def _beside(port: int, body: bytes, per_second: float, plan: Plan) -> Data:
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(steady.run, port, per_second, body, plan.seconds, 4)
        small = pool.submit(_small, port, plan)
        return {"large": asdict(large.result()), "small": small.result()}


# --------------------------------------------------------------------------------------------------------------- users

_LEAST_PER_SECOND = 1_500
"""Slower than this no new user is taken up; so long a walk through all of them is given."""


def users(plan: Plan) -> Data:
    """What a request costs, and what memory is used, by how many users are known; and the caches with a million."""
    levels: list[Data] = []
    with rig() as stand, stand.sentinel() as subject:
        for count in plan.users:
            # Everybody is looked up once; whose turn comes within 5 s is still in memory then, others are in Redis.
            wrk.run(subject.port, 64, max(3.0, count / _LEAST_PER_SECOND), stand.folder, count)
            rounds = [_round(stand, subject, 64, plan.seconds, count) for _ in range(plan.rounds)]
            levels.append({"users": count, **_medians(rounds), "memory_mb": subject.process.memory_bytes() / 1e6})
    return {"levels": levels, "caches": caches.measure()}


# ------------------------------------------------------------------------------------------------- workers, idle, start


def workers(plan: Plan) -> Data:
    """What a request costs in a Sentinel of two workers, and in two Sentinels beside one another that share nothing.

    On a machine without two free cores the second process takes turns with the load, and then a request costs more,
    whoever serves it. Where cores are free two separate Sentinels, with a Redis each, carry twice what one carries; so
    under the same load on the same cores scale = 2 x cost in the separate ones / cost in the workers.
    """
    # Two append-only files would share one disk.
    with rig(appendonly="no") as stand, rig(appendonly="no") as other:
        cores = [stand.core, stand.rest[0]]
        with stand.sentinel() as first, other.sentinel_on(cores[1:]) as second:
            separate = _both([(stand, first), (other, second)], plan)
        with stand.sentinel(workers=2) as together:
            shared = _both([(stand, together), (stand, together)], plan)
            shares = [cpu_seconds_of(pid) for pid in together.process.children()]
    return {
        "separate_us": separate,
        "workers_us": shared,
        "busiest_share": max(shares) / sum(shares),
        "scale": 2 * separate / shared,
    }


def _both(places: list[tuple[Rig, Subject]], plan: Plan) -> float:
    """CPU of a request in microseconds, of all processes, with 16 connections to each place at once."""

    def load(seconds: float) -> int:
        with ThreadPoolExecutor(2) as pool:
            loads = pool.map(lambda place: wrk.run(place[1].port, 16, seconds, place[0].folder), places)
        return sum(load.requests for load in loads)

    def cpu() -> float:
        return sum(process.cpu_seconds() for process in {id(s.process): s.process for _, s in places}.values())

    load(3.0)
    costs: list[float] = []
    for _ in range(plan.rounds):
        before = cpu()
        requests = load(plan.seconds)
        costs.append((cpu() - before) / requests * 1e6)
    return median(costs)


def idle(plan: Plan) -> Data:
    """Time from the command to the first `ready`, and memory of a worker that has served nobody."""
    starts: list[float] = []
    memory: list[int] = []
    with rig() as stand:
        for _ in range(plan.starts):
            with stand.sentinel() as subject:
                starts.append(subject.start_seconds)
                time.sleep(1.0)
                memory.append(subject.process.memory_bytes())
        with stand.sentinel(workers=2) as subject:
            time.sleep(1.0)
            each = subject.process.child_memory_bytes()
    return {
        "start_seconds": median(starts),
        "memory_mb": median(memory) / 1e6,
        "memory_per_worker_mb": max(each) / 1e6,
    }
