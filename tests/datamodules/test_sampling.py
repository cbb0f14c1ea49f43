"""Long utterances more often: how often, resumed exactly, whatever the ids."""

from itertools import islice

import pytest
import torch
from lhotse import CutSet
from small import OneBatch, small_config

from datamodules.sampling import FavorLong, draw


@pytest.fixture(scope="module")
def data(corpus):
    return corpus.data(small_config("stage=context_sft", "stage.batch_seconds=8", cache=corpus.cache))


def ids(batch):
    return [cut.id for cut in batch.cuts]


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_draws_differ_from_their_expectation_by_less_than_one(power):
    weights = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) ** power
    expected = len(weights) * weights / weights.sum()
    total = torch.zeros(200, dtype=torch.float64)
    for seed in range(300):
        counts = draw(weights, torch.Generator().manual_seed(seed), len(weights)).bincount(minlength=200)
        assert counts.sum() == 200
        assert ((counts - expected).abs() < 1 + 1e-6).all()
        total += counts
    assert (total / 300 - expected).abs().max() < 0.15  # 5 standard deviations of a mean of 300 zeros and ones


def test_an_epoch_depends_on_seed_and_number_alone(data):
    def epoch(seed, number):
        sampler = FavorLong(data.cuts("train"), 1.0, seed, OneBatch)
        sampler.set_epoch(number)
        return [cut.id for cuts in sampler for cut in cuts]

    assert epoch(1, 3) == epoch(1, 3)
    assert len({tuple(epoch(seed, number)) for seed in (1, 2) for number in (0, 1)}) == 4


def test_long_utterances_come_up_more_often(data):
    sampler = FavorLong(data.cuts("train"), 1.0, 1, OneBatch)
    drawn = []
    for number in range(200):
        sampler.set_epoch(number)
        drawn += [cut.id for cuts in sampler for cut in cuts]
    cuts = data.cuts("train")
    mean = sum(cut.duration for cut in cuts) / len(cuts)
    for cut in cuts:
        assert drawn.count(cut.id) / 200 == pytest.approx(cut.duration / mean, abs=0.2)


@pytest.mark.parametrize("taken", [1, 4, 30])
def test_a_restored_position_goes_on_with_the_next_batch(data, taken):
    data.position = (0, 0)
    whole = [ids(batch) for batch in islice(data.train_dataloader(), taken + 3)]
    data.position = (0, 0)
    for batch in islice(data.train_dataloader(), taken):
        data.position = batch.position
    assert [ids(batch) for batch in islice(data.train_dataloader(), 3)] == whole[taken:]
    data.position = (0, 0)


def test_equal_ids_break_nothing(data):
    twice = CutSet.from_cuts([*data.cuts("train"), *data.cuts("train")])
    sampler = FavorLong(twice, 2.0, 1, data._buckets)
    sampler.set_epoch(0)
    assert sum(len(cuts) for cuts in sampler) == len(twice)


def test_without_a_power_every_utterance_comes_once(corpus):
    data = corpus.data(small_config("stage=context_sft", "stage.favor_long=0", cache=corpus.cache))
    stream = iter(data.train_dataloader())
    seen = []
    while (batch := next(stream)).position[0] == 0:
        seen += ids(batch)
    clips = {cut.id for cut in data.cuts(data.NO_SPEECH)}
    spoken = [name for name in seen if name not in clips]
    assert sorted(spoken) == sorted(cut.id for cut in data.cuts("train+made"))
    assert len(seen) - len(spoken) == max(1, round(len(spoken) / 0.95) - len(spoken))
