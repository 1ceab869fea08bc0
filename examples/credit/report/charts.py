"""Small SVG charts for the report. Colours are CSS classes, so that one drawing serves the light and the dark page.

Each function returns an `svg` element that says in words what it shows, for people who cannot see it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 40


@dataclass(frozen=True)
class Line:
    """A named line through points; `style` is a CSS class: `a`, `b` or `ideal`."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high` with a tick each `step`."""

    label: str
    low: float
    high: float
    step: float

    def ticks(self) -> list[float]:
        """Returns the values that get a tick."""
        count = round((self.high - self.low) / self.step)
        return [self.low + index * self.step for index in range(count + 1)]

    def text(self, value: float) -> str:
        """Returns a tick's text with as many decimals as the step needs."""
        decimals = 0
        while decimals < 4 and abs(round(self.step, decimals) - self.step) > 1e-9:
            decimals += 1
        return f"{value:.{decimals}f}"


def nice_axis(label: str, values: Sequence[float], ticks: int = 5) -> Axis:
    """Returns an axis that covers the values with round ticks (1, 2 or 5 times a power of ten)."""
    low, high = min(values), max(values)
    span = (high - low) or max(abs(high), 1.0) * 0.1
    power = 10.0 ** math.floor(math.log10(span / ticks))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * ticks >= span)
    # A bound that is on a tick up to rounding needs no further tick.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(label, first * step, max(last, first + 1) * step, step)


