"""How much evidence hotwords need so that a wanted share of the hints was really said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """What a margin is worth.

    Attributes:
        margin: evidence that a hint has at least, in nats.
        hints: that have it.
        right: of these, that were said.
        found: names said that are among the hints.
    """

    margin: float
    hints: int
    right: int
    found: int

    @property
    def precision(self) -> float:
        """Share of the hints that were said."""
        return self.right / self.hints


def curve(hints: Iterable[tuple[float, bool]], names: Iterable[float]) -> list[Point]:
    """What every margin is worth that makes a difference, by falling margin.

    Args:
        hints: the evidence of each hint and whether it was said. None may exclude another of less evidence.
        names: the evidence by which each name that was said is a hint; minus infinity if it is none.
    """
    ordered = sorted(hints, key=lambda hint: -hint[0])
    said = sorted(names, reverse=True)
    points: list[Point] = []
    right = found = 0
    for count, (margin, was_said) in enumerate(ordered, 1):
        right += was_said
        while found < len(said) and said[found] >= margin:
            found += 1
        if count == len(ordered) or ordered[count][0] < margin:
            points.append(Point(margin, count, right, found))
    return points


def least_margin(points: Sequence[Point], precision: float) -> Point | None:
    """The smallest margin with at least this precision; None if there is none."""
    good = [point for point in points if point.precision >= precision]
    return min(good, key=lambda point: point.margin, default=None)


def in_hundredths(evidence: float) -> float:
    """The largest margin with two decimals that some evidence satisfies."""
    return math.floor(evidence * 100) / 100 if math.isfinite(evidence) else evidence
