"""Rewards by tables of worked examples, and the distance they rest on against another implementation of it."""

import math
from random import Random

import pytest
import torch
from rapidfuzz.distance import Levenshtein

from kit.errors import UsageError
from kit.rl.rewards import (
    Accuracy,
    Acoustic,
    Case,
    Context,
    Hallucination,
    Reward,
    accuracy,
    acoustic,
    context,
    edits,
    hallucination,
)
from kit.text.phonemes import PhonemeInventory


@pytest.mark.parametrize(
    ("found", "said", "wanted"),
    [
        ("打开天窗", "打开天窗", 1.0),
        ("打开天", "打开天窗", math.exp(-2 * 1 / 4)),
        ("打开天窗吧", "打开天窗", math.exp(-2 * 1 / 4)),
        ("关闭天窗", "打开天窗", math.exp(-2 * 2 / 4)),
        ("", "打开天窗", math.exp(-2)),
        ("turn on the radios", "turn on the radio", math.exp(-2 / 17)),
        ("turn on theradio", "turn on the radio", math.exp(-2 / 17)),  # a space is a character
        ("播放helo", "播放hello", math.exp(-2 / 7)),
        ("", "", 1.0),
        ("啊", "", math.exp(-2)),  # nothing was said: every character is an error
        ("啊啊", "", math.exp(-4)),
    ],
)
def test_accuracy(found, said, wanted):
    assert accuracy(found, said) == pytest.approx(wanted)
    assert accuracy(found, said, sharpness=1.0) == pytest.approx(math.sqrt(wanted))


@pytest.mark.parametrize(
    ("found", "said", "wanted"),
    [
        ("打开天窗", "打开天窗", 0),
        ("打开打开天窗天窗", "打开天窗", 0),  # just twice as long
        ("打开打开天窗天窗啊", "打开天窗", -1),
        ("打开", "打开天窗", 0),  # just half
        ("打", "打开天窗", -1),
        ("", "打开天窗", -1),
        ("turn on", "turn on the radio", 0),  # words, not letters
        ("turn", "turn on the radio", -1),
        ("a b c d e", "international airport", -1),
        ("播放hello", "播放hello", 0),
        ("", "", 0),
        ("啊", "", -1),
    ],
)
def test_hallucination(found, said, wanted):
    assert hallucination(found, said) == wanted


@pytest.mark.parametrize(
    ("found", "keywords", "wanted"),
    [
        ("导航到外滩", ["外滩"], 0.5),
        ("导航到外摊", ["外滩"], -0.5),
        ("从外滩到春西路", ["外滩", "春熙路"], 0.0),
        ("从外滩到春熙路", ["外滩", "春熙路"], 0.5),
        ("play believers", ["believer"], -0.5),  # whole words
        ("anything", [], 0.0),
        ("", ["外滩"], -0.5),
    ],
)
def test_context(found, keywords, wanted):
    assert context(found, keywords) == wanted


@pytest.mark.parametrize(("worse", "wanted"), [(-0.1, 1.0), (0.0, 1.0), (2.0, 1 / math.e), (math.inf, 0.0)])
def test_acoustic(worse, wanted):
    assert acoustic(worse) == pytest.approx(wanted)


def test_edits_are_levenshteins():
    draw = Random(0)
    texts = ["".join(draw.choices("abc 打开", k=draw.randint(0, 14))) for _ in range(60)]
    for found in texts:
        for said in texts:
            assert edits(found, said) == Levenshtein.distance(found, said), (found, said)


def test_the_acoustic_reward_prefers_what_was_heard():
    """Log-probabilities of a clear voice: each phoneme of the text in two frames, a blank between."""
    inventory, text = PhonemeInventory.default(), "打开天窗"
    symbols = inventory.encode([one for _, ones in inventory.spell(text) for one in ones])
    frames = [frame for symbol in symbols for frame in (symbol, symbol, 0)]
    log_probs = torch.full((len(frames), len(inventory)), -8.0)
    log_probs[range(len(frames)), frames] = 8.0
    case = Case("关闭天窗", log_probs=log_probs.log_softmax(-1), inventory=inventory)  # a transcript that is wrong
    heard, written, nothing = Acoustic()([text, "关闭天窗", "打开天窗" * 8], case)
    assert heard == pytest.approx(1.0, abs=1e-3)
    assert written < 0.5
    assert nothing == 0.0  # more phonemes than there are frames


def test_each_class_asks_its_function():
    case = Case("从外滩到春熙路", ["外滩", "春熙路"])
    texts = ["从外滩到春熙路", "从外滩到", ""]
    for reward, function, argument in [
        (Accuracy(sharpness=3.0), lambda text: accuracy(text, case.text, 3.0), "accuracy"),
        (Hallucination(longest=1.5), lambda text: hallucination(text, case.text, 1.5), "hallucination"),
        (Context(present=1.0, absent=0.0), lambda text: context(text, case.keywords, 1.0, 0.0), "context"),
    ]:
        assert reward(texts, case) == [function(text) for text in texts], argument
        assert not reward.listens


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Accuracy, {"sharpness": 0}, "stage.rewards.accuracy: sharpness=0 must be above 0"),
        (Hallucination, {"shortest": 2.5}, "shortest=2.5 must be from 0 to below 2.0"),
        (Acoustic, {"scale": -1}, "scale=-1 must be above 0"),
        (Reward, {"weight": math.nan}, "weight=nan is no finite number"),
    ],
)
def test_values_that_mean_nothing_are_refused(kind, options, message):
    with pytest.raises(UsageError, match=message):
        kind(**options)
