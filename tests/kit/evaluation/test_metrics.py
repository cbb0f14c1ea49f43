import random

import jiwer
import pytest

from kit.evaluation.metrics import MixedErrorRate, PhonemeErrorRate, rate_of_language

WORDS = ["打", "开", "天", "窗", "turn", "on", "the", "radio", "外", "滩"]


def sentences(seed, least=1):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(least, 9))) for _ in range(40)]


@pytest.mark.parametrize("seed", range(5))
def test_mixed_error_rate_against_jiwer(seed):
    wanted, found = sentences(seed), sentences(seed + 100, least=0)
    rate = MixedErrorRate()
    rate.update(found, wanted)
    assert float(rate.compute()) == pytest.approx(jiwer.wer(wanted, found), rel=1e-5)


def test_mixed_error_rate_counts_characters_and_words():
    rate = MixedErrorRate()
    rate.update(["播放hello"], ["播放 Hello, world"])
    assert float(rate.compute()) == pytest.approx(1 / 4)


def test_adding_in_pieces_is_adding_at_once():
    wanted, found = sentences(1), sentences(2)
    pieces, whole = MixedErrorRate(), MixedErrorRate()
    whole.update(found, wanted)
    for one, other in zip(found, wanted, strict=True):
        pieces.update([one], [other])
    assert pieces.compute() == whole.compute()


def test_phoneme_error_rate():
    rate = PhonemeErrorRate()
    rate.update_strings([[1, 2, 3], []], [[1, 3], [4, 5]])
    assert float(rate.compute()) == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("language", "found", "wanted", "rate"),
    [("zh", "打开窗", "打开天窗", 1 / 4), ("en", "turn the", "turn on the", 1 / 3)],
)
def test_the_customary_rate_of_a_language(language, found, wanted, rate):
    metric = rate_of_language(language)
    metric.update([found], [wanted])
    assert float(metric.compute()) == pytest.approx(rate)
