"""All strings at once and piece by piece, against the table of the textbook, a string and a cell at a time."""

import random

import numpy as np
import pytest
from strings import INVENTORY, made_up, said

from kit.retrieval.edits import LOST, Edits
from kit.retrieval.phonetics import costs

COSTS = costs(INVENTORY)


def sellers(string, text, table=COSTS):
    """What the string costs at least in a stretch of the text that ends with each symbol, wherever it begins."""
    column, found = [row * LOST for row in range(len(string) + 1)], []
    for heard in text:
        after = [0.0]
        for row, wanted in enumerate(string):
            taken = column[row] + float(table[heard, wanted])
            after.append(min(taken, column[row + 1] + LOST, after[row] + LOST))
        column = after
        found.append(column[-1])
    return found


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_table_of_the_textbook(seed):
    rng = random.Random(seed)
    strings = made_up(rng.randint(1, 12), seed, shortest=1, longest=9)
    text = list(b"".join(rng.choices(strings, k=3))) + rng.choices(range(1, len(INVENTORY)), k=10)
    found, _ = (edits := Edits(COSTS, strings)).follow(edits.start, text)
    expected = np.transpose([sellers(string, text) for string in strings])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_any_table_of_costs_will_do():
    table = np.random.default_rng(1).random((6, 6)).astype(np.float32)
    strings = made_up(9, 1, shortest=1, longest=5, symbols=6)
    text = random.Random(1).choices(range(1, 6), k=30)
    found, _ = (edits := Edits(table, strings)).follow(edits.start, text)
    expected = np.transpose([sellers(string, text, table) for string in strings])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_a_text_can_be_cut_anyhow_and_gone_on_from_any_place(seed):
    rng = random.Random(seed)
    edits = Edits(COSTS, made_up(7, seed, shortest=1, longest=12))
    text = rng.choices(range(1, len(INVENTORY)), k=40)
    whole, last = edits.follow(edits.start, text)
    state, parts, begun = edits.start, [], 0
    while begun < len(text):
        size = rng.randint(0, 7)
        kept = state.copy()
        part, after = edits.follow(state, text[begun : begun + size])
        assert (state == kept).all() and not np.shares_memory(state, after)
        parts.append(part)
        state, begun = after, begun + size
    assert (np.concatenate(parts) == whole).all() and (state == last).all()
    assert (edits.start == 0).all()


def test_a_string_is_judged_alike_in_any_company():
    strings, text = made_up(20, 5, shortest=1, longest=15), b"".join(made_up(3, 6))
    together, _ = (edits := Edits(COSTS, strings)).follow(edits.start, text)
    for place, string in enumerate(strings):
        alone, _ = (edits := Edits(COSTS, [string])).follow(edits.start, text)
        np.testing.assert_allclose(alone[:, 0], together[:, place], rtol=0, atol=1e-5)


def test_what_was_said_costs_nothing_and_an_error_what_it_should():
    one, rest = list(said("x in1 t ian1 d i4")), list(said("q v4 HH AY"))
    edits = Edits(COSTS, [bytes(one)])

    def least(heard):
        return edits.follow(edits.start, [*rest, *heard, *rest])[0].min()

    assert least(one) == pytest.approx(0, abs=1e-6)
    near, other = said("ing1 in1")
    assert least([one[0], near, *one[2:]]) == pytest.approx(float(COSTS[near, other]), abs=1e-6)
    assert least(one[:2] + one[3:]) == pytest.approx(LOST) == least([*one[:3], rest[0], *one[3:]])
    assert least(rest) <= len(one) * LOST  # nothing of it was said


def test_without_strings_or_text_there_is_nothing_to_find():
    edits = Edits(COSTS, [])
    found, state = edits.follow(edits.start, [1, 2, 3])
    assert found.shape == (3, 0) and edits.follow(state, [4])[0].shape == (1, 0)
    edits = Edits(COSTS, made_up(3, 1))
    found, state = edits.follow(edits.start, [])
    assert found.shape == (0, 3) and (state == edits.start).all()
