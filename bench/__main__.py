"""The command `python -m bench` (`make bench`)."""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import endpoints, failover, governance, machine, pictures, report, scenarios, streams, watchers
from bench.plan import QUICK, Plan
from bench.servers import ROOT

RESULTS = ROOT / "bench" / "results"
DOCS = ROOT / "docs"
PARTS = (
    *("throughput", "latency", "streams", "connections", "embeddings", "uploads"),
    *("prompts", "users", "workers", "idle", "governance", "failover"),
)
QUICK_PARTS = ("throughput", "streams", "idle")
FILES = 65_536
"""What ten thousand streams need, if we may: two for each, and some to spare."""
CALM = 0.05
"""More use of the machine than this before the start is somebody else's work, and spoils the comparison."""

_BEGIN, _END = "<!-- figures: written by make bench ARGS=--publish -->", "<!-- end of figures -->"


def main() -> None:
    options = _options()
    plan = QUICK if options.quick else Plan()
    data: dict[str, Any] = {"machine": machine.describe(), "date": time.strftime("%Y-%m-%d"), "quick": options.quick}
    if data["machine"]["busy_before"] > CALM:
        _say(f"this machine is busy ({data['machine']['busy_before']:.0%}): the figures will be too low")
    machine.step_aside()
    data["machine"]["files"] = machine.most_files(FILES)
    failed = [part for part in options.only if not _measured(part, plan, data)]
    table = report.rows(data)
    print(report.as_text(table))
    print(report.verdict(table))
    _write(data)
    if failed:
        raise SystemExit(f"not measured, see above: {', '.join(failed)}")
    if options.publish:
        _publish(data, table)


def _measured(part: str, plan: Plan, data: dict[str, Any]) -> bool:
    """Measure a part. One that fails must not cost the quarter of an hour of the others."""
    _say(f"{part} ...")
    try:
        _MEASURES[part](plan, data)
    except Exception:  # noqa: BLE001 (a server that ends, an answer that is none: told, and the others go on)
        traceback.print_exc()
        return False
    return True


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measures Sentinel beside nginx on this machine.")
    parser.add_argument("--quick", action="store_true", help="two minutes instead of many, fewer figures")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--publish", action="store_true", help="write the figures into docs/")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else QUICK_PARTS if options.quick else PARTS
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.only = chosen
    return options


def _throughput(plan: Plan, data: dict[str, Any]) -> None:
    data["throughput"] = scenarios.throughput(plan)


def _watched(data: dict[str, Any]) -> list[int]:
    """The cores whose stalls are set apart: none where watchers may not run, or would hold ours for the machine's."""
    first, others = machine.cores()
    if "watchers" not in data:
        check = watchers.check([first, *others])
        data["watchers"] = {**asdict(check), "independent": check.independent}
        if not check.allowed:
            _say("no real-time priority here (CAP_SYS_NICE): stalls of the machine count as ours")
        elif not check.independent:
            _say(f"the watchers are not independent of what runs beside them, nothing is set apart: {check}")
    return [first, *others] if data["watchers"]["independent"] else []


def _latency(plan: Plan, data: dict[str, Any]) -> None:
    data["latencies"] = scenarios.latencies(plan, _watched(data))


def _streams(plan: Plan, data: dict[str, Any]) -> None:
    data["streams"] = []
    for number, (count, rate) in enumerate(plan.streams):
        formats = list(streams.FORMATS) if number < plan.formats_in else ["chat"]
        data["streams"].append(streams.streams(plan, count, rate, formats))


def _connections(plan: Plan, data: dict[str, Any]) -> None:
    data["connections"] = streams.many_streams(plan, _watched(data), data["machine"]["files"])


def _embeddings(plan: Plan, data: dict[str, Any]) -> None:
    data["embeddings"] = endpoints.embeddings(plan)


def _uploads(plan: Plan, data: dict[str, Any]) -> None:
    data["uploads"] = endpoints.uploads(plan)


def _prompts(plan: Plan, data: dict[str, Any]) -> None:
    data["prompts"] = scenarios.prompts(plan)


def _users(plan: Plan, data: dict[str, Any]) -> None:
    data["users"] = scenarios.users(plan)


def _workers(plan: Plan, data: dict[str, Any]) -> None:
    data["workers"] = scenarios.workers(plan)


def _idle(plan: Plan, data: dict[str, Any]) -> None:
    data["idle"] = scenarios.idle(plan)


def _governance(plan: Plan, data: dict[str, Any]) -> None:
    data["governance"] = governance.governance(plan)


def _failover(plan: Plan, data: dict[str, Any]) -> None:
    data["failover"] = failover.failover(plan)


_MEASURES: dict[str, Callable[[Plan, dict[str, Any]], None]] = {
    "throughput": _throughput,
    "latency": _latency,
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


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _write(data: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.write_text(json.dumps(_rounded(data), indent=1) + "\n")
    print(f"written to {file.relative_to(ROOT)}")
    return file


def _publish(data: dict[str, Any], table: list[report.Row]) -> None:
    """Put the figures, the table and the pictures into the documentation."""
    (DOCS / "performance.json").write_text(json.dumps(_rounded(data), indent=1) + "\n")
    about = data["machine"]
    where = f"{about['cores']} x {about['cpu']}, Linux {about['kernel']}, Python {about['python']}"
    parts = [
        f"{data['date']}, {where}; all numbers of the run are in [performance.json](performance.json).",
        report.as_markdown(table),
    ]
    levels = data.get("throughput", {}).get("levels", [])
    if len(levels) > 1:
        (DOCS / "img").mkdir(exist_ok=True)
        (DOCS / "img" / "throughput.svg").write_text(pictures.throughput(levels))
        (DOCS / "img" / "latency.svg").write_text(pictures.latency(levels))
        parts.append("![Requests per second against connections](img/throughput.svg)")
        parts.append("![Latency against connections](img/latency.svg)")
    if "failover" in data:
        (DOCS / "img" / "failover.svg").write_text(pictures.failover(data["failover"]))
    page = DOCS / "performance.md"
    before, _, rest = page.read_text().partition(_BEGIN)
    page.write_text("\n\n".join([before + _BEGIN, *parts, _END]) + rest.partition(_END)[2])


if __name__ == "__main__":
    main()
