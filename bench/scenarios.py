"""What is measured. Each scenario starts its own servers and returns plain data for report.py.

streams.py and endpoints.py have more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from statistics import median

from bench import caches, messages, servers, steady, wrk
from bench.latency import latency
from bench.machine import cpu_seconds_of, wait_until
from bench.plan import JUDGED, Data, Plan, compared, medians
from bench.rig import Rig, rig
from bench.servers import Subject
from bench.watchers import Watched, Watchers, told, watch, watching

SMALL_PER_SECOND = 500.0
"""The small requests beside large prompts: enough for a p99, far from full load."""

DELIVERY_SECONDS = 120.0


# ---------------------------------------------------------------------------------------------------------- throughput


def throughput(plan: Plan) -> Data:
    """Requests a second at so many connections, nginx and Sentinel in turns; and whether Sentinel did all its work."""
    with rig() as stand, stand.subjects() as subjects:
        levels = [
            level(stand, subjects, count, plan.judged_rounds if count == JUDGED else plan.rounds, plan.seconds)
            for count in plan.connections
        ]
        return {"levels": levels, "work": _work_done(subjects[1])}


def level(
    stand: Rig,
    subjects: list[Subject],
    connections: int,
    rounds: int,
    seconds: float,
    users: int = messages.USERS,
    post: messages.Post = messages.USUAL,
) -> Data:
    """So many rounds of nginx and Sentinel in turns, each with so many connections."""
    taken: dict[str, list[Data]] = {subject.name: [] for subject in subjects}
    for _ in range(rounds):
        for subject in subjects:
            taken[subject.name].append(_round(stand, subject, connections, seconds, users, post))
    return {"connections": connections, **compared(**taken, figure="per_second")}


def _round(
    stand: Rig,
    subject: Subject,
    connections: int,
    seconds: float,
    users: int = messages.USERS,
    post: messages.Post = messages.USUAL,
) -> Data:
    cpu, store = subject.process.cpu_seconds(), cpu_seconds_of(stand.store.pid)
    load = wrk.run(subject.port, connections, seconds, stand.folder, users, post)
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


def latencies(plan: Plan, watched: list[int]) -> list[Data]:
    """What nginx and Sentinel add to the latency at each rate, against going to the provider directly.

    Twice: of all requests, and of those alone that no stall has held up. watched: the cores whose stalls count.
    """
    with rig() as stand, stand.subjects() as subjects, watching(watched) as watchers:
        ports = {"direct": stand.upstream, **{subject.name: subject.port for subject in subjects}}
        cpu = {"direct": lambda: 0.0, **{subject.name: subject.process.cpu_seconds for subject in subjects}}
        return [_latency(plan, per_second, ports, cpu, watchers) for per_second in plan.rates]


def _latency(
    plan: Plan, per_second: int, ports: dict[str, int], cpu: dict[str, Callable[[], float]], watchers: Watchers
) -> Data:
    seconds = max(plan.seconds, plan.least_requests / per_second / plan.rounds)
    rounds: dict[str, list[Watched[steady.Load]]] = {name: [] for name in ports}
    costs: dict[str, list[float]] = {name: [] for name in ports}
    for _ in range(plan.rounds):
        for name, port in ports.items():
            load = partial(steady.run, port, per_second, messages.chat(), seconds)
            before = cpu[name]()
            rounds[name].append(watch(watchers, load))
            costs[name].append((cpu[name]() - before) / rounds[name][-1].load.sent * 1e6)
    result: Data = {"asked": per_second}
    for name, taken in rounds.items():
        result[name] = {
            **told(taken),
            "per_second": median(each.load.per_second for each in taken),
            "late_ms": median(each.load.late_ms for each in taken),
            "cpu_us": median(costs[name]),
        }
    return result


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
    return asdict(latency(steady.run(port, SMALL_PER_SECOND, messages.chat(), plan.seconds).lives))


def _beside(port: int, body: bytes, per_second: float, plan: Plan) -> Data:
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(steady.run, port, per_second, body, plan.seconds, 4)
        small = pool.submit(_small, port, plan)
        return {"large": asdict(latency(large.result().lives)), "small": small.result()}


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
            levels.append({"users": count, **medians(rounds), "memory_mb": subject.process.memory_bytes() / 1e6})
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