def line_chart(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> Markup:
    """Draws lines over two axes; each line is named at its legend and its dots tell their values on hover."""
    parts = [_grid(x, y)]
    for line in lines:
        path = " ".join(f"{_x(px, x):.1f},{_y(py, y):.1f}" for px, py in line.points)
        parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
        if line.dots:
            parts.extend(_dot(line, point, x, y) for point in line.points)
    return _svg(title, "".join(parts), HEIGHT)


def _dot(line: Line, point: tuple[float, float], x: Axis, y: Axis) -> str:
    tip = escape(f"{line.name}: {point[0]:.4g} → {point[1]:.4g}")
    cx, cy = _x(point[0], x), _y(point[1], y)
    return f'<circle class="dot {line.style}" cx="{cx:.1f}" cy="{cy:.1f}" r="4"><title>{tip}</title></circle>'


def _grid(x: Axis, y: Axis) -> str:
    middle, foot = (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 18
    parts = [_gridline(_y(value, y), y.text(value)) for value in y.ticks()]
    parts += [f'<text class="tick mid" x="{_x(value, x):.1f}" y="{foot}">{x.text(value)}</text>' for value in x.ticks()]
    parts.append(f'<text class="label mid" x="{middle}" y="{HEIGHT - 4}">{escape(x.label)}</text>')
    parts.append(f'<text class="label" x="{LEFT}" y="{TOP - 4}">{escape(y.label)}</text>' if y.label else "")
    return "".join(parts)


def _gridline(at: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text class="tick end" x="{LEFT - 8}" y="{at + 4:.1f}">{text}</text>'
    )


def _x(value: float, axis: Axis) -> float:
    return LEFT + (value - axis.low) / (axis.high - axis.low) * (WIDTH - LEFT - RIGHT)


def _y(value: float, axis: Axis) -> float:
    return HEIGHT - BOTTOM - (value - axis.low) / (axis.high - axis.low) * (HEIGHT - TOP - BOTTOM)


def diverging_bars(title: str, items: Sequence[tuple[str, float]], left: str, right: str) -> Markup:
    """Draws signed bars from one line, in the order given; `left` and `right` say what the signs mean."""
    row, width, name_width, margin = 34, 960, 250, 60
    height = 30 + row * len(items)
    lowest, highest = min(0.0, *(value for _, value in items)), max(0.0, *(value for _, value in items))
    scale = (width - name_width - 2 * margin) / ((highest - lowest) or 1.0)
    zero = name_width + margin - lowest * scale
    parts = [f'<text class="label" x="{zero + 10:.0f}" y="16">{escape(right)} →</text>']
    if lowest < 0:
        parts.append(f'<text class="label end" x="{zero - 10:.0f}" y="16">← {escape(left)}</text>')
    for index, (name, value) in enumerate(items):
        y, length = 30 + index * row, abs(value) * scale
        x, style = (zero, "worse") if value >= 0 else (zero - length, "better")
        at, anchor = (zero + length + 6, "") if value >= 0 else (zero - length - 6, " end")
        parts.append(f'<text class="name end" x="{name_width - 12}" y="{y + 18}">{escape(name)}</text>')
        parts.append(f'<rect class="{style}" x="{x:.1f}" y="{y + 4}" width="{length:.1f}" height="20" rx="3"/>')
        parts.append(f'<text class="value{anchor}" x="{at:.1f}" y="{y + 19}">{_signed(value)}</text>')
    parts.append(f'<line class="axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="26" y2="{height}"/>')
    return _svg(title, "".join(parts), height, width)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


@dataclass(frozen=True)
class RangeDot:
    """A share between 0 and 1 with the interval it may lie in; `style` is a CSS class: `a` or `b`."""

    what: str
    style: str
    value: float
    low: float
    high: float


def range_dots(title: str, rows: Sequence[tuple[str, Sequence[RangeDot]]]) -> Markup:
    """Draws one row per group with dots and their intervals on a common scale; values that are NaN are left out."""
    row, width, name_width = 34, 460, 118
    height = 24 + row * len(rows)
    reach = width - name_width - 24

    def at(value: float) -> float:
        return name_width + value * reach

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line class="grid" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="6" y2="{height - 18}"/>')
        parts.append(f'<text class="tick mid" x="{at(tick):.1f}" y="{height - 3}">{tick:.0%}</text>')
    for index, (name, dots) in enumerate(rows):
        y = 22 + index * row
        parts.append(f'<text class="name end" x="{name_width - 12}" y="{y + 5}">{escape(name)}</text>')
        for dot in dots:
            if not math.isnan(dot.value):
                tip = escape(f"{name}: {dot.what} {dot.value:.1%}, 95 % interval {dot.low:.1%} to {dot.high:.1%}")
                span = f'x1="{at(dot.low):.1f}" x2="{at(dot.high):.1f}" y1="{y}" y2="{y}"'
                parts.append(f'<line class="interval {dot.style}" {span}/>')
                parts.append(f'<circle class="dot {dot.style}" cx="{at(dot.value):.1f}" cy="{y}" r="6">')
                parts.append(f"<title>{tip}</title></circle>")
    return _svg(title, "".join(parts), height, width)


def timeline(title: str, spans: Sequence[tuple[str, float, float]]) -> Markup:
    """Draws spans (name, start, length; seconds) under each other on one time axis."""
    row, width, name_width = 30, 960, 160
    height = 26 + row * len(spans)
    end = max((start + length for _, start, length in spans), default=1.0)
    reach = width - name_width - 70
    parts = []
    for index, (name, start, length) in enumerate(spans):
        y, x, w = 4 + index * row, name_width + start / end * reach, max(length / end * reach, 2.0)
        parts.append(f'<text class="name end" x="{name_width - 12}" y="{y + 17}">{escape(name)}</text>')
        parts.append(f'<rect class="span" x="{x:.1f}" y="{y + 3}" width="{w:.1f}" height="18" rx="3"/>')
        parts.append(f'<text class="value" x="{x + w + 6:.1f}" y="{y + 17}">{length:.1f} s</text>')
    parts.append(
        f'<line class="axis" x1="{name_width}" x2="{name_width + reach}" y1="{height - 18}" y2="{height - 18}"/>'
    )
    for share in (0.0, 0.5, 1.0):
        x = name_width + share * reach
        parts.append(f'<text class="tick mid" x="{x:.1f}" y="{height - 4}">{share * end:.0f} s</text>')
    return _svg(title, "".join(parts), height, width)


def _svg(title: str, body: str, height: int, width: int = WIDTH) -> Markup:
    text = escape(title)
    # Every text that reaches `body` was escaped where it was put in.
    return Markup(  # noqa: S704
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{text}"><title>{text}</title>{body}</svg>'
    )
