"""Line charts as SVG, written by hand: no plotting library, and pages that show them anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 44, 48
_MOST_MARKED = 24
"""Points of a line that are marked; more would be a thick line."""
_FONT = 'font-family="sans-serif" font-size="12"'


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    name: str
    colour: str
    values: list[float]
    dashed: bool = False


def throughput(levels: list[dict[str, Any]]) -> str:
    """Requests a second against connections."""
    lines = [
        Line("nginx, plain proxy", "#6b7280", [level["nginx"]["per_second"] for level in levels]),
        Line("Sentinel", "#0f766e", [level["sentinel"]["per_second"] for level in levels]),
    ]
    return chart("Requests per second on one core", _connections(levels), lines, "{:,.0f}")


def latency(levels: list[dict[str, Any]]) -> str:
    """Latency under full load against connections."""
    lines = [
        Line(f"{label} {name}", colour, [level[subject][f"{name}_ms"] for level in levels], name == "p99")
        for subject, label, colour in (("nginx", "nginx", "#6b7280"), ("sentinel", "Sentinel", "#0f766e"))
        for name in ("p50", "p99")
    ]
    return chart("Latency under full load, milliseconds", _connections(levels), lines, "{:g}", logarithmic=True)


def failover(measured: dict[str, Any]) -> str:
    """Requests that each of two providers answered, against time."""
    step, steps = measured["step_seconds"], measured["steps"]
    lines = [
        Line(label, colour, [count / step for count in steps[name]])
        for name, label, colour in (
            ("first", "first provider", "#0f766e"),
            ("second", "second provider", "#7c3aed"),
            ("failed", "failed", "#dc2626"),
        )
    ]
    seconds = [number * step for number in range(len(steps["first"]))]
    columns = [f"{at:.0f}" if at % 2 == 0 else "" for at in seconds]
    return chart("Requests answered per second while a provider is away", columns, lines, "{:,.0f}", below="seconds")


def _connections(levels: list[dict[str, Any]]) -> list[str]:
    return [f"{level['connections']:,}" for level in levels]


def chart(
    title: str,
    columns: list[str],
    lines: list[Line],
    form: str,
    *,
    logarithmic: bool = False,
    below: str = "connections",
) -> str:
    """A chart with equally spaced columns; below: what they are."""
    values = [value for line in lines for value in line.values]
    marks = _decades(values) if logarithmic else _steps(max(values))
    low, high = (log10(marks[0]), log10(marks[-1])) if logarithmic else (0.0, marks[-1])

    def x(column: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (column + 0.5) / len(columns)

    def y(value: float) -> float:
        at = ((log10(value) if logarithmic else value) - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * at

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {_FONT}>',
        f"<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="bold" fill="#111827">{title}</text>',
    ]
    for mark in marks:
        parts.append(f'<path d="M{LEFT} {y(mark):.1f}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>')
        label = form.format(mark)
        parts.append(f'<text x="{LEFT - 8}" y="{y(mark) + 4:.1f}" text-anchor="end" fill="#374151">{label}</text>')
    for column, name in enumerate(columns):
        parts.append(
            f'<text x="{x(column):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="#374151">{name}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle" fill="#374151">{below}</text>')
    for number, line in enumerate(lines):
        parts += _drawn(
            line, [(x(column), y(value)) for column, value in enumerate(line.values)], TOP + 10 + 22 * number
        )
    return "\n".join([*parts, "</svg>", ""])


def _drawn(line: Line, points: list[tuple[float, float]], legend_y: float) -> list[str]:
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    marked = points if len(points) <= _MOST_MARKED else []
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
    left = WIDTH - RIGHT + 12
    return [
        f'<path d="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>',
        *(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{line.colour}"/>' for px, py in marked),
        f'<path d="M{left} {legend_y}h20" stroke="{line.colour}" stroke-width="2"{dash}/>',
        f'<text x="{left + 26}" y="{legend_y + 4}" fill="#111827">{line.name}</text>',
    ]


def _steps(most: float) -> list[float]:
    """Five or so round marks from 0 to at least `most`."""
    unit = 10 ** floor(log10(most / 4))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor * 5 >= most)
    return [step * number for number in range(ceil(most / step) + 1)]


def _decades(values: list[float]) -> list[float]:
    first, last = floor(log10(max(min(values), 1e-3))), ceil(log10(max(values)))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]
