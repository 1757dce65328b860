"""From the data of the scenarios to one table: the same for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. holds: whether the budget of DESIGN section 15 is kept; None where it has none."""

    what: str
    nginx: str
    sentinel: str
    ratio: str = ""
    budget: str = ""
    holds: bool | None = None

    def cells(self) -> tuple[str, ...]:
        """The cells as text."""
        verdict = {True: " ok", False: " MISSED", None: ""}[self.holds]
        return self.what, self.nginx, self.sentinel, self.ratio, self.budget + verdict


# Budgets of DESIGN section 15: what always holds; and what we aim at: the table tells how often that was reached.
LEAST_RATIO, GOOD_RATIO = 0.18, 0.22
MOST_CHUNK, GOOD_CHUNK = 1.5, 1.25
MOST_OF_CHAT = 1.2
"""A chunk of responses or messages, over one of chat."""
MOST_STORE_US = 45.0
MOST_STREAM_KIB = 64
JUDGED_RATES = (1_000,)
MOST_P50_MS, MOST_P99_MS = 0.5, 1.5
MOST_LATE_MS = 50.0
MOST_REPORT_MS = 50.0
"""No part of DESIGN section 15: so long the built-in governance may take for a full report."""
MOST_GROWTH = 1.02
"""Of memory, while as many streams are open at the end as at the beginning."""
LEAST_LARGE_BYTES = 1_000_000
"""Memory tells of files from this size on whether they are held."""
MOST_APART = 0.05
"""Where more was set apart, what is left tells too little of what a client sees."""
QUANTILES = ("p50_ms", "p90_ms", "p99_ms", "p999_ms")

HEAD = ("", "nginx", "Sentinel", "ratio", "budget")


def rows(data: Data) -> list[Row]:
    """All lines for the scenarios that were run."""
    found: list[Row] = []
    for name, lines_of in _LINES.items():
        measured = data.get(name, [])
        for each in measured if isinstance(measured, list) else [measured]:
            found += lines_of(each)
    return found


def verdict(table: list[Row]) -> str:
    """How many budgets are kept, and which are not."""
    missed = [row.what for row in table if row.holds is False]
    held = sum(row.holds is True for row in table)
    return "\n".join([f"{held} of {held + len(missed)} budgets held", *(f"MISSED: {what}" for what in missed)])


def _throughput(data: Data) -> list[Row]:
    found = []
    for level in data["levels"]:
        nginx, ours, at = level["nginx"], level["sentinel"], f"{level['connections']} connections"
        judged = level["connections"] == 64
        found.append(
            Row(
                f"requests/s, {at}",
                f"{nginx['per_second']:,.0f}",
                f"{ours['per_second']:,.0f}",
                f"{level['ratio']:.3f}",
                f">= {LEAST_RATIO}, {_often(level['ratios'], least=GOOD_RATIO)}" if judged else "",
                level["ratio"] >= LEAST_RATIO if judged else None,
            )
        )
        if judged:
            found.append(_cost(nginx, ours, f"at {at}"))
            found.append(Row("use of its core", f"{nginx['core_busy']:.0%}", f"{ours['core_busy']:.0%}"))
            store = ours["store_us"]
            found.append(
                Row("CPU of a request in Valkey", "", _us(store), budget="<= 45 us", holds=store <= MOST_STORE_US)
            )
        found.append(Row(f"latency p50 / p99, {at}", _ms(nginx), _ms(ours)))
    work = data["work"]
    complete = work["log_lines"] >= work["answered"] <= work["usage_delivered"]
    found.append(
        Row(
            "answers / log lines / usage at Zion",
            "",
            f"{work['answered']:,.0f} / {work['log_lines']:,.0f} / {work['usage_delivered']:,.0f}",
            budget="none missing",
            holds=complete,
        )
    )
    return found


def _cost(nginx: Data, ours: Data, where: str) -> Row:
    ratio = nginx["cpu_us"] / ours["cpu_us"]
    return Row(f"CPU of a request {where}", _us(nginx["cpu_us"]), _us(ours["cpu_us"]), f"{ratio:.3f}")


