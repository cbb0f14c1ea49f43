"""Encoder snapshots: whole, of the right run and model, or refused by name."""

import json

import pytest
import torch
from small import small_config, small_recognizer

from kit import config as configs
from kit.errors import KitError
from kit.model.export import TENSORS, save_export
from kit.runs import Run
from kit.snapshots import MANIFEST, PARTS, Pretraining, note_progress, publish, source_of
from kit.text.phonemes import CharacterInventory


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "runs/default/pretrain/one")
    run.path.mkdir(parents=True)
    configs.save(small_config("stage=pretrain", "trainer.max_steps=40"), run.path / "config.yaml")
    note_progress(run, 0)
    return run


def encoder(seed):
    return small_recognizer(PARTS, seed=seed)


def test_a_snapshot_is_taken_over_whole(run):
    ours, published = small_recognizer(seed=1), encoder(2)
    kept = {name: value.clone() for name, value in ours.state_dict().items()}
    publish(run, published, 10, 0.97).load_into(ours)
    after = ours.state_dict()
    for name, value in published.state_dict().items():
        assert torch.equal(after[name], value), name
    for name in after.keys() - published.state_dict().keys():
        assert torch.equal(after[name], kept[name]), name


def test_what_others_see_of_a_pretraining(run):
    source = Pretraining(run)
    assert (source.step, source.total, source.finished, source.first()) == (0, 40, False, None)
    publish(run, encoder(1), 20, 0.9)
    publish(run, encoder(2), 10, 0.9)
    note_progress(run, 25)
    (run.path / "snapshots/.step-000030.x.part").mkdir()
    assert [snapshot.step for snapshot in source.snapshots()] == [10, 20]
    assert (source.step, source.first().step) == (25, 10)
    save_export(encoder(3), run.export, {})
    assert (source.step, source.finished, source.last().path) == (40, True, run.export)


def test_the_export_is_the_first_where_there_is_no_snapshot(run):
    save_export(encoder(3), run.export, {})
    assert Pretraining(run).first() == Pretraining(run).last()


def test_a_restarted_pretraining_does_not_replace_its_snapshots(run):
    publish(run, encoder(1), 10, 0.9)
    again = publish(run, encoder(2), 10, 0.9)
    ours = encoder(5)
    again.load_into(ours)
    assert torch.equal(
        ours.state_dict()["encoder.blocks.0.norm.weight"], encoder(1).state_dict()["encoder.blocks.0.norm.weight"]
    )


def cut_short(snapshot):
    path = snapshot.path / TENSORS
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(snapshot):
    path = snapshot.path / TENSORS
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def lose_the_manifest(snapshot):
    (snapshot.path / MANIFEST).unlink()


@pytest.mark.parametrize("deed", [cut_short, flip_a_bit, lose_the_manifest, lambda s: (s.path / TENSORS).unlink()])
def test_a_torn_snapshot_is_refused_by_name(run, deed):
    snapshot = publish(run, encoder(2), 10, 0.97)
    deed(snapshot)
    ours = small_recognizer(seed=1)
    kept = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(KitError, match="step-000010 is torn"):
        snapshot.load_into(ours)
    assert all(torch.equal(value, kept[name]) for name, value in ours.state_dict().items())


def test_a_snapshot_of_another_run_is_refused(run):
    snapshot = publish(run, encoder(2), 10, 0.97)
    about = json.loads((snapshot.path / MANIFEST).read_text())
    (snapshot.path / MANIFEST).write_text(json.dumps({**about, "run": "other"}))
    with pytest.raises(KitError, match="step-000010 is foreign: it is of run other, not of one"):
        snapshot.load_into(encoder(1))


def test_a_snapshot_of_another_model_is_refused(run):
    published = encoder(2)
    published.config.encoder.kernel = 9
    with pytest.raises(KitError, match=r"foreign: its model.encoder.kernel is 9, here it is 5"):
        publish(run, published, 10, 0.97).load_into(encoder(1))


def test_a_snapshot_with_other_labels_is_refused(run):
    published = encoder(2)
    published.inventory = CharacterInventory.of(["打开"])
    with pytest.raises(KitError, match="trained on other labels"):
        publish(run, published, 10, 0.97).load_into(encoder(1))


def test_the_pretraining_of_an_export_is_found_along_its_chain(run, tmp_path):
    snapshot = publish(run, encoder(2), 10, 0.97)
    stages = {
        "align": {"language_model": "nowhere/export", "pretrain": str(snapshot.path)},
        "ia_sft": None,
        "sft": None,
    }
    before = None
    for name, starts in stages.items():
        own = Run(tmp_path / f"runs/default/{name}/one")
        own.path.mkdir(parents=True)
        own.note(starts=starts or before)
        before = {name: str(own.export)}
        source, step = source_of(own.export)
        assert (source.run, step) == (run, 10)
    assert source_of(tmp_path / "elsewhere/export") is None
    assert source_of(run.export)[1] == 40
