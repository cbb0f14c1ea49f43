"""What a margin is worth, against counting by hand; the one that is told is the smallest that is good enough."""

import math
import random

import pytest

from kit.retrieval.calibrate import Point, curve, in_hundredths, least_margin


def drawn(seed, count=30):
    """Hints with some equal evidence among them, the better ones more often right; names found by some of them."""
    draw = random.Random(seed)
    evidence = [round(draw.gauss(2, 2), draw.choice([0, 2])) for _ in range(count)]
    hints = [(one, draw.random() < 1 / (1 + math.exp(-one))) for one in evidence]
    names = [draw.choice([*evidence, -math.inf]) for _ in range(draw.randint(0, 12))]
    return hints, names


def worth(hints, names, margin):
    """By looking at all."""
    there = [right for evidence, right in hints if evidence >= margin]
    return Point(margin, len(there), sum(there), sum(evidence >= margin for evidence in names))


@pytest.mark.parametrize("seed", range(20))
def test_the_curve_has_every_margin_that_makes_a_difference(seed):
    hints, names = drawn(seed)
    points = curve(iter(hints), iter(names))
    assert [point.margin for point in points] == sorted({evidence for evidence, _ in hints}, reverse=True)
    assert points == [worth(hints, names, point.margin) for point in points]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("precision", [0.2, 0.7, 0.9, 1.0])
def test_the_least_margin_by_trying_all(seed, precision):
    hints, names = drawn(seed)
    good = [margin for margin, _ in hints if worth(hints, names, margin).precision >= precision]
    found = least_margin(curve(hints, names), precision)
    assert (found.margin if found else None) == min(good, default=None)


def test_without_hints_there_is_no_margin():
    assert curve([], [1.0, -math.inf]) == []
    assert least_margin([], 0.5) is None
    assert least_margin(curve([(1.0, False)], []), 0.1) is None
    assert least_margin(curve([(1.0, False), (0.5, True)], [0.5]), 0.5) == Point(0.5, 2, 1, 1)


def test_a_margin_in_hundredths_lets_the_same_hints_pass():
    draw = random.Random(0)
    for _ in range(1000):
        evidence, margin = draw.uniform(-3, 9), draw.randint(-300, 900) / 100
        assert (in_hundredths(evidence) >= margin) == (evidence >= margin)
    assert in_hundredths(-math.inf) == -math.inf
