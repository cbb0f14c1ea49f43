"""A pipeline of real stages with two processes, as it is typed: the curves, exports and MLflow runs of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from small import SIZES

import kit
from kit.model.export import load_export

STAGES = ["language_model", "pretrain", "align"]


@pytest.mark.timeout(400)
def test_two_processes_train_a_pipeline_as_one_does(corpus, tmp_path):
    options = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_steps=3", "trainer.log_every=1"]
    where = ["data.hours=0.01", f"cache={corpus.cache}", f"runs={tmp_path / 'runs'}", "decoding.max_tokens=3"]
    stage = ["stage=align", "stage.batch_seconds=6", "stage.report=false"]
    done = subprocess.run(
        [sys.executable, "-m", "kit", "fit", *stage, *options, *where, *SIZES],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(kit.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    (line,) = done.stdout.splitlines()
    recognizer = load_export(line.removeprefix("export: "))
    assert set(recognizer.parts) == {"encoder", "phoneme_head", "adaptor", "llm"}
    for name in STAGES:
        (run,) = (tmp_path / "runs" / "default" / name).iterdir()
        figures = json.loads((run / "metrics.json").read_text("utf-8"))
        assert figures["steps"] == 3
        assert name == "language_model" or figures["metrics"]["dev/phoneme_error_rate"] > 0
        steps = [row.split(",")[0] for row in (run / "metrics.csv").read_text().splitlines() if ",train/loss," in row]
        assert steps == ["0", "1", "2"]
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (experiment,) = (one for one in client.search_experiments() if one.name == "default")
    found = client.search_runs([experiment.experiment_id])
    names = sorted(run.info.run_name.split()[0] for run in found)
    assert names == sorted(["fit", *STAGES]) and {run.info.status for run in found} == {"FINISHED"}
