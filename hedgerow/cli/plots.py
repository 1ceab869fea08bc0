"""Small plots of characters: curves and bars where people would rather look than read numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

# Dots of a braille character by (row, column): two columns of four rows.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Axis:
    """What a plot shows along one side: its range, and the texts at both ends.

    Attributes:
        low: value at the beginning.
        high: value at the end.
        text: how values are written.
    """

    low: float
    high: float
    text: str = "{:.3g}"

    @classmethod
    def around(cls, values: Sequence[float], text: str = "{:.3g}") -> Axis:
        """Returns the axis that just holds some values."""
        low, high = min(values), max(values)
        if low == high:
            low, high = low - 0.5, high + 0.5
        return cls(low, high, text)

    def place(self, value: float, steps: int) -> int:
        """Returns the step, from 0 to `steps - 1`, that a value falls on."""
        share = (value - self.low) / (self.high - self.low)
        return round(min(max(share, 0.0), 1.0) * (steps - 1))


def curve(points: Sequence[tuple[float, float]], x: Axis, y: Axis, *, width: int = 56, height: int = 10) -> list[str]:
    """Returns the lines of a curve through points, its axis on the left and below.

    Args:
        points: from left to right; consecutive ones are joined.
        x: the horizontal axis.
        y: the vertical axis.
        width: characters of the plot itself.
        height: lines of the plot itself.
    """
    columns, rows = width * 2, height * 4
    cells = [[0] * width for _ in range(height)]
    for column, row in _joined([(x.place(px, columns), rows - 1 - y.place(py, rows)) for px, py in points]):
        cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    labels = {0: y.text.format(y.high), height - 1: y.text.format(y.low)}
    margin = max(len(label) for label in labels.values())
    lines = [
        f"{labels.get(index, '').rjust(margin)} ┤{''.join(chr(_BLANK + cell) for cell in line)}"
        for index, line in enumerate(cells)
    ]
    first, last = x.text.format(x.low), x.text.format(x.high)
    return [*lines, " " * (margin + 1) + "└" + "─" * width, " " * (margin + 2) + first + last.rjust(width - len(first))]


def _joined(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns the dots of the straight lines between places."""
    dots = list(places[:1])
    for (x0, y0), (x1, y1) in itertools.pairwise(places):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        dots += [
            (x0 + round((x1 - x0) * step / steps), y0 + round((y1 - y0) * step / steps)) for step in range(1, steps + 1)
        ]
    return dots


def bar(value: float, full: float, *, width: int = 24) -> str:
    """Returns a bar of at most `width` characters, in steps of an eighth of one."""
    share = min(max(value / full, 0.0), 1.0) if full > 0 else 0.0
    whole, rest = divmod(round(share * width * 8), 8)
    return ("█" * whole + _EIGHTHS[rest]).rstrip().ljust(width)
