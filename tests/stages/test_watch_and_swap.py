"""Pre-training publishes encoders, IA-SFT takes them: beside it, after a crash, or afterwards, to the same end."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from small import SIZES

from kit.cli import main
from kit.config import compose
from kit.errors import UsageError
from kit.fit import data_module
from kit.model.export import TENSORS, load_export
from kit.model.representation import linear_cka
from kit.runs import Run
from kit.snapshots import Pretraining
from stages.swap import EncoderSwap
from stages.watch import CkaWatch, frames_of

# Pre-training looks at every second step from the fourth on; with this threshold each look but the first triggers.
WATCH = [f"stage.callbacks.watch.{key}" for key in ("start=0.3", "every=2", "threshold=1.1", "utterances=4")]
STEPS = 12


@pytest.fixture(scope="module")
def where(corpus, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    small = [*SIZES, "data.hours=0.01", f"cache={corpus.cache}", f"runs={runs}", "threads=1", "tracking=false"]
    short = [f"trainer.max_steps={STEPS}", "trainer.checkpoint_every=3", "~trainer.callbacks.representation"]
    return runs, [*small, *short, "stage.report=false", "stage.batch_seconds=6"]


def fit(where, experiment, stage, *overrides):
    runs, common = where
    assert main(["fit", f"stage={stage}", f"experiment={experiment}", *common, *overrides]) == 0
    return newest(runs, experiment, stage)


def newest(runs, experiment, stage):
    return Run(max((runs / experiment / stage).iterdir(), key=lambda path: path.stat().st_mtime_ns))


def swaps(run):
    callbacks = torch.load(run.checkpoint, weights_only=True)["callbacks"]
    return next(state["swaps"] for name, state in callbacks.items() if name.startswith("EncoderSwap"))


def tensors(run):
    return load_file(run.export / TENSORS)


@pytest.fixture(scope="module")
def replay(where):
    """A finished pre-training with its snapshots at steps 6, 8, 10 and 12, and an IA-SFT that took them in order."""
    pretrain = fit(where, "replay", "pretrain", *WATCH)
    return pretrain, fit(where, "replay", "ia_sft")


@pytest.mark.timeout(300)
def test_the_watch_publishes_below_its_threshold_and_moves_its_reference(replay, where):
    pretrain, _ = replay
    snapshots = Pretraining(pretrain).snapshots()
    assert [snapshot.step for snapshot in snapshots] == [6, 8, 10, 12]
    callbacks = torch.load(pretrain.checkpoint, weights_only=True)["callbacks"]
    seen = next(state["seen"] for name, state in callbacks.items() if name.startswith("CkaWatch"))
    assert [(step, triggered) for step, _, triggered in seen] == [(step, 1.0) for step in (6, 8, 10, 12)]
    probe = data_module(compose([*where[1], "stage=pretrain"])).probe(4)
    frames = [torch.cat(frames_of(load_export(snapshot.path).encoder, probe)) for snapshot in snapshots]
    for (_, cka, _), older, newer in zip(seen[1:], frames[:-1], frames[1:], strict=True):
        assert cka == pytest.approx(linear_cka(newer, older), abs=1e-6)
    assert (pretrain.path / "figures/cka.svg").read_text().startswith("<?xml")


@pytest.mark.timeout(300)
def test_alignment_begins_with_the_first_snapshot(replay, where):
    align = newest(where[0], "replay", "align")
    assert align.notes()["starts"]["pretrain"].endswith("snapshots/step-000006")
    first = load_file(Pretraining(replay[0]).snapshots()[0].path / TENSORS)
    assert all(torch.equal(value, first[name]) for name, value in tensors(align).items() if name in first)


@pytest.mark.timeout(300)
def test_a_replay_takes_each_snapshot_at_its_place_and_ends_with_the_last_encoder(replay):
    pretrain, ia_sft = replay
    # Ten of twelve steps go beside steps 6 to 12 of pre-training, the other two come after it.
    assert swaps(ia_sft) == ia_sft.notes()["swaps"] == [[4, 8], [7, 10], [10, 12]]
    last, found = tensors(pretrain), tensors(ia_sft)
    assert all(torch.equal(found[name], value) for name, value in last.items())
    states = torch.load(ia_sft.checkpoint, weights_only=True)["optimizer_states"][0]["state"].values()
    assert {float(state["step"]) for state in states if "step" in state} == {float(STEPS)}


def start(where, experiment, stage, *overrides):
    runs, common = where
    command = [sys.executable, "-m", "kit", "fit", f"stage={stage}", f"experiment={experiment}", *common, *overrides]
    with open(runs / f"{experiment}-{stage}.log", "a", encoding="utf-8") as log:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)


def wait_for(there, process):
    while not there():
        assert process.poll() is None, process.args
        time.sleep(0.05)


@pytest.mark.timeout(400)
def test_two_processes_that_crash_and_come_back_end_as_the_replay_did(replay, where):
    folder = where[0] / "apart"
    shutil.copytree(where[0] / "replay/language_model", folder / "language_model")
    pretrain = start(where, "apart", "pretrain", *WATCH)
    wait_for(lambda: list(folder.glob("pretrain/*/snapshots/progress.json")), pretrain)
    pretrain.send_signal(signal.SIGSTOP)  # so that it is still there when the other one looks
    following = start(where, "apart", "ia_sft")
    wait_for(lambda: "following pretrain" in (where[0] / "apart-ia_sft.log").read_text(), following)
    pretrain.send_signal(signal.SIGCONT)
    wait_for(lambda: list(folder.glob("pretrain/*/snapshots/step-000006")), pretrain)
    pretrain.send_signal(signal.SIGKILL)
    pretrain.wait()
    wait_for(lambda: list(folder.glob("align/*/export")), following)  # it has its encoder already
    pretrain = start(where, "apart", "pretrain", *WATCH)
    wait_for(lambda: list(folder.glob("ia_sft/*/last.ckpt")), following)
    following.send_signal(signal.SIGKILL)
    following.wait()
    ia_sft = fit(where, "apart", "ia_sft")
    assert pretrain.wait() == 0
    assert len(list((folder / "pretrain").iterdir())) == 1
    assert swaps(ia_sft) == swaps(replay[1])
    expected = tensors(replay[1])
    assert all(torch.equal(value, expected[name]) for name, value in tensors(ia_sft).items())


EARLY = {
    "early_pretrain": "callbacks: {watch: {start: 0.3, every: 2, threshold: 1.1, utterances: 4}}",
    "early_align": "requires: [language_model, early_pretrain]\n"
    "starts_from: {encoder: early_pretrain, phoneme_head: early_pretrain}",
    "early_ia_sft": 'requires: [early_align]\nstarts_from: {"*": early_align}',
}


@pytest.mark.timeout(400)
def test_one_command_trains_both_beside_each_other(where, tmp_path, capfd):
    """Stages of one's own, which publish in so few steps: beside each other as one after the other, swaps and all."""
    (tmp_path / "stage").mkdir()
    for name, changes in EARLY.items():
        text = f"defaults: [{name.removeprefix('early_')}, _self_]\nname: {name}\n{changes}\n"
        (tmp_path / f"stage/{name}.yaml").write_text(text)
    common = ["early_ia_sft", f"configs={tmp_path}"]
    beside = fit(where, "async", *common, "pipeline=async")
    printed = capfd.readouterr()
    assert "beside the others" in printed.err
    assert printed.out.count("export: ") == 1
    after = fit(where, "sequential", *common, "pipeline=sequential")
    assert "beside the others" not in capfd.readouterr().err
    assert swaps(beside) == swaps(after) == [[4, 8], [7, 10], [10, 12]]
    expected = tensors(after)
    assert all(torch.equal(value, expected[name]) for name, value in tensors(beside).items())


