import random

import pytest
import torch
from hearing import INVENTORY, head, silence

from kit.errors import KitError
from kit.evaluation.mishearing import Snippets, heard, pieces

SYMBOLS = range(1, 60)


def utterances(count, seed, wrong=0.2):
    """Strings and how they were heard: some phonemes as others, some not at all, some twice."""
    draw = random.Random(seed)
    for _ in range(count):
        said, doubts = draw.choices(SYMBOLS, k=30), {}
        for place, symbol in enumerate(said):
            if draw.random() < wrong:
                other = draw.choice([0, *SYMBOLS])
                doubts[place] = {other: 0.7, symbol: 0.3}
        yield head(said, doubts), said


@pytest.fixture(scope="module")
def snippets():
    return Snippets(utterances(60, 0), INVENTORY)


def test_pieces_are_the_utterance_cut_between_its_phonemes():
    log_probs, said = next(utterances(1, 1, wrong=0.0))
    cut = list(pieces(torch.cat([silence(5), log_probs, silence(7)]), said))
    assert [symbol for symbol, _ in cut] == said
    assert all(heard(rows) == [symbol] for symbol, rows in cut)
    assert list(pieces(log_probs[:10], said)) == []


def test_what_is_spoken_without_errors_is_heard_so(snippets):
    draw = random.Random(2)
    string = [*draw.choices(SYMBOLS, k=100), 7, 7, 7]  # repeated ones stay apart
    assert heard(snippets.speak(string, 0.0, draw)) == string
    assert heard(snippets.speak(bytes(string), 0.0, draw)) == string


@pytest.mark.parametrize("errors", [0.1, 0.5, 1.0])
def test_the_share_of_errors_is_as_wanted(snippets, errors):
    draw = random.Random(3)
    wrong = [heard(snippets.speak([symbol], errors, draw)) != [symbol] for symbol in draw.choices(SYMBOLS, k=1500)]
    assert sum(wrong) / len(wrong) == pytest.approx(errors, abs=0.04)


def test_probabilities_are_the_heads_own(snippets):
    rows = snippets.speak(random.Random(4).choices(SYMBOLS, k=200), 0.5, random.Random(5))
    assert torch.allclose(rows.exp().sum(1), torch.ones(len(rows)), atol=1e-5)
    assert {round(float(x), 2) for x in rows.exp().amax(1)} <= {1.0, 0.7}


def test_a_phoneme_that_was_never_heard_borrows_from_its_neighbors(snippets):
    stranger = max(SYMBOLS) + 5
    assert heard(snippets.speak([stranger], 0.0, random.Random(0))) == [stranger]
    assert heard(snippets.speak([stranger], 1.0, random.Random(0))) != [stranger]


def test_the_same_draw_speaks_the_same(snippets):
    one, other = (snippets.speak(range(1, 40), 0.3, random.Random(9)) for _ in range(2))
    assert torch.equal(one, other)


def test_the_error_rate_is_that_of_the_phonemes():
    found = Snippets(utterances(60, 6), INVENTORY)
    assert found.error_rate == pytest.approx(0.2, abs=0.03)


def test_nothing_to_learn_from_is_told():
    with pytest.raises(KitError, match="take more utterances"):
        Snippets(utterances(3, 0, wrong=0.0), INVENTORY)
    with pytest.raises(KitError, match="of 0 phonemes"):
        Snippets([], INVENTORY)
