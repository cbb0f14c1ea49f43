"""What stages tell about the encoder's frames."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from small import small_config, small_recognizer

from kit import config as configs
from kit.model.export import save_export
from kit.model.recognizer import PARTS
from kit.runs import Run
from kit.snapshots import note_progress
from stages.measures import Representation, bags_of_units, phoneme_labels
from stages.watch import frames_of


@pytest.fixture
def data(corpus):
    return corpus.data(small_config("stage=pretrain", cache=corpus.cache))


def measured(callback, recognizer, data, folder):
    found = {}
    module = SimpleNamespace(recognizer=recognizer, log=lambda name, value, **options: found.update({name: value}))
    trainer = SimpleNamespace(datamodule=data, default_root_dir=str(folder), is_global_zero=True)
    callback.on_validation_epoch_end(trainer, module)
    return found


def test_the_probe_is_the_same_every_time_and_in_every_process(data, corpus):
    other = corpus.data(small_config("stage=align", "seed=5", cache=corpus.cache))
    ids = [[cut.id for batch in one.probe(6) for cut in batch.cuts] for one in (data, data, other)]
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids[0])) == 6


def test_frames_of_utterances_do_not_depend_on_their_batch(data):
    encoder = small_recognizer(("encoder",)).encoder
    batches = data.probe(6)
    together = frames_of(encoder, batches)
    rows = [row for batch in batches for row in zip(batch.features, batch.lengths.tolist(), strict=True)]
    for found, (features, size) in zip(together, rows, strict=True):
        alone, _, _ = encoder(features[None, :size], torch.tensor([size]))
        torch.testing.assert_close(found, alone[0].detach(), atol=1e-4, rtol=1e-4)
    assert not encoder.training


def test_what_is_logged_without_a_pretraining(data, tmp_path):
    found = measured(Representation(8, 6), small_recognizer(), data, tmp_path)
    assert set(found) == {"dev/spectral_entropy", "dev/phoneme_probe", "dev/semantic_probe"}
    assert 0 < found["dev/spectral_entropy"] <= 1
    assert 0 <= found["dev/phoneme_probe"] <= 1
    assert set(measured(Representation(8, 0), small_recognizer(), data, tmp_path)) == set(found) - {
        "dev/semantic_probe"
    }
    assert measured(Representation(8, 6), small_recognizer(("llm",)), data, tmp_path) == {}


def test_drift_is_measured_from_the_end_of_pretraining(data, tmp_path):
    pretrain, sft = Run(tmp_path / "pretrain/one"), Run(tmp_path / "sft/one")
    for run in (pretrain, sft):
        run.path.mkdir(parents=True)
    configs.save(small_config("stage=pretrain"), pretrain.path / "config.yaml")
    note_progress(pretrain, 0)
    sft.note(starts={"pretrain": str(pretrain.export)})
    callback = Representation(8, 0)
    assert "dev/drift" not in measured(callback, small_recognizer(seed=1), data, sft.path)  # it is still under way
    save_export(small_recognizer(seed=1), pretrain.export, {})
    assert measured(callback, small_recognizer(seed=1), data, sft.path)["dev/drift"] == pytest.approx(1.0)
    assert measured(callback, small_recognizer(seed=2), data, sft.path)["dev/drift"] < 0.99


def test_phonemes_of_a_corpus_that_is_not_aligned_come_from_the_head(data):
    recognizer = small_recognizer()
    batches = data.probe(4)
    frames = frames_of(recognizer.encoder, batches)
    aligned = phoneme_labels(recognizer, batches, frames)
    bare = [dataclasses.replace(batch, frame_labels=None) for batch in batches]
    found = phoneme_labels(recognizer, bare, frames)
    wanted = [row[:size] for batch in batches for row, size in zip(batch.phonemes, batch.phoneme_lengths, strict=True)]
    for labels, ours, ids, heard in zip(aligned, found, wanted, frames, strict=True):
        assert len(labels) == len(ours) == len(heard)
        said = torch.unique_consecutive(ours)
        assert torch.unique_consecutive(said[said > 0]).tolist() == torch.unique_consecutive(ids).tolist()
        assert set(labels[labels > 0].tolist()) <= set(ids.tolist())


def test_units_that_are_rare_do_not_count():
    bags = bags_of_units(["打开 radio radio", "打开天窗", "打电话", "radio on", "the radio"])
    assert bags.shape == (5, 2)  # 打 in three texts, radio in three
    assert sorted(bags.sum(0).tolist()) == [3.0, 4.0]


class Book:
    def __init__(self):
        self.rows = []

    def log_metrics(self, values, step):
        self.rows.append((step, values["dev/drift"]))


@pytest.mark.parametrize("parts, moves, looks", [(PARTS, True, [4, 8]), (PARTS, False, []), (("llm",), True, [])])
def test_drift_is_looked_at_while_an_encoder_moves(data, tmp_path, parts, moves, looks):
    recognizer, book, callback = small_recognizer(parts), Book(), Representation(8, 0, drift_every=4)
    recognizer.requires_grad_(moves)
    first = small_recognizer(seed=1)
    callback._reference = torch.cat(frames_of(first.encoder, data.probe(8)))
    trainer = SimpleNamespace(
        datamodule=data,
        default_root_dir=str(tmp_path),
        is_global_zero=True,
        loggers=[book],
        max_steps=12,
        accumulate_grad_batches=2,
        strategy=None,
    )
    for index in range(24):
        trainer.global_step = (index + 1) // 2
        callback.on_train_batch_end(trainer, SimpleNamespace(recognizer=recognizer), None, None, index)
    assert [step for step, _ in book.rows] == looks
    assert all(value < 0.99 for _, value in book.rows)
