"""Small pictures of curves, written by hand as SVG: both axes logarithmic, a dashed line for "linear"."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

WIDTH: Final = 560
HEIGHT: Final = 320
LEFT: Final = 70
BOTTOM: Final = 50
TOP: Final = 40
RIGHT: Final = 20

Points = Sequence[tuple[float, float]]


def draw(path: Path, title: str, across: str, up: str, points: Points, *, linear: bool = False) -> None:
    """Write the curve through `points`; with `linear`, also what growing in proportion would look like."""
    lines = [points]
    if linear:
        first = points[0]
        lines.append([(x, first[1] * x / first[0]) for x, _ in points])
    xs = _decades([x for x, _ in points])
    ys = _decades([y for line in lines for _, y in line])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="22" text-anchor="middle" font-size="14">{title}</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">{across}</text>',
        f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" '
        f'transform="rotate(-90 16 {HEIGHT / 2})">{up}</text>',
        *(_grid_line(x, xs, ys, is_across=True) for x in _ticks(xs)),
        *(_grid_line(y, xs, ys, is_across=False) for y in _ticks(ys)),
    ]
    for line, style in zip(lines, ('stroke="#0550ae"', 'stroke="#999" stroke-dasharray="5 4"'), strict=False):
        corners = " ".join(f"{_x(x, xs):.1f},{_y(y, ys):.1f}" for x, y in line)
        parts.append(f'<polyline points="{corners}" fill="none" stroke-width="2" {style}/>')
    for x, y in points:
        parts.append(f'<circle cx="{_x(x, xs):.1f}" cy="{_y(y, ys):.1f}" r="4" fill="#0550ae"/>')
        parts.append(
            f'<text x="{_x(x, xs):.1f}" y="{_y(y, ys) - 9:.1f}" text-anchor="middle">{_short(y)}</text>'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>", ""]))


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten around `values`."""
    low = math.floor(math.log10(min(values)))
    return low, max(low + 1, math.ceil(math.log10(max(values) * 1.2)))


def _ticks(span: tuple[int, int]) -> list[float]:
    return [10.0**power for power in range(span[0], span[1] + 1)]


def _x(value: float, span: tuple[int, int]) -> float:
    return LEFT + (math.log10(value) - span[0]) / (span[1] - span[0]) * (WIDTH - LEFT - RIGHT)


def _y(value: float, span: tuple[int, int]) -> float:
    return HEIGHT - BOTTOM - (math.log10(value) - span[0]) / (span[1] - span[0]) * (HEIGHT - BOTTOM - TOP)


def _grid_line(value: float, xs: tuple[int, int], ys: tuple[int, int], *, is_across: bool) -> str:
    if is_across:
        x = _x(value, xs)
        return (
            f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>'
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_short(value)}</text>'
        )
    y = _y(value, ys)
    return (
        f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>'
    )


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.3g}"
