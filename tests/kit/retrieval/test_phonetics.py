"""Sounds as vectors: what people mix up lies closer together than what they do not."""

import math

import numpy as np
import pytest
from strings import INVENTORY, said

from kit.retrieval import phonetics
from kit.text.phonemes import ARPABET, FINALS, INITIALS, PhonemeInventory

VECTORS, COSTS = phonetics.vectors(INVENTORY), phonetics.costs(INVENTORY)

MIXED_UP = (
    "an1 ang1, in2 ing2, en4 eng4, i3 i2, zh z, sh s, ch c, b p, d t, b B, s S, ai4 AY, i1 IY, ou1 OW, "
    "B P, V F, M N, S Z, TH S, IH IY, AE EH, UH UW"
)


def cost(one, other):
    return COSTS[tuple(INVENTORY.encode([one, other]))]


def test_every_sound_is_described_and_none_like_another():
    assert VECTORS.shape == (len(INVENTORY), phonetics.DIM) and VECTORS.dtype == np.float32
    assert not VECTORS[0].any() and VECTORS[1:].any(1).all()
    assert len(np.unique(VECTORS, axis=0)) == len(INVENTORY)
    tonal = [f"{final}{tone}" for final in FINALS for tone in range(1, 6)]
    assert all(phonetics._features(symbol) for symbol in [*INITIALS, *tonal, *ARPABET])
    assert not any(phonetics._features(symbol) for symbol in ("", "<blank>", "an", "an6", "xx1", "1", "Q"))


def test_costs_are_a_distance_that_ends_at_one():
    assert COSTS.shape == (len(INVENTORY),) * 2 and (COSTS == COSTS.T).all()
    assert (COSTS.diagonal() == 0).all() and (COSTS + np.eye(len(COSTS)) > 0).all() and COSTS.max() == 1
    for middle in range(1, len(INVENTORY), 7):
        around = COSTS[:, middle, None] + COSTS[None, middle]
        assert (around >= COSTS - 1e-6).all()
    for one, other in ((3, 77), (50, 51), (200, 240)):
        far = math.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(VECTORS[one], VECTORS[other], strict=True)))
        assert COSTS[one, other] == pytest.approx(min(1.0, far), abs=1e-6)


@pytest.mark.parametrize("pair", MIXED_UP.split(", "))
def test_what_is_often_mixed_up_is_cheap(pair):
    """Nine of ten other sounds are further from both."""
    one, other = said(pair)
    for place in (one, other):
        assert COSTS[one, other] < np.quantile(np.delete(COSTS[place], [0, place]), 0.1)


def test_a_tone_is_less_than_a_final_and_a_vowel_is_no_consonant():
    for final in FINALS:
        tones = INVENTORY.encode([f"{final}{tone}" for tone in range(1, 6)])
        others = INVENTORY.encode([f"{other}{tone}" for other in FINALS for tone in range(1, 6) if other != final])
        assert np.median(COSTS[np.ix_(tones, others)]) > 1.5 * COSTS[np.ix_(tones, tones)].max()
    assert min(cost(one, other) for one in INITIALS for other in ("a1", "i4", "ou2", "AH", "ER")) == 1


def test_a_final_is_bare_where_no_initial_stands_before_it():
    alone = phonetics.bare(INVENTORY)
    for before, one in enumerate(INVENTORY.symbols):
        for symbol, other in enumerate(INVENTORY.symbols):
            is_final = other[:-1] in FINALS and other[-1] in "12345"
            assert alone[before, symbol] == (is_final and one not in INITIALS)
    assert not phonetics.bare(PhonemeInventory(["<blank>", "foo", "bar"])).any()


def test_symbols_of_a_foreign_inventory_get_vectors_by_their_name():
    some = PhonemeInventory(["<blank>", "foo", "an1", "bar", "baz"])
    same = PhonemeInventory(["<blank>", "baz", "foo"])
    found, again = phonetics.vectors(some), phonetics.vectors(same)
    assert (found[[1, 4]] == again[[2, 1]]).all() and (found[2] == VECTORS[INVENTORY.encode(["an1"])[0]]).all()
    np.testing.assert_allclose(np.linalg.norm(found[[1, 3, 4]], axis=1), 1.0, rtol=1e-6)
    assert phonetics.costs(some)[1, 3:].min() > 0.8


def test_nobody_can_change_what_all_share():
    for table in (VECTORS, COSTS):
        with pytest.raises(ValueError):
            table[1, 1] = 2.0
    assert phonetics.vectors(PhonemeInventory.default()) is VECTORS
