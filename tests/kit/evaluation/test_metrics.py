import json
import multiprocessing
import random

import jiwer
import pytest
import torch

from kit.decoding.events import Final, Partial, Word
from kit.evaluation.latency import StreamFigures
from kit.evaluation.metrics import (
    CharErrorRate,
    EntityPrecision,
    EntityRecall,
    HallucinationRate,
    HintPrecision,
    HintRecall,
    HintVerbatim,
    MixedErrorRate,
    PhonemeErrorRate,
    RecitedRate,
    WordErrorRate,
    rate_of_language,
)
from kit.evaluation.streaming import Heard

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
    rate.update(["播放hello"], ["播放hello world"])
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


def test_names_are_found_verbatim_on_the_borders_of_units():
    recall = EntityRecall()
    recall.update(["play art", "the party is on", "导航到外滩"], [["art"], ["art", "party"], ["外滩", "外摊"]])
    assert float(recall.compute()) == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("found", "wanted", "invented"),
    [
        ("a b c d e f", "x y z", True),
        ("x b c d e f", "x y z", False),  # a third of the reference is there
        ("a b c d", "x y z", False),  # a third longer
        ("a b c d e", "x y z", True),
        ("打开天窗天窗天窗", "播放音乐", True),
        ("a", "", True),
        ("", "x y", False),
        ("x x x x x x x x x x", "x y z v w u", True),  # the same unit again is found once
    ],
)
def test_hallucination_is_longer_and_about_something_else(found, wanted, invented):
    rate = HallucinationRate()
    rate.update([found, wanted], [wanted, wanted])
    assert float(rate.compute()) == pytest.approx(invented / 2)


def test_recited_are_wrong_hints_that_come_up():
    rate = RecitedRate()
    rate.update(
        ["去外摊", "去外滩", "art"], ["去外滩", "去外滩", "party"], [["外摊", "外滩"], ["外滩", "春熙路"], ["art"]]
    )
    assert float(rate.compute()) == pytest.approx(2 / 3)  # 外滩 was said and counts for nothing


def test_a_hint_was_said_if_its_letters_or_its_sounds_were():
    hints = [["外滩", "歪摊", "春熙路"], ["sea", "radio"], []]
    said = ["导航到外滩", "see the radio", "打开天窗"]
    right, verbatim, recall = HintPrecision(), HintVerbatim(), HintRecall()
    right.update(hints, said)
    verbatim.update(hints, said)
    recall.update(hints, [["外滩"], ["radio", "see"], ["天窗"]])
    assert float(right.compute()) == pytest.approx(3 / 5)  # 歪 has another tone than 外; sea sounds like see
    assert float(verbatim.compute()) == pytest.approx(2 / 5)
    assert float(recall.compute()) == pytest.approx(2 / 4)


def test_shares_in_pieces_are_shares_at_once():
    pieces, whole = HallucinationRate(), HallucinationRate()
    found, wanted = sentences(3), sentences(4)
    whole.update(found, wanted)
    for one, other in zip(found, wanted, strict=True):
        pieces.update([one], [other])
    assert pieces.compute() == whole.compute()


def test_kinds_of_errors_are_kept_apart():
    rate = WordErrorRate()
    rate.update(["a x c", "b c d"], ["a b c", "a b c"])
    assert rate.edits() == (1, 1, 1, 6)
    assert float(rate.compute()) == pytest.approx(3 / 6)


@pytest.mark.parametrize("seed", range(3))
def test_character_error_rate_against_jiwer(seed):
    wanted, found = sentences(seed), sentences(seed + 100, least=0)
    rate = CharErrorRate()
    rate.update(found, wanted)
    assert float(rate.compute()) == pytest.approx(jiwer.cer(wanted, found), rel=1e-5)


def test_names_that_are_written_were_said():
    precision = EntityPrecision()
    precision.update([["art", "party"], [], ["外滩"]], [["art"], ["art"], ["外滩", "天窗"]])
    assert float(precision.compute()) == pytest.approx(2 / 3)


def test_processes_together_have_the_figures_of_one(tmp_path):
    """Each of two processes sees its half; both then tell what one tells that saw everything."""
    rows = list(zip(sentences(5, least=0), sentences(6), strict=True))
    everything = json.loads(json.dumps(gathered(rows)))
    processes = multiprocessing.get_context("fork")  # they need not import everything again
    workers = [processes.Process(target=work, args=(tmp_path, rank, rows[rank::2])) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(90)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [everything] * 2


def work(folder, rank, rows):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    (folder / f"{rank}.json").write_text(json.dumps(gathered(rows)))
    torch.distributed.barrier()


def gathered(rows):
    """What all metrics say of hypotheses and references."""
    found, wanted = [one for one, _ in rows], [other for _, other in rows]
    rates = [kind() for kind in (MixedErrorRate, WordErrorRate, CharErrorRate, PhonemeErrorRate, HallucinationRate)]
    for rate in rates:
        rate.update(found, wanted)
    words = [text.split() for text in wanted]
    shares = [EntityRecall(), EntityPrecision(), HintRecall()]
    shares[0].update(found, words)
    for share in shares[1:]:
        share.update([text.split() for text in found], words)
    figures = StreamFigures()
    for text, other in rows:
        figures.update(stream(text, len(other)))
    return [*(float(one.compute()) for one in [*rates, *shares]), figures.compute()]


def stream(text, seed):
    draw = random.Random(f"{text} {seed}")
    begin = draw.random()
    units = text.split()
    words = [Word(unit, begin + place, begin + place + 0.5) for place, unit in enumerate(units)]
    events = [
        (begin + 1, Partial(0, begin + 1, " ".join([*units[: draw.randint(0, 3)], "other"]), 1)),
        (begin + 2, Final(0, begin + 2, text, begin, begin + 2, words)),
    ]
    return Heard(events=events, seconds=2.0, computing=0.25, finalization=draw.random())
