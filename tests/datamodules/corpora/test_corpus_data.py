"""A prepared corpus as training and evaluation see it: kept or computed, in memory or not, the batches are the same."""

from itertools import islice

import pytest
import torch
from safetensors.torch import load_file
from small import small_config
from trees import TREES, sound, write

from datamodules import base, rows, sampling
from datamodules.corpora import prepare as preparing
from datamodules.corpora.data import CorpusData, corpus_folder
from datamodules.corpora.registry import CORPORA
from datamodules.manifests import ManifestData
from datamodules.mixing import MixedData
from datamodules.rows import Rows
from kit.errors import UsageError
from kit.fit import fit


def grown(root):
    """A LibriSpeech of 30 utterances for training."""
    TREES["librispeech"](root)
    folder = root / "LibriSpeech" / "train-clean-100" / "20" / "1"
    names = [f"20-1-{number:04d}" for number in range(30)]
    write(folder / "20-1.trans.txt", *(f"{name} TURN ON THE RADIO" for name in names))
    for number, name in enumerate(names):
        sound(folder / f"{name}.flac", 0.4 + 0.05 * number, 200 + 20 * number)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    grown(folder / "root")
    cache = folder / "cache"
    preparing.prepare(CORPORA["librispeech"], folder / "root", [], corpus_folder(cache, "librispeech"))
    return cache


def data_of(cache, *overrides, name="librispeech"):
    parts = ["data.train=[train_clean_100]", "data.workers=0", "data.stored=true"] if name == "librispeech" else []
    return CorpusData(
        small_config("stage=pretrain", f"data={name}", *parts, "stage.batch_seconds=6", *overrides, cache=cache)
    )


def take(data, count):
    return list(islice(data.train_dataloader(), count))


def same(one, other):
    assert [cut.id for cut in one.cuts] == [cut.id for cut in other.cuts]
    assert one.position == other.position and one.texts == other.texts and one.languages == other.languages
    assert torch.equal(one.features, other.features) and torch.equal(one.phonemes, other.phonemes)


@pytest.fixture
def tiny_limits(monkeypatch):
    """Everything is too large to be held in memory."""
    for module in (base, rows, sampling):
        monkeypatch.setattr(module, "EAGER", 3)


def test_parts_under_their_own_names(prepared, capsys):
    data = data_of(prepared)
    assert len(data.cuts("train")) == 33 and len(data.cuts("dev")) == 3
    assert data.test_parts() == ["test_clean"]
    assert "LibriSpeech: not prepared and therefore not reported: test_other" in capsys.readouterr().err
    assert [batch.texts for batch in data.part_dataloader("test_clean")] == [
        ["it's late", "turn on the radio", "hello world"]
    ]


def test_several_parts_are_trained_on_together(prepared):
    data = data_of(prepared, "data.train=[train_clean_100,dev_clean]")
    ids = [cut.id for cut in data.cuts("train")]
    assert len(ids) == 36 and ids[0].startswith("train_clean_100/") and ids[-1].startswith("dev_clean/")
    assert sum(len(batch) for batch in take(data, 4)) > 0


def test_what_cannot_be_used_is_told_whenever_it_is_read(prepared, tmp_path, capsys):
    TREES["aishell"](tmp_path / "root")
    (tmp_path / "root/aishell/data_aishell/wav/test/S0764/BAC009S0764W0122.wav").unlink()
    preparing.prepare(CORPORA["aishell"], tmp_path / "root", [], corpus_folder(tmp_path, "aishell"))
    assert len(data_of(tmp_path, name="aishell").cuts("test")) == 1
    assert "AISHELL-1, test: 1 of 2 utterances can be used; see" in capsys.readouterr().err


def test_computed_features_are_the_kept_ones(prepared):
    kept, computed = data_of(prepared), data_of(prepared, "data.stored=false")
    for one, other in zip(take(kept, 5), take(computed, 5), strict=True):
        same(one, other)


def test_computed_by_other_processes_they_are_the_same(prepared):
    kept, computed = data_of(prepared), data_of(prepared, "data.stored=false", "data.workers=2")
    for one, other in zip(take(kept, 3), take(computed, 3), strict=True):
        same(one, other)


def test_augmentation_of_computed_samples_is_that_of_kept_ones(prepared):
    paper = ("augmentation=paper", "augmentation.transforms.noise=null", "augmentation.transforms.reverberation=null")
    for one, other in zip(
        take(data_of(prepared, *paper), 4), take(data_of(prepared, *paper, "data.stored=false"), 4), strict=True
    ):
        same(one, other)


