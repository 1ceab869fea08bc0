"""One HTML page with plots and without outside resources, for what a load, a benchmark or a simulation found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.report import Check

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 280, 64, 16, 16, 40
COLOURS = ("#2563a8", "#c2571a", "#22694a", "#7a3fa0", "#8a6100", "#b3261e", "#4b6b75", "#a03f6b")
_STYLE = """
:root{--paper:#fbfbf8;--ink:#1c2420;--soft:#5c6a63;--line:#dfe4dd;--card:#fff}
@media(prefers-color-scheme:dark){:root{--paper:#121613;--ink:#e8ede9;--soft:#9aa8a0;--line:#2c352f;--card:#1a201c}
 polyline,rect.band,i.key{filter:brightness(1.45)}}
body{margin:0 auto;max-width:980px;padding:1.5rem;background:var(--paper);color:var(--ink);
 font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.7rem;margin:.2rem 0 .6rem}h2{font-size:1.15rem;margin:2rem 0 .4rem}p{color:var(--soft);margin:.3rem 0}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums;margin:.5rem 0}
th,td{text-align:left;padding:.32rem .7rem .32rem 0;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500}
svg{width:100%;height:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}
svg text{fill:var(--soft);font-size:12px}polyline{fill:none;stroke-width:2}svg .grid{stroke:var(--line)}
.key{display:inline-block;width:.8rem;height:.8rem;border-radius:3px;margin:0 .35rem 0 .9rem;vertical-align:-1px}
.met{color:#22694a;font-weight:600}.missed{color:#b3261e;font-weight:600}
@media(prefers-color-scheme:dark){.met{color:#6cc39a}.missed{color:#f2897f}}
"""


@dataclass(frozen=True)
class Line:
    """A named line; points that are not finite break it."""

    name: str
    points: Sequence[tuple[float, float]]
    steps: bool = False


@dataclass(frozen=True)
class Band:
    """A span of the horizontal axis that something happened in."""

    name: str
    begin: float
    end: float


def page(title: str, lead: str, parts: Sequence[str]) -> str:
    """Return the whole page; ``parts`` are HTML already."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1><p>{escape(lead)}</p>{''.join(parts)}</html>\n"
    )


def heading(text: str, note: str = "") -> str:
    """Return a heading with a sentence below it."""
    return f"<h2>{escape(text)}</h2>" + (f"<p>{escape(note)}</p>" if note else "")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table."""
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def check_table(checks: Sequence[Check]) -> str:
    """Return what was measured beside its goal."""
    rows = "".join(
        f'<tr><td class="{"met" if check.met else "missed"}">{"✓" if check.met else "✗"} {escape(check.name)}</td>'
        f"<td>{_cell(check.value)} {escape(check.unit)}</td><td>{escape(check.op)} {check.goal:g}</td></tr>"
        for check in checks
    )
    return f"<table><thead><tr><th>figure</th><th>value</th><th>goal</th></tr></thead><tbody>{rows}</tbody></table>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def chart(
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[Line],
    bands: Sequence[Band] = (),
    limit: float | None = None,
) -> str:
    """Return lines over two linear axes from zero; ``limit`` is a level that should not be passed."""
    points = [(x, y) for line in lines for x, y in line.points if math.isfinite(x) and math.isfinite(y)]
    low = min((x for x, _ in points), default=0.0)
    low = 0.0 if low < 0.5 * max((x for x, _ in points), default=1.0) else low
    x_ticks = ticks(low, max((x for x, _ in points), default=1.0))
    y_ticks = ticks(0.0, max([y for _, y in points] + ([limit] if limit else []), default=1.0))

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]), (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    body = [_axes(x_ticks, y_ticks, x_label, y_label)]
    for band in bands:
        left, right = at(band.begin, 0)[0], at(band.end, 0)[0]
        body.append(
            f'<rect class="band" x="{left:.1f}" y="{TOP}" width="{max(right - left, 2):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}" fill="#c2571a" opacity=".16"><title>{escape(band.name)}</title></rect>'
            f'<text x="{left + 3:.1f}" y="{TOP + 11}">{escape(band.name)}</text>'
        )
    if limit:
        y = at(x_ticks[0], limit)[1]
        body.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#b3261e" stroke-dasharray="6 4"/>'
        )
    for line, colour in zip(lines, COLOURS * (len(lines) // len(COLOURS) + 1), strict=False):
        body.extend(
            f'<polyline stroke="{colour}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in piece)}"/>'
            for piece in _pieces(line, at)
        )
    keys = "".join(
        f'<i class="key" style="background:{colour}"></i>{escape(line.name)}'
        for line, colour in zip(lines, COLOURS * (len(lines) // len(COLOURS) + 1), strict=False)
    )
    text = escape(title)
    return (
        f"<h2>{text}</h2><p>{keys}</p>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text}"><title>{text}</title>{"".join(body)}</svg>'
    )


def _pieces(line: Line, at: object) -> list[list[tuple[float, float]]]:
    assert callable(at)
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in line.points:
        if not math.isfinite(y):
            pieces.append([])
            continue
        place = at(x, y)
        if line.steps and pieces[-1]:
            pieces[-1].append((place[0], pieces[-1][-1][1]))
        pieces[-1].append(place)
    return [piece for piece in pieces if piece]


def _axes(x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str) -> str:
    parts = []
    for index, value in enumerate(y_ticks):
        y = HEIGHT - BOTTOM - index / (len(y_ticks) - 1) * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text text-anchor="end" x="{LEFT - 6}" y="{y + 4:.1f}">{value:g}</text>')
    for index, value in enumerate(x_ticks):
        x = LEFT + index / (len(x_ticks) - 1) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text text-anchor="middle" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}">{value:g}</text>')
    parts.append(f'<text text-anchor="middle" x="{WIDTH / 2}" y="{HEIGHT - 6}">{escape(x_label)}</text>')
    parts.append(f'<text x="{LEFT + 4}" y="{TOP - 4}">{escape(y_label)}</text>')
    return "".join(parts)


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Return round values, equally far apart, that cover a range: steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * wanted >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]
