"""Strings held against the audio, against sums over all paths, one question at a time."""

import itertools
import math
import random

import pytest
import torch
from cases import random_log_probs, said_best

from kit.retrieval.acoustic import Question, scores


def chunks_of(log_probs, rng, most=5):
    """The same frames in pieces, some of them empty."""
    cuts = sorted(rng.choices(range(len(log_probs) + 1), k=most - 1))
    return [log_probs[start:end] for start, end in itertools.pairwise([0, *cuts, len(log_probs)])]


def utterances(seed, count=3, frames=30, symbols=9):
    return [random_log_probs(1, frames + 7 * row, symbols, seed + row)[0].float() for row in range(count)]


def questions(whole, rng, count=40, symbols=9):
    """Strings of one to five symbols in stretches of any utterance, anywhere."""
    found = []
    for _ in range(count):
        row = rng.randrange(len(whole))
        first, last = sorted(rng.sample(range(len(whole[row]) + 1), 2))
        found.append(Question(row, bytes(rng.choices(range(1, symbols), k=rng.randint(1, 5))), first, last))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_sums_over_all_paths_up_to_the_best_end(seed):
    rng = random.Random(seed)
    whole = utterances(seed, frames=9, symbols=4)
    asked = [
        Question(0, b"\1\2", 0, 6),
        Question(2, b"\2\2", 3, 8),
        Question(1, b"\3\1\2", 2, 7),
        Question(0, b"\3", 8, 9),
    ]
    asked += [Question(row, b"\1\3", first, first + 4) for row in range(3) for first in (0, 5)]
    rng.shuffle(asked)
    found = scores([chunks_of(one, rng) for one in whole], asked)
    for one, score in zip(asked, found, strict=True):
        expected, _ = said_best(whole[one.utterance].double(), tuple(one.string), one.first, one.last - one.first)
        assert score == pytest.approx(math.log(expected), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_all_at_once_is_one_by_one_and_chunks_are_the_whole(seed):
    """Alone, a question is asked of nothing but the frames that it is about."""
    rng = random.Random(seed)
    whole = utterances(seed)
    asked = questions(whole, rng)
    stretches = [whole[one.utterance][one.first : one.last] for one in asked]
    alone = [
        scores([[stretch]], [Question(0, one.string, 0, len(stretch))])[0]
        for one, stretch in zip(asked, stretches, strict=True)
    ]
    for most in (1, 4, 20):
        cut = [chunks_of(one, rng, most) for one in whole]
        assert scores(cut, asked) == pytest.approx(alone, abs=1e-4)
        assert scores(cut, asked[::-1]) == pytest.approx(alone[::-1], abs=1e-4)


def test_a_longer_stretch_contains_no_less():
    whole, string = utterances(4)[0], b"\1\5\2"
    inner, behind, before = scores([[whole]], [Question(0, string, *ends) for ends in ((8, 20), (8, 30), (0, 20))])
    assert behind >= inner - 1e-5 and before >= inner - 1e-5


def test_what_was_said_has_the_probability_of_its_frames():
    """All of 9 parts in 10; the first phoneme has two frames to begin in. Other strings are as good as impossible."""
    path = [0, 0, 3, 3, 0, 5, 5, 0, 2, 2, 0, 0]
    log_probs = torch.full((len(path), 9), math.log(0.1 / 8))
    log_probs[torch.arange(len(path)), torch.tensor(path)] = math.log(0.9)
    right, wrong, cut = scores(
        [[log_probs]], [Question(0, b"\3\5\2", 0, 12), Question(0, b"\4\7\1", 0, 12), Question(0, b"\3\5\2", 6, 12)]
    )
    assert math.log(0.9) * 6 < right < math.log(2) and wrong < right - 8 and cut < right - 3


def test_nothing_is_heard_where_nothing_can_be():
    whole = utterances(5)
    asked = [
        Question(0, b"\1", 4, 4),
        Question(1, b"\1\2\3\4", 3, 6),
        Question(2, b"\1\1", 3, 5),
        Question(0, b"\1", 4, 5),
    ]
    found = scores([[one] for one in whole], asked)
    assert found[:3] == [-500.0] * 3 and found[3] == pytest.approx(whole[0][4, 1].item(), abs=1e-5)
    assert scores([[one] for one in whole], []) == scores([], []) == []


def test_half_precision_is_read_as_it_is():
    whole = [one.half() for one in utterances(6)]
    asked = questions(whole, random.Random(6))
    expected = scores([[one.float()] for one in whole], asked)
    assert scores([[one] for one in whole], asked) == pytest.approx(expected, abs=1e-4)


def test_chunks_that_nobody_asks_about_are_left_alone():
    whole, rng = utterances(7), random.Random(7)
    asked = [Question(1, b"\1\2", 20, 30), Question(1, b"\4", 12, 19)]
    expected = scores([[one] for one in whole], asked)
    poisoned = [[one] for one in whole]
    poisoned[0] = [torch.full((40, 9), math.nan)]
    poisoned[1] = [torch.full((12, 9), math.nan), *chunks_of(whole[1][12:], rng)]
    assert scores(poisoned, asked) == pytest.approx(expected, abs=1e-4)
