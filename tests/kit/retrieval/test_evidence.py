"""The chances of phonemes against counting them one by one."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from strings import INVENTORY, made_up, said

from kit.retrieval import evidence
from kit.retrieval.evidence import Chances

SYMBOLS = 9


def joined(strings):
    return (
        np.frombuffer(b"".join(strings), np.uint8),
        np.cumsum([0, *map(len, strings)], dtype=np.int64),
    )


def by_hand(strings, symbols):
    """{(first, second): nats}, pair by pair."""
    pairs = Counter(pair for string in strings for pair in pairwise(b"\0" + string))
    single, first = Counter(), Counter()
    for (one, other), count in pairs.items():
        first[one] += count
        single[other] += count
    total = sum(single.values()) + symbols
    found = {}
    for one in range(symbols):
        for other in range(symbols):
            expected = evidence._SMOOTHING * (single[other] + 1) / total
            found[one, other] = -math.log((pairs[one, other] + expected) / (first[one] + evidence._SMOOTHING))
    return found


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (7, 1), (200, 2)])
def test_surprise_is_counted_by_pairs(count, seed):
    strings = made_up(count, seed, shortest=1, longest=7, symbols=SYMBOLS)
    chances = Chances.learn(*joined(strings), SYMBOLS)
    for pair, nats in by_hand(strings, SYMBOLS).items():
        assert chances.table[pair] == pytest.approx(nats, rel=1e-5)
    np.testing.assert_allclose(np.exp(-chances.table.astype(float)).sum(1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("share", [0.8, 5.0])
def test_credit_is_the_share_of_the_surprise_that_choosing_leaves(monkeypatch, share):
    monkeypatch.setattr(evidence, "SHARE", share)
    strings = made_up(60, 3, shortest=1, longest=12, symbols=SYMBOLS)
    chances = Chances.learn(*joined(strings[:40]), SYMBOLS)
    nats = by_hand(strings[:40], SYMBOLS)
    expected = [
        max(0.0, share * sum(nats[pair] for pair in pairwise(b"\0" + string)) - math.log(60 + evidence.RARE))
        for string in strings
    ]
    np.testing.assert_allclose(chances.credit(*joined(strings)), expected, rtol=1e-4, atol=1e-4)
    assert any(expected)


def test_what_is_rare_or_long_or_of_a_short_list_has_more_credit():
    usual, rare = bytes([1, 2, 3, 1, 2, 3, 1, 2]), bytes([1, 4, 3, 1, 4, 3, 1, 4])
    chances = Chances.learn(*joined([usual] * 50 + [rare]), SYMBOLS)

    def credit(*strings):
        return chances.credit(*joined(strings)).tolist()

    assert credit(usual, rare)[0] < credit(usual, rare)[1]
    assert credit(rare[:4], rare)[0] < credit(rare[:4], rare)[1]
    assert credit(rare, *[usual] * 5000)[0] < credit(rare)[0]


def test_without_names_nothing_is_known():
    nothing = joined([])
    learned = Chances.learn(*nothing, SYMBOLS)
    np.testing.assert_allclose(learned.table, math.log(SYMBOLS), rtol=1e-6)
    assert learned.credit(*nothing).shape == Chances.typical(INVENTORY).credit(*nothing).shape == (0,)


def test_typically_beginnings_and_bare_finals_surprise_more():
    table = Chances.typical(INVENTORY).table
    assert table.shape == (len(INVENTORY),) * 2
    for string, expected in {
        "x in1 t ian1 d i4": [evidence.TYPICAL_FIRST] + [evidence.TYPICAL] * 5,
        "uai4 t an1": [evidence.TYPICAL_BARE, evidence.TYPICAL, evidence.TYPICAL],
        "n an2 ou1 B AY": [evidence.TYPICAL_FIRST, evidence.TYPICAL, evidence.TYPICAL_BARE] + [evidence.TYPICAL] * 2,
    }.items():
        assert [table[pair] for pair in pairwise(b"\0" + said(string))] == expected
    several = [said("uai4 t an1 x in1 t ian1 d i4"), said("d i4")]
    nats = evidence.TYPICAL_BARE + 8 * evidence.TYPICAL
    expected = [evidence.SHARE * nats - math.log(2 + evidence.RARE), 0.0]
    assert Chances.typical(INVENTORY).credit(*joined(several)) == pytest.approx(expected, rel=1e-5)


def test_many_symbols_do_not_overflow():
    strings = [bytes([254, 254, 253]), bytes([254])]
    chances = Chances.learn(*joined(strings), 255)
    assert chances.table[254, 254] < chances.table[254, 1] and np.isfinite(chances.table).all()
