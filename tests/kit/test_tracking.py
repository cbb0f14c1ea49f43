import json
import shutil
import sqlite3
import sys

import mlflow
import pandas
import pytest
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf
from small import small_config, small_recognizer

from kit import notes, runs
from kit.curves import CurveFile
from kit.model.export import save_export
from kit.tracking import Tracker

REPORT = {
    "parts": {
        "test": {
            "whole": {
                "all": {"utterances": 3, "MER": 3.5, "MER interval": [1.0, 6.0]},
                "zh": {"utterances": 2, "MER": 4.5},
                "poi": {"utterances": 1, "MER": 0.5},
            }
        }
    },
    "examples": [{"id": "test-1", "reference": "打开|天窗", "hypothesis": "打开天窗"}],
}


def config(root, **changes):
    many = {f"key{number}": "x" * 600 for number in range(250)}
    base = {
        "experiment": "study 1",
        "runs": str(root),
        "tracking": True,
        "stage": {"name": "sft", "starts_from": {"*": "align"}},
        "model": {"name": "tiny", **many},
        "data": {"name": "toy"},
        "trainer": {},
    }
    return OmegaConf.create({**base, **changes})


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A folder whose database exists: MLflow takes seconds to make one."""
    root = tmp_path_factory.mktemp("tracked")
    Tracker(config(root)).finish("FINISHED")
    return root


def client(root):
    return MlflowClient(f"sqlite:///{root}/mlflow.db")


def all_runs(root):
    api = client(root)
    experiment = api.get_experiment_by_name("study 1").experiment_id
    return {run.info.run_id: run for run in api.search_runs([experiment])}


def test_a_stage_is_nested_in_its_command_and_goes_on_when_resumed(database, tmp_path):
    wanted = config(database)
    tracker = Tracker(wanted)
    run = runs.create(config(tmp_path))
    logger = tracker.begin_stage(run, wanted, {"align": tmp_path / "a"})
    logger.log_metrics({"train/loss": 2.0}, step=1)
    child = run.notes()["mlflow_run"]
    first = all_runs(database)[child]
    parent = first.data.tags["mlflow.parentRunId"]
    assert first.data.tags["stage"] == "sft" and first.data.tags["upstream.align"].endswith("/a")
    assert len(first.data.params) > 250 and first.data.params["model.key7"] == "x" * 500
    assert first.data.params["stage.starts_from._"] == "align"

    # The process is killed here; the same command comes again.
    again = Tracker(wanted)
    logger = again.begin_stage(run, wanted, {})
    logger.log_metrics({"train/loss": 1.0}, step=2)
    run.metrics.write_text("{}")
    (run.path / "figures").mkdir()
    (run.path / "figures/cka.svg").write_text("<svg/>")
    again.end_stage(run, "FINISHED", {"steps": 3})
    again.report(run, REPORT)
    again.finish("FINISHED")
    found = all_runs(database)
    assert run.notes()["mlflow_run"] == child
    assert found[parent].info.status == "KILLED"
    assert found[child].info.status == "FINISHED"
    assert found[child].data.tags["mlflow.parentRunId"] != parent
    assert found[found[child].data.tags["mlflow.parentRunId"]].info.status == "FINISHED"
    assert found[child].data.metrics == {"train/loss": 1.0, "steps": 3.0, "test/whole/MER": 3.5}
    assert [point.value for point in client(database).get_metric_history(child, "train/loss")] == [2.0, 1.0]
    assert {file.path for file in client(database).list_artifacts(child)} >= {"config.yaml", "metrics.json", "cka.svg"}


def test_a_run_says_what_it_is_and_what_it_reached(database, tmp_path):
    wanted = config(database, overrides=["stage=sft", "seed=3"], seed=3)
    tracker = Tracker(wanted)
    first, second = runs.create(config(tmp_path)), runs.create(config(tmp_path))
    tracker.begin_stage(first, wanted, {})
    tracker.begin_stage(second, wanted, {"align": first.export})
    second.metrics.write_text('{"steps": 4, "seconds": 61, "data_share": 0.25, "metrics": {"dev/loss": 0.123456}}')
    second.export.mkdir()
    (second.export / "model.safetensors").write_bytes(b"weights")
    tracker.end_stage(second, "FINISHED", {})
    tracker.report(second, REPORT)
    tracker.report(second, REPORT)
    tracker.finish("FINISHED")

    found = all_runs(database)
    one, parent = found[second.notes()["mlflow_run"]], found[tracker.parent]
    upstream, note = first.notes()["mlflow_run"], one.data.tags["mlflow.note.content"]
    assert one.data.tags["upstream_run.align"] == upstream
    assert (
        f"- starts from align: [sft {first.path.name}](#/experiments/{one.info.experiment_id}/runs/{upstream})" in note
    )
    assert "4 steps in 1:01, 25.0 % of it waiting for data.\n\n| dev |  |\n| --- | --- |\n| loss | 0.1235 |" in note
    rates = "| part | way | group | utterances | error rates, % |\n| --- | --- | --- | --- | --- |\n"
    rates += "| test | whole | all | 3 | MER 3.5 |\n| test | whole | zh | 2 | MER 4.5 |"
    assert note.count(rates) == 1 and rates in parent.data.tags["mlflow.note.content"]
    assert parent.data.metrics["test/whole/MER"] == 3.5
    for run in (one, parent):
        tags = run.data.tags
        assert (tags["stage"], tags["model"], tags["data"], tags["seed"]) == ("sft", "tiny", "toy", "3")
        assert tags["mlflow.source.name"] == "kit fit stage=sft" and tags["mlflow.user"]
        assert tags["mlflow.source.git.commit"] == tags["commit"].rstrip("+")
        assert [data.dataset.name for data in run.inputs.dataset_inputs] == ["toy"]
    assert "`python -m kit fit stage=sft seed=3`" in parent.data.tags["mlflow.note.content"]
    kept = database / "artifacts" / one.info.run_id / "artifacts"
    table = json.loads((kept / "error_rates.json").read_text("utf-8"))
    assert table["data"][0] == ["test", "whole", "all", 3, 3.5] and len(table["data"]) == 3
    assert {file.path for file in client(database).list_artifacts(one.info.run_id)} >= {"export", "examples.json"}
    assert (kept / "export" / "model.safetensors").samefile(second.export / "model.safetensors")


def test_a_recognizer_becomes_a_version_of_a_model_that_mlflow_loads(database, tmp_path):
    wanted = small_config(f"runs={database}", "experiment=study 1", "decoding.max_tokens=2", "decoding.beam=1")
    tracker = Tracker(wanted)
    run = runs.create(wanted)
    tracker.begin_stage(run, wanted, {})
    save_export(small_recognizer(), run.export, {})
    for _ in range(2):
        tracker.register(run, wanted)
    tracker.finish("FINISHED")
    assert tracker.on, "nothing went wrong in between"
    api = client(database)
    version = api.get_model_version_by_alias("study 1.tiny", "newest")
    assert (
        str(version.version) == "2" and version.run_id == run.notes()["mlflow_run"] and version.tags["stage"] == "sft"
    )
    assert "version 2" in api.get_run(version.run_id).data.tags["mlflow.note.content"]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{database}/mlflow.db")
    try:
        model = mlflow.pyfunc.load_model("models:/study 1.tiny@newest")
        answer = model.predict(pandas.DataFrame({"samples": [[0.0] * 4000]}))
        assert model.metadata.signature.inputs.input_names() == ["path", "samples", "rate"]
    finally:
        mlflow.set_tracking_uri(before)
    assert answer.to_dict("records") == [{"text": "", "error": ""}]


def test_reports_may_lack_parts():
    assert notes.figures({"notes": ["x"]}) == {} and notes.tables({}) == {} and notes.error_rates({}) == ""
    silent = {"parts": {"silence": {"whole": {"all": {"utterances": 4, "with text": 1}}}}, "examples": []}
    assert notes.figures(silent) == {"silence/whole/with text": 1.0} and notes.error_rates(silent) == ""


def test_a_run_that_was_removed_by_hand_is_made_anew(database, tmp_path):
    wanted = config(database)
    run = runs.create(config(tmp_path))
    run.note(mlflow_run="0" * 32)
    assert Tracker(wanted).begin_stage(run, wanted, {}) is not None
    assert run.notes()["mlflow_run"] != "0" * 32


def test_a_broken_database_costs_one_warning(tmp_path, capsys):
    (tmp_path / "mlflow.db").write_text("this is no database, and long enough to be looked at" * 50)
    tracker = Tracker(config(tmp_path))
    run = runs.create(config(tmp_path))
    assert not tracker.on and tracker.begin_stage(run, config(tmp_path), {}) is None
    tracker.end_stage(run, "FINISHED", {"steps": 1})
    tracker.finish("FINISHED")
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("warning: MLflow is off for this run (")


def test_a_database_that_breaks_meanwhile(database, tmp_path, capsys):
    shutil.copy(database / "mlflow.db", tmp_path)
    wanted = config(tmp_path)
    tracker = Tracker(wanted)
    run = runs.create(wanted)
    logger = tracker.begin_stage(run, wanted, {})
    with sqlite3.connect(tmp_path / "mlflow.db") as other:
        other.execute("DROP TABLE metrics")
    for step in range(3):
        logger.log_metrics({"x": 1.0}, step)
    tracker.end_stage(run, "FINISHED", {"steps": 3})
    assert capsys.readouterr().err.count("warning: MLflow is off") == 1


def test_without_mlflow(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    tracker = Tracker(config(tmp_path))
    assert not tracker.on and "MLflow is off" in capsys.readouterr().err
    assert not Tracker(config(tmp_path, tracking=False)).on
    assert capsys.readouterr().err == ""


def test_curves(tmp_path, capsys):
    path = tmp_path / "metrics.csv"
    curves = CurveFile(path, done=0)
    for step in range(6):
        curves.log_metrics({"a": step / 3, "epoch": 0}, step)
    with open(path, "a") as file:
        file.write("6,a,0.")  # cut off by a kill
    CurveFile(path, done=4).log_metrics({"a": 9}, 4)
    assert path.read_text().splitlines() == [
        "step,name,value",
        "0,a,0",
        "1,a,0.33333333",
        "2,a,0.66666667",
        "3,a,1",
        "4,a,9",
    ]
    lost = CurveFile(tmp_path / "none" / "metrics.csv", done=0)
    lost.log_metrics({"a": 1}, 1)
    assert capsys.readouterr().err.count("warning: cannot write") == 1
