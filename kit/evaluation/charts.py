"""Small charts as SVG for a page: a rate with its interval for each bin and way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 44
SHAPES = ("circle", "square", "triangle", "diamond")  # a way is known by its shape as well as by its color


@dataclass(frozen=True)
class Point:
    """An error rate of some utterances in percent, with its interval."""

    utterances: int
    rate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.rate:.2f} ({self.low:.2f}–{self.high:.2f})"


def chart(series: Mapping[str, Mapping[str, Point]], label: str) -> str:
    """Way -> bin -> rate as one SVG; "" where there is nothing to show."""
    bins = list(dict.fromkeys(name for points in series.values() for name in points))
    if not bins:
        return ""
    top = _ceiling(max(one.high for points in series.values() for one in points.values()))
    parts = [*_axes(bins, top), *_series(series, bins, top)]
    heard = escape(f"{label}: error rate in percent", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{heard}">{"".join(parts)}</svg>'


def marker(place: int, x: float = 8.0, y: float = 8.0) -> str:
    """The mark of the way at a place, centered."""
    shape = SHAPES[place % len(SHAPES)]
    kind = f'class="mark way{place % len(SHAPES)}"'
    if shape == "circle":
        return f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "triangle": ((0, -5), (5, 4), (-5, 4)),
        "diamond": ((0, -5), (5, 0), (0, 5), (-5, 0)),
    }[shape]
    points = " ".join(f"{x + across:.1f},{y + down:.1f}" for across, down in corners)
    return f'<polygon {kind} points="{points}"/>'


def _ceiling(highest: float) -> float:
    """A round number above all values."""
    return next(step for step in _steps() if step >= highest)


def _steps() -> Iterator[float]:
    size = 1.0
    while True:
        yield from (factor * size for factor in (1, 1.6, 2, 3, 4, 6, 8))
        size *= 10


def _x(place: float, bins: Sequence[str]) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * place / len(bins)


def _y(value: float, top: float) -> float:
    return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value / top


def _axes(bins: Sequence[str], top: float) -> Iterator[str]:
    for value in (0, top / 4, top / 2, 3 * top / 4, top):
        height = _y(value, top)
        yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{value:g}</text>'
    for place, name in enumerate(bins):
        yield f'<text x="{_x(place + 0.5, bins):.1f}" y="{HEIGHT - 24}" text-anchor="middle">{escape(name)}</text>'


def _series(series: Mapping[str, Mapping[str, Point]], bins: Sequence[str], top: float) -> Iterator[str]:
    for way, (name, points) in enumerate(series.items()):
        for bin_name, one in points.items():
            x = _x(bins.index(bin_name) + (way + 1) / (len(series) + 1), bins)
            said = f"{name}, {bin_name}: {one.rate:.2f} % ({one.low:.2f}–{one.high:.2f}), {one.utterances} utterances"
            low, high = (_y(value, top) for value in (one.low, one.high))
            bar = f'<line class="bar way{way % len(SHAPES)}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            yield f"<g><title>{escape(said)}</title>{bar}{marker(way, x, _y(one.rate, top))}</g>"
    for place, name in enumerate(bins):
        counts = {points[name].utterances for points in series.values() if name in points}
        where = f'x="{_x(place + 0.5, bins):.1f}" y="{HEIGHT - 8}" text-anchor="middle"'
        yield f'<text class="count" {where}>n = {max(counts)}</text>'
