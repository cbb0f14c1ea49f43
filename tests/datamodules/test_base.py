from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from lhotse import CutSet
from lhotse.dataset import DynamicCutSampler
from small import small_config

from datamodules.base import FRAME_MIDDLE, FRAME_SECONDS
from datamodules.features import FeatureStore, build
from datamodules.rows import Picked
from datamodules.sampling import Endless
from datamodules.sentences import TextSampler
from kit.audio.features import LogMel
from kit.audio.reading import read_audio
from kit.errors import KitError, UsageError
from kit.text.normalize import language_of


@pytest.fixture(scope="module")
def data(corpus):
    return corpus.data(small_config("stage=pretrain", "stage.batch_seconds=8", cache=corpus.cache))


def ids(batch):
    return [cut.id for cut in batch.cuts]


def test_batches_hold_what_they_say(data):
    for batch in islice(data.train_dataloader(), 6):
        assert batch.features.shape[1] == batch.lengths.max()
        assert sum(cut.duration for cut in batch.cuts) <= 8 or len(batch) == 1
        for row, cut in enumerate(batch.cuts):
            size = batch.lengths[row]
            direct = LogMel()(read_audio(cut.recording.sources[0].source))
            assert size == len(direct)
            torch.testing.assert_close(batch.features[row, :size], direct, atol=1e-2, rtol=1e-3)  # kept in 16 bit
            assert (batch.features[row, size:] == 0).all()
            symbols = data.inventory.decode(batch.phonemes[row, : batch.phoneme_lengths[row]].tolist())
            assert symbols == [item.symbol for item in cut.supervisions[0].alignment["phoneme"]]


def test_frame_labels_follow_the_alignment(data):
    cut = data.cuts("train")[0]
    _, _, labels = data.dataset("train").labels(cut)
    for index, label in enumerate(labels.tolist()):
        middle = index * FRAME_SECONDS + FRAME_MIDDLE
        said = [item.symbol for item in cut.supervisions[0].alignment["phoneme"] if item.start <= middle < item.end]
        assert data.inventory.decode([label] if label else []) == said[-1:]


def test_every_epoch_has_every_utterance_once_in_another_order(data):
    stream = iter(data.train_dataloader())
    everything = sorted(cut.id for cut in data.cuts("train"))
    epochs = {0: [], 1: [], 2: []}
    while (batch := next(stream)).position[0] < 3:
        epochs[batch.position[0]] += ids(batch)
    assert all(sorted(epoch) == everything for epoch in epochs.values())
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("taken", [1, 3, 40])
def test_a_restored_position_goes_on_with_the_next_batch(data, taken):
    data.position = (0, 0)
    whole = [ids(batch) for batch in islice(data.train_dataloader(), taken + 3)]
    data.position = (0, 0)
    for batch in islice(data.train_dataloader(), taken):
        data.position = batch.position
    state = data.state_dict()
    data.position = (7, 7)
    data.load_state_dict(state)
    assert [ids(batch) for batch in islice(data.train_dataloader(), 3)] == whole[taken:]
    data.position = (0, 0)


def test_the_same_seed_gives_the_same_batches(data):
    first, second = ([ids(batch) for batch in islice(data.train_dataloader(), 5)] for _ in range(2))
    assert first == second


def test_an_empty_sampler_ends():
    assert list(islice(Endless(DynamicCutSampler(CutSet.from_cuts([]), max_duration=1.0), (0, 0)), 3)) == []


def test_text_batches_depend_on_seed_and_position_alone():
    first = list(islice(TextSampler(1000, 4, seed=1, start=0), 8))
    assert list(islice(TextSampler(1000, 4, seed=1, start=5), 3)) == first[5:]
    assert list(islice(TextSampler(1000, 4, seed=2, start=0), 8)) != first


def test_parts_are_whole_and_in_order_of_duration(data):
    for part in ("dev", *data.test_parts()):
        cuts = [cut for batch in data.part_dataloader(part) for cut in batch.cuts]
        assert sorted(cut.id for cut in cuts) == sorted(cut.id for cut in data.cuts(part))
        durations = [cut.duration for cut in cuts]
        assert durations == sorted(durations, reverse=True)


def test_features_are_computed_once(data, tmp_path, monkeypatch):
    cuts = data.cuts("dev")
    first = build(cuts, tmp_path / "store", {"bins": 80}, "dev")
    monkeypatch.setattr("datamodules.features.LogMel", None)
    second = build(cuts, tmp_path / "store", {"bins": 80}, "dev")
    assert all(torch.equal(first[cut.id], second[cut.id]) for cut in cuts)


def test_a_damaged_feature_cache_is_named(data, tmp_path):
    build(data.cuts("dev"), tmp_path / "store", {"bins": 80}, "dev")
    (tmp_path / "store" / "features.f16").write_bytes(b"")
    with pytest.raises(KitError, match=r"store is damaged .*; delete that folder"):
        FeatureStore(tmp_path / "store")


