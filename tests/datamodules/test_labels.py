"""Character labels: spelled as the text is written, at the time at which it is said."""

from itertools import pairwise

import pytest
import torch
from lhotse.supervision import AlignmentItem
from small import small_config, small_recognizer

from datamodules.labels import respelled
from kit.text.phonemes import CharacterInventory, PhonemeInventory, pronounce


def aligned(text, seconds=0.1):
    phonemes = [phoneme for _, own in pronounce(text) for phoneme in own]
    return [AlignmentItem(phoneme, seconds * place, seconds) for place, phoneme in enumerate(phonemes)]


def test_phonemes_stay():
    items = aligned("打开radio")
    assert respelled(items, "打开radio", PhonemeInventory.default()) == items


def test_characters_share_the_time_of_their_unit():
    items = aligned("打开radio")
    found = respelled(items, "打开radio", CharacterInventory.of([]))
    assert [item.symbol for item in found] == ["打", "开", *"radio"]
    sizes = [len(phonemes) for _, phonemes in pronounce("打开radio")]
    begins = [0.0, 0.1 * sizes[0], 0.1 * (sizes[0] + sizes[1])]
    assert [found[place].start for place in (0, 1, 2)] == pytest.approx(begins)
    assert {round(item.duration, 6) for item in found[2:]} == {round(0.1 * sizes[2] / 5, 6)}
    for one, other in pairwise(found):
        assert one.end == pytest.approx(other.start)


def test_an_alignment_of_something_else_is_not_used():
    assert respelled(aligned("打开"), "打开radio", CharacterInventory.of([])) == []


def test_batches_in_characters(corpus):
    config = small_config("stage=pretrain", "model.labels=characters", cache=corpus.cache)
    data = corpus.data(config)
    batch = next(iter(data.train_dataloader()))
    assert data.inventory.kind == "characters"
    for text, ids, size in zip(batch.texts, batch.phonemes, batch.phoneme_lengths.tolist(), strict=True):
        assert data.inventory.decode(ids[:size].tolist()) == [c for c in text if c != " "]
    said = batch.frame_labels[batch.frame_labels > 0].unique()
    assert set(said.tolist()) <= set(batch.phonemes.unique().tolist())
    assert (batch.frame_labels > 0).float().mean() > 0.4


def test_labels_follow_the_model_that_is_there(corpus):
    data = corpus.data(small_config("stage=pretrain", cache=corpus.cache))
    phonemes = next(iter(data.train_dataloader())).phonemes
    data.use_inventory(CharacterInventory.of(data.texts()))
    data.begin(data.config)
    assert not torch.equal(next(iter(data.train_dataloader())).phonemes, phonemes)
    data.use_inventory(PhonemeInventory.default())
    assert torch.equal(next(iter(data.train_dataloader())).phonemes, phonemes)


def test_features_follow_the_model_that_is_there(corpus):
    data = corpus.data(small_config("stage=pretrain", cache=corpus.cache))
    (part, *_) = data.test_parts()
    heard = next(iter(data.part_dataloader(part))).features
    data.use_model(small_recognizer(("encoder", "phoneme_head"), 0, "model.features.bins=40"))
    assert next(iter(data.part_dataloader(part))).features.shape[-1] == 40
    data.use_model(small_recognizer(("encoder", "phoneme_head")))
    assert torch.equal(next(iter(data.part_dataloader(part))).features, heard)