def test_every_epoch_of_a_corpus_on_disk_has_everything_once(prepared, tiny_limits):
    data = data_of(prepared, "data.stored=false")
    assert data.cuts("train").is_lazy and not data.cuts("test_clean").is_lazy
    everything = sorted(cut.id for cut in data.cuts("train"))
    epochs = {0: [], 1: [], 2: []}
    stream = iter(data.train_dataloader())
    while (batch := next(stream)).position[0] < 3:
        epochs[batch.position[0]] += [cut.id for cut in batch.cuts]
    assert all(sorted(epoch) == everything for epoch in epochs.values()) and epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("taken", [1, 9])
def test_a_corpus_on_disk_goes_on_where_it_was(prepared, tiny_limits, taken):
    whole = take(data_of(prepared, "data.stored=false"), taken + 3)
    data = data_of(prepared, "data.stored=false")
    data.load_state_dict({"position": list(whole[taken - 1].position)})
    for one, other in zip(take(data, 3), whole[taken:], strict=True):
        same(one, other)


def test_seeds_differ(prepared, tiny_limits):
    first, second = (take(data_of(prepared, f"seed={seed}"), 5) for seed in (1, 2))
    assert [cut.id for batch in first for cut in batch.cuts] != [cut.id for batch in second for cut in batch.cuts]


def test_statistics_of_a_corpus_that_is_not_kept(prepared):
    kept, computed = data_of(prepared).normalization(), data_of(prepared, "data.stored=false").normalization()
    for one, other in zip(kept, computed, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_wrong_use_is_one_sentence(prepared, tmp_path):
    with pytest.raises(
        UsageError, match="train_other_500 of LibriSpeech is not prepared in .*; run python -m kit data"
    ):
        data_of(prepared, "data.train=[train_other_500]").cuts("train")
    with pytest.raises(UsageError, match="data=librispeech has no part 'tset'; choose train, dev, train_clean_100"):
        data_of(prepared).cuts("tset")
    with pytest.raises(UsageError, match="data=librispeech has no part 'tset'"):
        data_of(prepared, "data.test=[tset]").test_parts()
    with pytest.raises(UsageError, match="test of AISHELL-1 is not prepared in .*cache"):
        data_of(tmp_path / "cache", name="aishell").test_parts()
    with pytest.raises(UsageError, match="unknown corpus aishel; did you mean aishell?"):
        CorpusData(small_config("data=aishell", "data.corpus=aishel"))
    with pytest.raises(UsageError, match="data.corpus has no value yet"):
        small_config("data=corpus")


def test_a_folder_of_ones_own(prepared, tmp_path):
    data = data_of(tmp_path, f"data.folder={corpus_folder(prepared, 'librispeech')}")
    assert len(data.cuts("train")) == 33


def test_one_step_of_training_and_its_report(prepared, tmp_path, capsys):
    config = small_config(
        "stage=pretrain",
        "data=librispeech",
        "data.train=[train_clean_100]",
        "data.workers=1",
        "stage.batch_seconds=6",
        "trainer.max_steps=2",
        "tracking=false",
        f"runs={tmp_path}",
        cache=prepared,
    )
    export = fit(config)
    assert all(tensor.isfinite().all() for tensor in load_file(export / "model.safetensors").values())
    assert "test_clean: error rates" in capsys.readouterr().out
    assert len(Rows(corpus_folder(prepared, "librispeech") / "test_clean")) == 3


def test_what_a_part_lists_and_lacks_is_told_to_reports(tmp_path):
    """By every way that leads to it."""
    grown(tmp_path / "root")
    folder = tmp_path / "root" / "LibriSpeech" / "train-clean-100" / "20" / "1"
    (folder / "20-1-0003.flac").unlink()
    with (folder / "20-1.trans.txt").open("a") as file:
        file.write("20-1-0004 TWICE\n")
    cache = tmp_path / "cache"
    preparing.prepare(CORPORA["librispeech"], tmp_path / "root", [], corpus_folder(cache, "librispeech"))
    data = data_of(cache)
    data.cuts("train_clean_100")
    part = corpus_folder(cache, "librispeech") / "train_clean_100"
    plain = ManifestData(small_config("data=manifest", f"data.test={part}", cache=cache))
    plain.cuts("test")
    members = "data.members={librispeech: {train: [train_clean_100], stored: true}}"
    mixed = MixedData(small_config("data=mix", members, cache=cache))
    mixed.cuts("librispeech/train_clean_100")
    lost = ["20-1-0003", "20-1-0004"]
    assert sorted(data.left_out["train_clean_100"]) == lost
    assert sorted(plain.left_out["test"]) == lost
    assert sorted(mixed.left_out["librispeech/train_clean_100"]) == lost
