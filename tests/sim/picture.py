"""The picture of a comparison, as SVG: GPU hours against requests that had to wait, a panel for each number of people.

It needs no script and no font of its own, and follows the reader's light or dark scheme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from .report import Row

PANEL_WIDTH, PANEL_HEIGHT = 430, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 44, 52
OWN = frozenset({"hours and on demand", "on demand"})
STYLE = """
svg { font: 12px system-ui, sans-serif; color-scheme: light dark; }
text { fill: #333; } .axis { stroke: #999; stroke-width: 1; } .grid { stroke: #ddd; stroke-width: 1; }
.own { fill: #0b6e4f; } .other { fill: #8a8a8a; } .title { font-weight: 600; font-size: 13px; }
.goal { fill: #0b6e4f; opacity: 0.08; }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd; } .axis { stroke: #888; } .grid { stroke: #444; }
  .own { fill: #4fd1a5; } .other { fill: #9a9a9a; } .goal { fill: #4fd1a5; }
}
"""
# left, top, right, bottom
Box = tuple[float, float, float, float]
# of the names: the width of a letter, and the height of a line
LETTER, LINE = 6.3, 13.0


def draw(tables: Mapping[tuple[int, int], Sequence[Row]]) -> str:
    """Return the picture of all tables, by people and days, side by side."""
    panels = []
    for index, ((people, days), rows) in enumerate(tables.items()):
        panels.append(f'<g transform="translate({index * PANEL_WIDTH} 0)">{_panel(people, rows, days)}</g>')
    width = PANEL_WIDTH * max(len(tables), 1)
    label = "GPU hours and the share of requests that waited more than 10 seconds, by policy"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {PANEL_HEIGHT}" role="img" '
        f'aria-label="{label}"><style>{STYLE}</style>{"".join(panels)}</svg>\n'
    )


def _panel(people: int, rows: Sequence[Row], days: int) -> str:
    """Return one diagram: across GPU hours, up the share of requests that waited."""
    most_hours = _round_up(max((row.gpu_hours for row in rows), default=1.0))
    most_share = _round_up(max((row.waited_share * 100 for row in rows), default=1.0))
    title = f"{people} {'person' if people == 1 else 'people'}, {days} days"
    parts = [f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>']
    always = next((row.gpu_hours for row in rows if row.name == "always on"), None)
    if always is not None:
        # at most 40 % of the GPU hours, and at most 1 % of the requests
        x, y = _x(0.4 * always, most_hours), _y(min(1.0, most_share), most_share)
        parts.append(f'<rect class="goal" x="{LEFT}" y="{y:.1f}" width="{x - LEFT:.1f}" height="{_floor() - y:.1f}"/>')
    for step in range(5):
        hours, share = most_hours * step / 4, most_share * step / 4
        x, y = _x(hours, most_hours), _y(share, most_share)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{_floor()}"/>')
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{_wall()}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{_floor() + 16}" text-anchor="middle">{hours:,.0f}</text>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.2g} %</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{_floor()}" x2="{_wall()}" y2="{_floor()}"/>')
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{_floor()}"/>')
    parts.append(f'<text x="{_wall()}" y="{_floor() + 36}" text-anchor="end">GPU hours</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 8}">requests that waited more than 10 s</text>')
    return "".join(parts + _points(rows, most_hours, most_share))


def _points(rows: Sequence[Row], most_hours: float, most_share: float) -> list[str]:
    """Return the points with their names, each where it covers no other name and no point."""
    parts: list[str] = []
    ordered = sorted(rows, key=lambda row: row.waited_share, reverse=True)
    at = [(_x(row.gpu_hours, most_hours), _y(row.waited_share * 100, most_share)) for row in ordered]
    used: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in at]
    for row, (x, y) in zip(ordered, at, strict=True):
        box = _place(row.name, x, y, used)
        used.append(box)
        kind = "own" if row.name in OWN else "other"
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        parts.append(f'<text x="{box[0]:.1f}" y="{box[3] - 3:.1f}">{escape(row.name)}</text>')
    return parts


def _place(name: str, x: float, y: float, used: Sequence[Box]) -> Box:
    """Return the place of a name: as near to its point as there is room."""
    width = LETTER * len(name)
    for step in range(8):
        for down in (LINE * step, -LINE * step):
            top = y - LINE / 2 + down
            for left in (x + 9, x - 9 - width):
                box = (left, top, left + width, top + LINE)
                inside = (
                    left > LEFT and left + width < PANEL_WIDTH and top > TOP - LINE and box[3] < _floor() + LINE / 2
                )
                if inside and not any(_overlap(box, other) for other in used):
                    return box
    return (x + 9, y - LINE / 2, x + 9 + width, y + LINE / 2)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _floor() -> int:
    return PANEL_HEIGHT - BOTTOM


def _wall() -> int:
    return PANEL_WIDTH - RIGHT


def _x(hours: float, most: float) -> float:
    return LEFT + hours / most * (_wall() - LEFT)


def _y(share: float, most: float) -> float:
    return _floor() - share / most * (_floor() - TOP)


def _round_up(value: float) -> float:
    """Return the next larger number of the form 1, 2, 4, 5 or 8 times a power of ten."""
    if value <= 0:
        return 1.0
    scale: float = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 0.1
    return next((step * scale for step in (1, 2, 4, 5, 8, 10) if step * scale >= value), 10 * scale)
