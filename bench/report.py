"""From the data of the scenarios to one table: the same for the terminal and for docs/performance.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. holds: whether the budget of DESIGN section 10 is kept; None where it has none."""

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


HEAD = ("", "nginx", "Sentinel", "ratio", "budget")


def rows(data: Data) -> list[Row]:
    """All lines for the scenarios that were run."""
    found: list[Row] = []
    if "throughput" in data:
        found += _throughput(data["throughput"])
    if "latency" in data:
        found += _latency(data["latency"])
    for each in data.get("streams", ()):
        found += _streams(each)
    for each in data.get("prompts", ()):
        found += _prompts(each)
    if "users" in data:
        found += _users(data["users"])
    if "workers" in data:
        found += _workers(data["workers"])
    if "idle" in data:
        found += _idle(data["idle"])
    return found


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
                ">= 0.15" if judged else "",
                level["ratio"] >= 0.15 if judged else None,
            )
        )
        if judged:
            inverse = nginx["cpu_us"] / ours["cpu_us"]
            found.append(Row("CPU of a request", _us(nginx["cpu_us"]), _us(ours["cpu_us"]), f"{inverse:.3f}"))
            found.append(Row("use of its core", f"{nginx['core_busy']:.0%}", f"{ours['core_busy']:.0%}"))
            found.append(Row("CPU of a request in Valkey", "", _us(ours["store_us"])))
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


def _latency(data: Data) -> list[Row]:
    at = f"at {data['per_second']:,.0f} requests/s"
    direct, nginx, ours = data["direct"], data["nginx"], data["sentinel"]
    found = []
    for name, budget in (("p50", None), ("p99", 2.0)):
        added = [each[f"{name}_ms"] - direct[f"{name}_ms"] for each in (nginx, ours)]
        found.append(
            Row(
                f"added latency {name} {at}",
                f"{added[0]:.2f} ms",
                f"{added[1]:.2f} ms",
                budget=f"<= {budget:.0f} ms" if budget else "",
                holds=added[1] <= budget if budget else None,
            )
        )
    return found


def _streams(data: Data) -> list[Row]:
    at = f"{data['streams']:,} streams x {data['per_stream']:g}/s"
    direct, nginx, ours = data["direct"], data["nginx"], data["sentinel"]
    return [
        Row(f"chunks/s, {at}", f"{nginx['per_second']:,.0f}", f"{ours['per_second']:,.0f}"),
        Row(
            f"CPU of a chunk, {at}",
            _us(nginx["cpu_us"]),
            _us(ours["cpu_us"]),
            f"{data['ratio']:.2f}",
            "<= 2.5",
            data["ratio"] <= 2.5,
        ),
        Row(
            f"added delay p99 of a chunk, {at}",
            f"{nginx['p99_ms'] - direct['p99_ms']:.2f} ms",
            f"{ours['p99_ms'] - direct['p99_ms']:.2f} ms",
        ),
        Row(
            f"memory of an open stream, {at}",
            f"{nginx['kib_per_stream']:.0f} KiB",
            f"{ours['kib_per_stream']:.0f} KiB",
            budget="<= 64 KiB",
            holds=ours["kib_per_stream"] <= 64,
        ),
        *(_format(data["formats"], name, at) for name in ("responses", "messages")),
    ]


def _format(data: Data, name: str, at: str) -> Row:
    """A chunk of another format beside one of chat, which stands where nginx does otherwise."""
    ratio = data["ratio"][name]
    return Row(
        f"CPU of a chunk of {name} beside one of chat, {at}",
        _us(data["cpu_us"]["chat"]),
        _us(data["cpu_us"][name]),
        f"{ratio:.2f}",
        "<= 1.2",
        ratio <= 1.2,
    )


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