@pytest.mark.timeout(300)
def test_ctrl_c_saves_and_ends_both(where):
    folder = where[0] / "stopped"
    long = ["trainer.max_steps=5000", "trainer.checkpoint_every=5000", "pipeline=async"]
    both = start(where, "stopped", "ia_sft", *long)
    wait_for(lambda: [run for run in folder.glob("pretrain/*/metrics.csv") if len(run.read_text()) > 100], both)
    both.send_signal(signal.SIGINT)
    assert both.wait(timeout=120) == 130
    pretrain = newest(where[0], "stopped", "pretrain")
    assert not pretrain.busy()
    assert 0 < torch.load(pretrain.checkpoint, weights_only=True)["global_step"] < 5000


@pytest.mark.timeout(300)
def test_a_failure_beside_ends_the_command_with_its_reason(where, capfd):
    common = [*where[1], "stage=ia_sft", "experiment=fails", "pipeline=async"]
    assert main(["fit", *common, "model.encoder.heads=3"]) == 1
    assert "in a process beside this one, ended with exit code 1" in capfd.readouterr().err
    assert not list((where[0] / "fails").glob("align/*/export"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("override", "expected"),
    [("swap.limit=1", [[4, 8], [10, 12]]), ("swap.clock=free", [[0, 12]]), ("swap.final=1.0", [[0, 12]])],
)
def test_other_ways_of_swapping(replay, where, override, expected):
    assert swaps(fit(where, "replay", "ia_sft", f"stage.callbacks.{override}")) == expected


@pytest.mark.timeout(300)
def test_a_torn_snapshot_is_left_out_by_name(replay, where, capsys):
    path = Pretraining(replay[0]).snapshots()[1].path / TENSORS
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    try:
        found = swaps(fit(where, "replay", "ia_sft", "stage.callbacks.swap.final=0.4"))
    finally:
        path.write_bytes(whole)
    assert found == [[5, 10], [7, 12]]
    assert capsys.readouterr().err.count("step-000008 is torn") == 1


def test_settings_that_make_no_sense():
    with pytest.raises(UsageError, match=r"swap.clock=fast: known are lockstep, free"):
        EncoderSwap(final=0.5, clock="fast")
    with pytest.raises(UsageError, match=r"swap.final=1.5: it is a share"):
        EncoderSwap(final=1.5)
    with pytest.raises(UsageError, match="every and utterances must be at least 1"):
        CkaWatch(start=0.5, every=0, threshold=0.975, utterances=4)


@pytest.mark.timeout(300)
def test_an_encoder_without_a_pretraining_beside_it_stays(replay, where, capsys, tmp_path):
    copied = tmp_path / "export"
    shutil.copytree(newest(where[0], "replay", "align").export, copied)
    run = fit(where, "alone", "ia_sft", f"upstream={copied}")
    assert swaps(run) == []
    assert "stays as it is" in capsys.readouterr().err
    assert os.path.exists(run.export)
