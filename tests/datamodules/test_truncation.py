"""Utterances that break off: which words are left, with and without an alignment."""

import pytest
from lhotse.supervision import AlignmentItem, SupervisionSegment
from small import small_config

from datamodules.augmentation import alignment
from datamodules.recordings import cut_of
from datamodules.truncation import SHARES, truncated
from kit.text.normalize import normalize, units
from kit.text.phonemes import pronounce


@pytest.fixture(scope="module")
def data(corpus):
    return corpus.data(small_config("stage=rl", cache=corpus.cache))


def test_a_part_of_every_corpus_breaks_off(data):
    whole = {cut.id: cut for cut in data.cuts("test")}
    left = data.cuts("truncated")
    assert 0.8 * len(whole) < len(left) <= len(whole)
    for cut in left:
        before = whole[cut.id.removesuffix("-truncated")]
        assert SHARES[0] - 1e-3 < cut.duration / before.duration < SHARES[1] + 1e-3
        text, wanted = cut.supervisions[0].text, normalize(before.supervisions[0].text)
        assert units(wanted)[: len(units(text))] == units(text)
        assert text and cut.supervisions[0].language == before.supervisions[0].language
        assert set(data.entities(cut)) == {name for name in data.entities(before) if name in text}


def test_just_the_words_are_left_that_end_in_time(data):
    """By the corpus's own alignment: one more unit would end too late."""
    whole = {cut.id: cut for cut in data.cuts("test")}
    for cut in data.cuts("truncated"):
        before = whole[cut.id.removesuffix("-truncated")]
        said = pronounce(normalize(before.supervisions[0].text))
        sizes = [len(phonemes) for _, phonemes in said]
        kept = len(units(cut.supervisions[0].text))
        items = alignment(before)
        assert items[sum(sizes[:kept]) - 1].end <= cut.duration
        assert kept == len(said) or items[sum(sizes[: kept + 1]) - 1].end > cut.duration
        assert len(alignment(cut)) == sum(sizes[:kept])


def test_batches_have_their_features_and_labels(data):
    for batch in data.part_dataloader("truncated"):
        for row, cut in enumerate(batch.cuts):
            assert abs(int(batch.lengths[row]) - 100 * cut.duration) < 4
            assert int(batch.phoneme_lengths[row]) == len(alignment(cut))
    again = data._part("truncated")
    assert [cut.id for cut in again] == [cut.id for cut in data.cuts("truncated")]
    assert [cut.duration for cut in again] == [cut.duration for cut in data.cuts("truncated")]


def cut_with(text, aligned=None):
    import numpy as np

    cut = cut_of("one", np.zeros(10 * 16000, np.int16))
    cut.supervisions = [SupervisionSegment("one", "one", 0.0, 10.0, text=text, language="en", alignment=aligned)]
    return cut


def test_without_an_alignment_the_share_of_the_time_is_that_of_the_words():
    cut = truncated(cut_with("one two three four five six seven eight nine ten"))
    assert len(units(cut.supervisions[0].text)) == int(cut.duration)
    assert cut.supervisions[0].alignment is None


def test_where_no_word_ends_in_time_nothing_is_left():
    late = [AlignmentItem(phoneme, 9.0, 0.1) for _, phonemes in pronounce("hello") for phoneme in phonemes]
    assert truncated(cut_with("hello", {"phoneme": late})) is None