def _often(ratios: list[float], *, least: float | None = None, most: float | None = None) -> str:
    """In how many of the rounds what we aim at was reached."""
    reached = sum((least or 0) <= ratio <= (most or ratio) for ratio in ratios)
    return f"{least or most} in {reached} of {len(ratios)}"


def _watchers(data: Data) -> list[Row]:
    """Whether stalls of the machine can be told from ours."""
    what = "stalls' share of the time: alone / beside busy processes / without priority there"
    if not data["allowed"]:
        return [Row(what, "", "no priority here")]
    shares = f"{data['late']:.2%} / {data['late_busy']:.2%} / {data['late_ordinary']:.0%}"
    return [
        Row(what, "", shares, budget="busy as alone", holds=data["independent"]),
        Row("CPU of a watcher", "", f"{data['cpu']:.1%} of its core"),
    ]


def _latency(data: Data) -> list[Row]:
    """What a proxy adds to each quantile; we answer for those requests that the machine has not held up."""
    at = f"at {data['asked']:,} requests/s"
    direct, nginx, ours = data["direct"], data["nginx"], data["sentinel"]

    def added(subject: Data, which: str) -> list[float]:
        return [subject[which][name] - direct[which][name] for name in QUANTILES]

    p50, _, p99, _ = added(ours, "calm")
    apart = max(each["set_apart"] for each in (direct, nginx, ours))
    judged = data["asked"] in JUDGED_RATES and apart <= MOST_APART
    budget = f"p50 <= {MOST_P50_MS}, p99 <= {MOST_P99_MS} ms" if data["asked"] in JUDGED_RATES else ""
    return [
        Row(
            f"added latency p50 / p90 / p99 / p99.9 {at}",
            _quantiles(added(nginx, "calm")),
            _quantiles(added(ours, "calm")),
            budget=budget if apart <= MOST_APART else f"{budget} not judged: too many set apart",
            holds=p50 <= MOST_P50_MS and p99 <= MOST_P99_MS if judged else None,
        ),
        Row(
            f"the same with those beside a stall {at}", _quantiles(added(nginx, "all")), _quantiles(added(ours, "all"))
        ),
        Row(f"stalls' share of the time / set apart of requests {at}", _apart(nginx), _apart(ours)),
        _cost(nginx, ours, at),
        Row(f"rate / the load's own delay p99 {at}", _kept(nginx), _kept(ours)),
    ]


