import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toys
from safetensors.torch import load_file

import kit.config
from kit import runs
from kit.config import compose
from kit.errors import KitError, UsageError
from kit.fit import fit

COMMON = ["tracking=false", "trainer.checkpoint_every=5", "trainer.log_every=2"]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Compose with toys, in a folder of their own; returns a function from overrides to a configuration."""
    monkeypatch.setattr(kit.config, "CONFIGS", toys.write_configs(tmp_path / "configs"))
    monkeypatch.chdir(tmp_path)
    for name, module in toys.upper_floors().items():
        monkeypatch.setitem(sys.modules, name, module)
    return lambda *overrides: compose(
        [*overrides, *(item for item in COMMON if item.split("=")[0] not in str(overrides))]
    )


def weights(export):
    return load_file(Path(export) / "model.safetensors")


def same(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def runs_of(stage, experiment="default"):
    return runs.runs_in(Path("runs") / experiment / stage)


@pytest.mark.parametrize("extra", [(), ("trainer.accumulate=2", "trainer.validate_every=4")])
@pytest.mark.parametrize("step", [2, 5, 8])
def test_interrupted_and_restarted_is_exactly_uninterrupted(toy, monkeypatch, step, extra):
    command = ["stage=pretrain", "experiment=broken", *extra]
    monkeypatch.setenv("KIT_TOY", f"pretrain:{step}:raise")
    with pytest.raises(RuntimeError, match="as asked"):
        fit(toy(*command))
    assert [run.finished for run in runs_of("pretrain", "broken")] == [False]
    monkeypatch.delenv("KIT_TOY")
    resumed = fit(toy(*command))
    assert [run.finished for run in runs_of("pretrain", "broken")] == [True]
    assert same(resumed, fit(toy("stage=pretrain", "experiment=whole", *extra)))


def test_seed_and_dropout_matter(toy):
    """The comparison above can fail: other seeds give other weights."""
    assert not same(fit(toy("stage=pretrain", "seed=1")), fit(toy("stage=pretrain", "seed=2")))


def test_a_pipeline_trains_what_is_missing_in_order(toy, capsys):
    toys.ToyData.built = 0
    export = fit(toy("stage=sft"))
    shown = capsys.readouterr()
    assert (
        "stage sft needs align, which has no finished run: running language_model, pretrain, align first" in shown.err
    )
    order = [shown.err.index(f"stage {name}: training in") for name in ("language_model", "pretrain", "align", "sft")]
    assert order == sorted(order)
    assert toys.ToyData.built == 1
    assert shown.out.splitlines() == ["the table", f"export: {export}"]
    assert f"python -m kit transcribe FILE.wav checkpoint={export}" in shown.err
    assert json.loads((export.parent / "report.json").read_text())["test"]["error_rate"] == 0.5
    meta = json.loads((export / "export.json").read_text())["meta"]
    assert meta["stage"] == "sft" and meta["steps"] == 12 and set(meta["starts"]) == {"align"}
    metrics = json.loads((export.parent / "metrics.json").read_text())
    assert metrics["metrics"].keys() >= {"train/loss", "dev/loss"} and 0 <= metrics["data_share"] <= 1

    again = fit(toy("stage=sft"))
    shown = capsys.readouterr()
    assert again != export and export.is_dir(), "a finished run is never touched again"
    assert "using align from" in shown.err and "(12 steps)" in shown.err
    assert [len(runs_of(name)) for name in ("language_model", "pretrain", "align", "sft")] == [1, 1, 1, 2]
    assert same(again, export)


def test_overrides_of_one_stage_stay_with_it(toy):
    fit(toy("stage=align", "stage.steps=3", "seed=7"))
    assert [run.config().stage.steps for run in runs_of("align")] == [3]
    assert [run.config().stage.steps for run in runs_of("pretrain")] == [12]
    assert [run.config().seed for run in runs_of("pretrain")] == [7]


def test_upstream_of_another_model_is_not_taken(toy):
    fit(toy("stage=pretrain", "model.width=4"))
    with pytest.raises(
        UsageError, match="stage align needs language_model and pretrain, which have no finished runs; run"
    ):
        fit(toy("stage=align", "upstream=never"))
    with pytest.raises(UsageError, match="needs language_model, which has no finished run"):
        fit(toy("stage=align", "upstream=never", "model.width=4"))


def test_upstream_by_path(toy):
    align = fit(toy("stage=align"))
    export = fit(toy("stage=sft", f"upstream={align.parent}", "experiment=other"))
    assert json.loads((export / "export.json").read_text())["meta"]["starts"] == {"align": str(align)}
    with pytest.raises(UsageError, match=r"is a run of stage align, but stage align needs language_model and pretrain"):
        fit(toy("stage=align", f"upstream={align}"))
    with pytest.raises(UsageError, match="needs no other stage"):
        fit(toy("stage=pretrain", f"upstream={align}"))
    with pytest.raises(UsageError, match="nowhere does not exist"):
        fit(toy("stage=sft", "upstream=nowhere"))


def test_init_takes_the_place_of_upstream_stages(toy):
    with pytest.raises(UsageError, match="init=newest: runs has no finished run of this model"):
        fit(toy("stage=pretrain", "init=newest"))
    first = fit(toy("stage=pretrain"))
    tuned = fit(toy("stage=pretrain", "init=newest", "trainer.max_steps=1"))
    assert json.loads((tuned / "export.json").read_text())["meta"]["starts"] == {"init": str(first)}
    # An export of some parts: the others still come from their stages.
    fit(toy("stage=align", f"init={tuned.parent}", "experiment=other"))
    assert len(runs_of("language_model", "other")) == 1 and not runs_of("pretrain", "other")


def test_a_pretrained_llm_skips_its_stage(toy):
    fit(toy("stage=align", "model.llm.pretrained=Some/Model"))
    assert not runs_of("language_model") and len(runs_of("align")) == 1


def test_stages_in_a_circle(toy):
    with pytest.raises(UsageError, match="circle: lonely -> lonely"):
        fit(toy("stage=lonely"))


def test_debug_runs_are_nobodys_upstream(toy):
    fit(toy("stage=pretrain", "trainer=debug", "trainer.checkpoint_every=2"))
    assert len(runs_of("pretrain", "debug")) == 1 and not runs_of("pretrain")


def test_a_report_that_failed_is_made_up_for_without_training(toy, monkeypatch, capsys):
    monkeypatch.setenv("KIT_TOY", "report")
    with pytest.raises(RuntimeError, match="no report"):
        fit(toy("stage=sft"))
    monkeypatch.delenv("KIT_TOY")
    capsys.readouterr()
    export = fit(toy("stage=sft"))
    shown = capsys.readouterr()
    assert "the table" in shown.out and "report is still to come" in shown.err
    assert [run.export for run in runs_of("sft")] == [export]


def test_targets_that_are_wrong_are_named(toy):
    for target, answer in {
        "stages.nothing.SFT": "there is no module stages.nothing",
        "toys.ToyStag": "toys has no ToyStag; did you mean ToyStage",
        "toys.ToyData": "ToyData is no LightningModule",
        "ToyStage": "write the whole path",
    }.items():
        with pytest.raises(UsageError, match=f"stage._target_={target}: .*{answer}"):
            fit(toy("stage=pretrain", f"stage._target_={target}"))


def test_a_trainer_that_lightning_refuses(toy):
    with pytest.raises(UsageError, match="Lightning refuses the trainer section: .*quantum"):
        fit(toy("stage=pretrain", "trainer.accelerator=quantum"))


def test_a_runs_folder_that_cannot_be_written_is_told_before_training(toy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match=r"cannot write file/runs: Not a directory"):
        fit(toy("stage=pretrain", "runs=file/runs"))


def test_a_full_disk_at_a_checkpoint_is_a_warning(toy, monkeypatch, capsys):
    def full(path, write):
        raise KitError(f"cannot write {path}: No space left on device; free some space and try again")

    monkeypatch.setattr("kit.checkpoints.write_atomic", full)
    export = fit(toy("stage=pretrain"))
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning: cannot write" in line]
    assert len(warnings) == 3 and warnings[0].endswith("training goes on, a restart would go back to step 0")
    assert export.is_dir() and not (export.parent / "last.ckpt").exists()


def test_a_full_disk_at_the_export_keeps_the_checkpoint(toy, monkeypatch):
    def full(recognizer, folder, meta):
        (folder / "model.safetensors").write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["kit.model.export"], "save_export", full)
        with pytest.raises(KitError, match=r"export: No space left.*weights are kept in .*last\.ckpt"):
            fit(toy("stage=pretrain"))
    (run,) = runs_of("pretrain")
    assert not run.finished and run.checkpoint.exists() and not list(run.path.glob(".export*"))
    assert fit(toy("stage=pretrain")) == run.export, "all that was missing is the export"


def test_a_damaged_checkpoint_is_named(toy, monkeypatch):
    monkeypatch.setenv("KIT_TOY", "pretrain:7:raise")
    with pytest.raises(RuntimeError):
        fit(toy("stage=pretrain"))
    monkeypatch.delenv("KIT_TOY")
    (run,) = runs_of("pretrain")
    whole = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KitError, match=r"last\.ckpt is damaged .*delete it to start this stage anew"):
        fit(toy("stage=pretrain"))
    run.checkpoint.unlink()
    assert fit(toy("stage=pretrain")) == run.export


def test_weights_that_are_no_numbers_never_replace_a_checkpoint(toy, monkeypatch):
    monkeypatch.setenv("KIT_TOY", "pretrain:7:nan")
    with pytest.raises(KitError, match=r"broke down before step 10: recognizer.*lower stage\.optimizer\.lr.*of step 5"):
        fit(toy("stage=pretrain"))
    checkpoint = torch.load(runs_of("pretrain")[0].checkpoint, weights_only=True)
    assert checkpoint["global_step"] == 5


def test_curves_of_a_resumed_run_have_every_step_once(toy, monkeypatch):
    monkeypatch.setenv("KIT_TOY", "pretrain:9:raise")
    with pytest.raises(RuntimeError):
        fit(toy("stage=pretrain"))
    monkeypatch.delenv("KIT_TOY")
    export = fit(toy("stage=pretrain"))
    rows = (export.parent / "metrics.csv").read_text().splitlines()
    steps = [int(row.split(",")[0]) for row in rows[1:] if ",train/loss," in row]
    assert steps == [1, 3, 5, 7, 9, 11]


# --- real processes ---------------------------------------------------------------------------------------------------


def command(tmp_path, *words, deed):
    environment = {**os.environ, "KIT_TOY": deed, "PYTHONPATH": str(Path(kit.__file__).parents[1])}
    line = [sys.executable, toys.__file__, str(tmp_path / "configs"), *words, *COMMON]
    return subprocess.Popen(
        line, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_kill_9_and_restart(toy, tmp_path, capsys):
    first = command(tmp_path, "fit", "stage=align", deed="align:8:kill")
    first.communicate(timeout=60)
    assert first.returncode == -signal.SIGKILL
    export = fit(toy("stage=align"))
    shown = capsys.readouterr().err
    assert "stage align: from step 5 on" in shown and "stage pretrain" not in shown
    assert same(export, fit(toy("stage=align", "experiment=whole")))


def test_a_run_is_held_by_one_process_and_sigterm_saves_it(toy, tmp_path):
    sign = tmp_path / "sign"
    first = command(tmp_path, "fit", "stage=pretrain", deed=f"pretrain:7:wait:{sign}")
    end = time.monotonic() + 60
    while not sign.exists() and time.monotonic() < end:
        time.sleep(0.05)
    other = fit(toy("stage=pretrain"))
    assert len(runs_of("pretrain")) == 2, "a run in training is left to its process"
    first.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    sign.unlink()
    out, err = first.communicate(timeout=30)
    assert first.returncode == 143 and out == "" and "Traceback" not in err
    assert "interrupted; the same command goes on from step 8 of stage pretrain" in err
    (run,) = (run for run in runs_of("pretrain") if not run.finished)
    assert torch.load(run.checkpoint, weights_only=True)["global_step"] == 8
    assert fit(toy("stage=pretrain")) == run.export
    assert same(run.export, other)
