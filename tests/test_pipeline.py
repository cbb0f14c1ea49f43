"""The main job at test size, as it is typed: all stages, their exports, transcripts and error rates."""

import json
from pathlib import Path

import pytest
from small import SIZES

from kit.cli import main

STAGES = ["language_model", "pretrain", "align", "ia_sft", "sft"]


@pytest.fixture(scope="module")
def ran(corpus, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    where = [*SIZES, "data.hours=0.01", f"cache={corpus.cache}", f"runs={runs}", "decoding.max_tokens=3", "threads=1"]
    assert main(["fit", "stage=sft", "trainer.max_steps=2", "stage.batch_seconds=6", *where]) == 0
    return runs, where


@pytest.mark.timeout(300)
def test_every_stage_ran_once_and_left_an_export(ran):
    runs, _ = ran
    for stage in STAGES:
        (run,) = (runs / "default" / stage).iterdir()
        about = json.loads((run / "export" / "export.json").read_text("utf-8"))
        assert about["meta"]["steps"] == 2
    about = json.loads(next((runs / "default" / "align").glob("*/export/export.json")).read_text("utf-8"))
    assert {Path(path).parts[-3] for path in about["meta"]["starts"].values()} == {"language_model", "pretrain"}


@pytest.mark.timeout(300)
def test_the_report_stands_in_the_run(ran):
    runs, _ = ran
    report = json.loads(next((runs / "default" / "sft").glob("*/report.json")).read_text("utf-8"))
    assert set(report["parts"]) == {"test", "unseen"}
    assert len(report["examples"]) == 5


@pytest.mark.timeout(300)
def test_transcribe_and_evaluate_take_the_newest_export(ran, corpus, capsys):
    _, where = ran
    audio = sorted(map(str, corpus.cache.glob("cockpit-*/audio/test/*.flac")))[:2]
    assert main(["transcribe", *audio, "nowhere.wav", *where]) == 1
    printed = capsys.readouterr()
    assert [line.split("\t")[0] for line in printed.out.splitlines()] == audio
    assert "nowhere.wav" in printed.err
    assert main(["evaluate", "split=dev", *where]) == 0
    assert "dev: error rates in percent" in capsys.readouterr().out


@pytest.mark.timeout(300)
def test_another_model_size_is_not_built_upon(ran, capsys):
    _, where = ran
    other = [text for text in where if "encoder.layers" not in text]
    assert main(["fit", "stage=align", "upstream=never", "model.encoder.layers=1", *other]) == 2
    assert "stage align needs language_model and pretrain" in capsys.readouterr().err