def _quantiles(values: list[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values) + " ms"


def _apart(data: Data) -> str:
    return f"{data['stalled']:.2%} / {data['set_apart']:.1%} of {data['all']['requests']:,}"


def _kept(data: Data) -> str:
    return f"{data['per_second']:,.0f} / {data['late_ms']:.2f} ms"


def _streams(data: Data) -> list[Row]:
    at = f"{data['streams']:,} streams x {data['per_stream']:g}/s"
    direct, chat = data["direct"], data["formats"]["chat"]
    nginx, ours, memory = chat["nginx"], chat["sentinel"], chat["kib_per_stream"]
    return [
        Row(f"chunks/s, {at}", f"{nginx['per_second']:,.0f}", f"{ours['per_second']:,.0f}"),
        *(_format(each, name, at) for name, each in data["formats"].items()),
        *_over_chat(data["over_chat"], at),
        Row(
            f"added delay p99 of a chunk, {at}",
            f"{nginx['p99_ms'] - direct['p99_ms']:.2f} ms",
            f"{ours['p99_ms'] - direct['p99_ms']:.2f} ms",
        ),
        _stream_memory(at, memory["sentinel"], f"{memory['nginx']:.0f} KiB"),
    ]


def _format(data: Data, name: str, at: str) -> Row:
    return Row(
        f"CPU of a chunk of {name}, {at}",
        _us(data["nginx"]["cpu_us"]),
        _us(data["sentinel"]["cpu_us"]),
        f"{data['ratio']:.2f}",
        f"<= {MOST_CHUNK}, {_often(data['ratios'], most=GOOD_CHUNK)}",
        data["ratio"] <= MOST_CHUNK,
    )


def _over_chat(data: Data, at: str) -> list[Row]:
    if not data:
        return []
    what = f"CPU of a chunk over chat's, {' / '.join(data)}, {at}"
    ratios = " / ".join(f"{ratio:.2f}" for ratio in data.values())
    return [Row(what, "", "", ratios, f"<= {MOST_OF_CHAT}", max(data.values()) <= MOST_OF_CHAT)]


def _stream_memory(at: str, kib: float, nginx: str = "") -> Row:
    return Row(
        f"memory of an open stream, {at}",
        nginx,
        f"{kib:.0f} KiB",
        budget=f"<= {MOST_STREAM_KIB} KiB",
        holds=kib <= MOST_STREAM_KIB,
    )


def _connections(data: Data) -> list[Row]:
    at = f"{data['open']:,} streams x {data['per_second'] / data['open']:.1f}/s"
    before, after = data["memory_mb"]
    ours = data["sentinel"]
    # One that no stall has held up is late however many were set apart.
    is_late, tells = ours["calm"]["most_ms"] > MOST_LATE_MS, ours["set_apart"] <= MOST_APART
    needs = "" if data["open"] >= data["asked"] else f": not with {data['files']:,} open files"
    return [
        Row(
            "open streams of one worker / refused at first / use of its core",
            "",
            f"{data['open']:,} / {data['refused']:,} / {data['core_busy']:.0%}",
            budget=f"{data['asked']:,}{needs}",
            holds=None if needs else True,
        ),
        Row(
            f"memory at first / after {data['seconds']:.0f} s, {at}",
            "",
            f"{before:.0f} / {after:.0f} MB",
            f"{after / before:.3f}",
            f"<= {MOST_GROWTH}",
            after / before <= MOST_GROWTH,
        ),
        _stream_memory(at, data["kib_per_stream"]),
        Row(
            f"delay p50 / p99 / most of a chunk, {at}",
            "",
            " / ".join(f"{ours['calm'][name]:.2f}" for name in ("p50_ms", "p99_ms", "most_ms")) + " ms",
            budget=f"<= {MOST_LATE_MS:.0f} ms" + ("" if is_late or tells else " not judged: too many set apart"),
            holds=not is_late if is_late or tells else None,
        ),
        Row(f"the most with those beside a stall / without us, {at}", "", _most(ours, data["direct"])),
        Row(f"stalls' share of the time / set apart of chunks, {at}", "", _apart(ours)),
    ]


def _most(ours: Data, direct: Data) -> str:
    return f"{ours['all']['most_ms']:.2f} / {direct['all']['most_ms']:.2f} ms"


def _embeddings(data: Data) -> list[Row]:
    return [_cost(data["nginx"], data["sentinel"], f"for embeddings, {data['connections']} connections")]


def _uploads(data: Data) -> list[Row]:
    kib, growth = data["bytes"] // 1024, data["growth_mb"]
    files = f"files of {kib // 1024} MiB" if kib >= 1024 else f"files of {kib} KiB"
    nginx, ours = (data[name]["cpu_us"] / data["bytes"] * 1e6 for name in ("nginx", "sentinel"))
    found = [Row(f"CPU of an uploaded MB, {files}", f"{nginx:,.0f} us", f"{ours:,.0f} us", f"{ours / nginx:.2f}")]
    if data["bytes"] >= LEAST_LARGE_BYTES:
        one_file = data["bytes"] / 1e6
        found.append(
            Row(
                f"growth of memory, {data['at_once']} {files} at once",
                f"{growth['nginx']:.1f} MB",
                f"{growth['sentinel']:.1f} MB",
                budget=f"none held whole: < {one_file:.1f} MB",
                holds=growth["sentinel"] < one_file,
            )
        )
    return found


def _prompts(data: Data) -> list[Row]:
    nginx, ours = data["nginx"], data["sentinel"]
    growth = ours["small"]["p99_ms"] / ours["calm"]["p99_ms"]
    return [
        Row(f"latency p50 / p99, {data['prompt']}", _ms(nginx["large"]), _ms(ours["large"])),
        Row(
            f"p99 of small requests beside it (calm {ours['calm']['p99_ms']:.2f} ms)",
            f"{nginx['small']['p99_ms']:.2f} ms",
            f"{ours['small']['p99_ms']:.2f} ms",
            budget="<= 3 x calm",
            holds=growth <= 3,
        ),
    ]


def _users(data: Data) -> list[Row]:
    levels = data["levels"]
    # Few users cost least: memory knows their tokens, and what they spend in a second is told to Zion as one item.
    least = levels[0]["cpu_us"]
    found = [
        Row(
            f"CPU of a request / memory, {level['users']:,} users",
            "",
            f"{_us(level['cpu_us'])} / {level['memory_mb']:.0f} MB",
            f"{level['cpu_us'] / least:.2f}",
            "<= 1.5 x the first" if level is not levels[0] else "",
            level["cpu_us"] <= 1.5 * least if level is not levels[0] else None,
        )
        for level in levels
    ]
    found += [
        Row(
            f"{cache['name']}, {cache['fed']:,} fed",
            "",
            f"{cache['kept']:,} kept, {cache['memory_mb']:.0f} MB, {cache['us']:.2f} us each",
            budget=f"<= {cache['bound']:,}",
            holds=cache["kept"] <= cache["bound"],
        )
        for cache in data["caches"]
    ]
    return found


def _workers(data: Data) -> list[Row]:
    costs = f"{data['separate_us']:.0f} / {data['workers_us']:.0f} us"
    return [
        Row("CPU of a request, 2 separate Sentinels / 2 workers", "", costs),
        Row("busier worker's share of 2", "", f"{data['busiest_share']:.2f}"),
        Row("2 workers on two free cores carry", "", f"{data['scale']:.2f} x", "", ">= 1.8 x", data["scale"] >= 1.8),
    ]


def _idle(data: Data) -> list[Row]:
    memory = max(data["memory_mb"], data["memory_per_worker_mb"])
    return [
        Row("memory of an idle worker", "", f"{memory:.0f} MB", budget="<= 120 MB", holds=memory <= 120),
        Row("start until ready", "", f"{data['start_seconds']:.2f} s"),
    ]


def _governance(data: Data) -> list[Row]:
    return [
        Row(
            f"the built-in governance books a report of 1,000 items, {database}",
            "",
            f"{median_ms:.0f} ms",
            budget=f"<= {MOST_REPORT_MS:.0f} ms" if database == "SQLite" else "",
            holds=median_ms <= MOST_REPORT_MS if database == "SQLite" else None,
        )
        for database, median_ms in data.items()
    ]


def _failover(data: Data) -> list[Row]:
    failed, requests, booked = data["failed"], data["requests"], data["booked"]
    return [
        Row(
            "one of two providers is killed: requests / asked twice / failed / booked",
            "",
            f"{requests:,} / {data['tried_twice']:,} / {failed:,} / {booked:,}",
            budget="none fails, each is booked once",
            holds=failed == 0 and booked == requests,
        )
    ]


_LINES: dict[str, Callable[[Data], list[Row]]] = {
    "throughput": _throughput,
    "watchers": _watchers,
    "latencies": _latency,
    "streams": _streams,
    "connections": _connections,
    "embeddings": _embeddings,
    "uploads": _uploads,
    "prompts": _prompts,
    "users": _users,
    "workers": _workers,
    "idle": _idle,
    "governance": _governance,
    "failover": _failover,
}


def _us(value: float) -> str:
    return f"{value:.1f} us"


def _ms(value: Data) -> str:
    return f"{value['p50_ms']:.2f} / {value['p99_ms']:.2f} ms"


def as_text(table: list[Row]) -> str:
    """The table for a terminal."""
    lines = [HEAD, *(row.cells() for row in table)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        f"{what:<{widths[0]}}  {nginx:>{widths[1]}}  {ours:>{widths[2]}}  {ratio:>{widths[3]}}  {budget}".rstrip()
        for what, nginx, ours, ratio, budget in lines
    )


def as_markdown(table: list[Row]) -> str:
    """The table for a page."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---|--:|--:|--:|---|"]
    return "\n".join([*lines, *("| " + " | ".join(row.cells()) + " |" for row in table)])