@pytest.fixture
def places(monkeypatch):
    """Lets this process be one of several; returns a function from rank and number to what `ask` gives there."""

    def there(rank, processes, ask):
        with monkeypatch.context() as patch:
            for module in ("base", "sentences"):
                patch.setattr(f"datamodules.{module}.place", lambda: (rank, processes))
            return ask()

    return there


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_share_an_epoch_evenly(data, places, processes):
    def epoch():
        stream = iter(data.train_dataloader())
        return list(iter(lambda: batch if (batch := next(stream)).position[0] == 0 else None, None))

    shares = [places(rank, processes, epoch) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1, "as many batches each"
    assert len({tuple(batch.position for batch in share) for share in shares}) == 1
    given = [name for share in shares for batch in share for name in ids(batch)]
    everything = {cut.id for cut in data.cuts("train")}
    assert set(given) == everything and len(given) - len(everything) < processes, "all, and few twice"


@pytest.mark.parametrize("taken", [2, 30])
def test_each_of_several_processes_goes_on_where_it_was(data, places, taken):
    for rank in range(2):
        data.position = (0, 0)
        whole = places(rank, 2, lambda: list(islice(data.train_dataloader(), taken + 3)))
        data.position = whole[taken - 1].position
        later = places(rank, 2, lambda: list(islice(data.train_dataloader(), 3)))
        assert [ids(batch) for batch in later] == [ids(batch) for batch in whole[taken:]]
    data.position = (0, 0)


def test_texts_of_several_processes_are_those_of_one_in_turns(places):
    def some(count):
        return lambda: [rows for _, rows in islice(TextSampler(1000, 4, seed=1, start=0), count)]

    one, other = (places(rank, 2, some(5)) for rank in range(2))
    assert [rows for pair in zip(one, other, strict=True) for rows in pair] == some(10)()


@pytest.mark.parametrize("processes", [2, 3, 100])
def test_evaluation_is_shared_so_that_no_mean_changes(data, places, processes):
    def share():
        return [cut.id for batch in data.part_dataloader("dev") for cut in batch.cuts]

    shares = [places(rank, processes, share) for rank in range(processes)]
    counts = Counter(name for names in shares for name in names)
    assert counts.keys() == {cut.id for cut in data.cuts("dev")} and len(set(counts.values())) == 1
    assert all(shares), "nobody is left without, who could not take part in the mean"


def test_cuts_that_lhotse_hands_out_twice_keep_their_names(data, places):
    """Fewer utterances than processes: the rest is filled up."""
    few = CutSet.from_cuts(list(data.cuts("train"))[:2])
    names = [places(rank, 3, lambda: [cut.id for cuts in data._buckets(few) for cut in cuts]) for rank in range(3)]
    assert {name for row in names for name in row} == {cut.id for cut in few} and all(len(row) == 1 for row in names)


def test_a_part_in_some_languages(corpus, data):
    english = corpus.data(small_config("stage=pretrain", "data.languages=[en]", cache=corpus.cache))
    for split in ("train", "dev", "test"):
        wanted = [cut.id for cut in data.cuts(split) if cut.supervisions[0].language == "en"]
        assert [cut.id for cut in english.cuts(split)] == wanted and 0 < len(wanted) < len(data.cuts(split))
    assert {language for batch in islice(english.train_dataloader(), 5) for language in batch.languages} == {"en"}
    assert set(map(language_of, english.sentences())) == {"en"}
    assert english.sentences() == [text for text in data.sentences() if language_of(text) == "en"]


def test_a_language_that_nobody_speaks(corpus):
    data = corpus.data(small_config("stage=pretrain", "data.languages=[fr]", cache=corpus.cache))
    with pytest.raises(UsageError, match=r"data.languages=\['fr'\] leaves nothing of the part train, which is in en, "):
        data.cuts("train")
    assert len(data.cuts("dev")) == 0


@pytest.mark.parametrize("more", [(), ("+stage.favor_long=1",), ("+data.stored=false",), ("augmentation=paper",)])
def test_clips_without_speech_have_their_share(corpus, more):
    data = corpus.data(small_config("stage=sft", "stage.no_speech=0.25", *more, cache=corpus.cache))
    silent = [
        (text, row.unique().tolist(), size)
        for batch in islice(data.train_dataloader(), 40)
        for text, row, size, cut in zip(
            batch.texts, batch.frame_labels, batch.phoneme_lengths.tolist(), batch.cuts, strict=True
        )
        if cut.supervisions[0].language == "-"
    ]
    heard = sum(len(batch) for batch in islice(data.train_dataloader(), 40))
    assert len(silent) / heard == pytest.approx(0.25, abs=0.06)
    assert all(text == "" and set(labels) <= {0, -100} and size == 0 for text, labels, size in silent)


def test_without_a_share_no_clip_comes_up(corpus):
    data = corpus.data(small_config("stage=sft", "stage.no_speech=0", cache=corpus.cache))
    assert all(all(batch.texts) for batch in islice(data.train_dataloader(), 30))


def test_a_corpus_that_stays_on_disk_is_joined_without_being_read(corpus, monkeypatch):
    data = corpus.data(small_config("stage=sft", "+data.stored=false", cache=corpus.cache))
    rows = data.cuts("train").data
    data._cuts["train"] = CutSet(Picked(rows, np.arange(len(rows))))
    together = data.cuts(data.drawn_part())
    assert together.is_lazy and len(together) == len(rows) + len(data.cuts(data.NO_SPEECH))
    assert together[0].id == rows[0].id


def test_a_share_that_is_none_is_refused(corpus):
    data = corpus.data(small_config("stage=sft", cache=corpus.cache))
    data.config.stage.no_speech = 1.0
    with pytest.raises(UsageError, match="no_speech=1.0 is no share"):
        data.train_dataloader()
