"""Studies: every arm with every seed, what they share trained once, and a table that says what was found."""

import json
import shlex
import statistics
from types import SimpleNamespace

import pytest
from small import SIZES, small_config

from kit import config as configs
from kit import study
from kit.cli import main
from kit.errors import KitError, UsageError

STUDY = """
question: Does a masked view help?
claim: nothing.
fit: align
seeds: [1, 2]
overrides: [trainer.max_steps=2]
shared: [language_model]
stages:
  pretrain: [stage.batch_seconds=6]
arms:
  one: {}
  other:
    align: [stage.optimizer.lr=2e-3]
evaluate:
  dev: [split=dev, decoding.max_tokens=2]
measures:
  PER: [dev, whole, all, PER]
  loss: [align, dev/text_loss]
expect:
  loss: [one, other]
  PER: [[one, other], [other, one]]
"""


@pytest.fixture
def where(corpus, tmp_path):
    folder = tmp_path / "configs/study"
    folder.mkdir(parents=True)
    (folder / "views.yaml").write_text(STUDY)
    return tmp_path, [*SIZES, "data.hours=0.01", f"cache={corpus.cache}", f"runs={tmp_path / 'runs'}", "threads=1"]


def started(folder, stage):
    return sorted((folder / "runs/studies" / stage).iterdir())


@pytest.mark.timeout(400)
def test_a_study_shares_what_its_arms_have_in_common_and_repeats_nothing(where, capsys):
    folder, common = where
    command = ["study", "name=views", f"configs={folder / 'configs'}", *common]
    assert main(command) == 0
    first = capsys.readouterr().out
    # Two arms with two seeds: the language model once, pre-training once a seed, the rest for each.
    assert [len(started(folder, stage)) for stage in ("language_model", "pretrain", "align")] == [1, 2, 4]
    assert "| one |" in first
    assert "loss, one below other: " in first
    assert "PER, one below other: " in first and "PER, other below one: " in first
    results = json.loads((folder / "runs/studies/views/results.json").read_text())
    assert {arm: {column: len(row) for column, row in rows.items()} for arm, rows in results["arms"].items()} == {
        "one": {"PER": 2, "loss": 2},
        "other": {"PER": 2, "loss": 2},
    }
    assert len(set(results["arms"]["one"]["loss"] + results["arms"]["other"]["loss"])) == 4
    assert (folder / "runs/studies/views/figure.svg").read_text().startswith("<?xml")
    nested(folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs/studies").rglob("*.json")}
    assert main(command) == 0
    assert capsys.readouterr().out == first
    changed = {path for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert {path.name for path in changed} == {"results.json"}


def test_shared_stages_and_arms_with_a_seed_of_their_own_take_that_seed(where, monkeypatch):
    folder, common = where
    text = STUDY.replace("  one: {}", "  one:\n    align: [seed=7]")
    (folder / "configs/study/views.yaml").write_text(text)
    asked = []

    def find(config):
        asked.append((config.stage.name, config.seed))
        configs.save(config, tmp := folder / f"{config.stage.name}.yaml")
        return SimpleNamespace(config=lambda: configs.load(tmp), export=folder)

    monkeypatch.setattr("kit.runs.find_finished", find)
    overrides = [*common, f"configs={folder / 'configs'}"]
    found = study.load("views", [folder / "configs"])
    work = study._Work(found, overrides, [2], small_config(*overrides, "experiment=studies", "tracking=false"))
    for arm in ("one", "other"):
        work._train("align", arm, 2, {}, None)
    shared = [("language_model", 1), ("pretrain", 2)]
    assert asked == [*shared, ("align", 7), *shared, ("align", 2)]


def nested(folder):
    """The study is a run with a run a cell in it, in which its stages stand, and its measures."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'runs/mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("studies").experiment_id])
    by_parent = {}
    for run in found:
        by_parent.setdefault(run.data.tags.get("mlflow.parentRunId"), []).append(run)
    (top,) = by_parent[None]
    assert top.info.run_name == "study views"
    assert {file.path for file in client.list_artifacts(top.info.run_id)} == {"table.md", "figure.svg", "results.json"}
    cells = by_parent[top.info.run_id]
    assert {run.info.run_name for run in cells} == {f"{arm} seed {seed}" for arm in ("one", "other") for seed in (1, 2)}
    assert all({"PER", "loss"} <= set(run.data.metrics) and run.info.status == "FINISHED" for run in cells)
    assert sum(len(by_parent.get(run.info.run_id, [])) for run in cells) == 7


def test_without_a_name_the_studies_are_listed(capsys):
    assert main(["study"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"cr_ctc", "labels", "ia_sft", "chunks", "noise", "context"} <= {line.split("\t")[0] for line in lines}


@pytest.mark.parametrize("name", sorted(study.names([])))
def test_every_study_of_the_kit_can_be_composed(name):
    from kit.config import compose

    found = study.load(name)
    assert len(found.seeds) >= 3
    for arm in found.arms.values():
        for stage in {*found.stages, *arm, found.fit}:
            own = [*found.overrides, *found.stages.get(stage, []), *arm.get(stage, [])]
            compose([*own, f"stage={stage}"])
    for overrides in found.evaluate.values():
        compose([*found.overrides, *overrides])
    known = {*found.evaluate, "pretrain", "align", "ia_sft", "sft", "context_sft"}
    assert all(where[0] in known for where in found.measures.values())
    for column, *pair in found.expected():
        assert column in found.measures
        assert len(pair) == 2 and set(pair) <= set(found.arms)


def test_what_a_study_brings_can_be_set(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("kit.study._Work.carry_out", lambda work: seen.append(work._composed(work.study.overrides)))
    assert main(["study", "name=real", "data.members.real.train=mine.jsonl", f"runs={tmp_path}", "tracking=false"]) == 0
    assert seen[0].data.members.real.train == "mine.jsonl" and seen[0].data.members.cockpit.weight == 1


@pytest.mark.parametrize(
    "expected, told",
    [
        ("{loss: [one, two]}", "expects ['one', 'two'] of loss"),
        ("{loss: [one]}", "expects ['one'] of loss"),
        ("{loss: []}", "expects [] of loss"),
        ("{loss: [[one, other], other]}", "expects other of loss"),
        ("{speed: [one, other]}", "expects something of speed, which is no measure"),
    ],
)
def test_what_cannot_be_expected_is_told_before_training(where, capsys, expected, told):
    folder, common = where
    text = STUDY[: STUDY.index("expect:")] + f"expect: {expected}\n"
    (folder / "configs/study/views.yaml").write_text(text)
    assert main(["study", "name=views", f"configs={folder / 'configs'}", *common]) == 2
    assert f"views.yaml: {told}; write [lower, higher]" in capsys.readouterr().err


def test_wrong_names_and_seeds(tmp_path, capsys):
    assert main(["study", "name=ia_stf"]) == 2
    assert "unknown study ia_stf; did you mean ia_sft?" in capsys.readouterr().err
    assert main(["study", "name=ia_sft", "seeds=[one]"]) == 2
    assert "seeds=[one]: write whole numbers" in capsys.readouterr().err
    (tmp_path / "study").mkdir()
    (tmp_path / "study/odd.yaml").write_text("question: why\nfits: sft\n")
    with pytest.raises(UsageError, match="fits is missing or no part of a study"):
        study.load("odd", [tmp_path])
    (tmp_path / "study/odd.yaml").write_text(STUDY + "curves: {hours: {all: {one: 1, two: 2}}}\n")
    with pytest.raises(UsageError, match="curves name two, which is no arm"):
        study.load("odd", [tmp_path])


def test_curves_show_every_seed_at_its_quantity(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study/odd.yaml").write_text(STUDY + "curves: {hours: {all: {one: 1, other: 8}}}\n")
    found = study.load("odd", [tmp_path])
    figure = study._curves(found, {"one": {"PER": [9, 11], "loss": [1, 2]}, "other": {"PER": [5, 7], "loss": [0, 1]}})
    per, _ = figure.axes
    line, *dots = per.lines
    assert [tuple(pair) for pair in line.get_xydata()] == [(1, 10), (8, 6)]
    assert sorted(tuple(pair) for dot in dots for pair in dot.get_xydata()) == [(1, 9), (1, 11), (8, 5), (8, 7)]
    assert per.get_xscale() == "log" and per.get_xlabel() == "hours" and per.get_title() == "PER"
    study.draw(tmp_path / "figure.svg", found, {arm: {"PER": [1], "loss": [2]} for arm in found.arms})
    assert (tmp_path / "figure.svg").read_bytes().startswith(b"<?xml")


def test_mean_and_deviation():
    assert study.told([10.0, 12.0, 14.0]) == "12.0 ± 2.0"
    assert study.told([0.5]) == "0.500"


def test_a_verdict_needs_all_seeds_and_two_standard_errors():
    assert study.verdict([1.0, 2.0, 3.0], [3.0, 4.1, 4.9]).startswith("holds: -2.0")
    assert study.verdict([3.0, 4.1, 4.9], [1.0, 2.0, 3.0]).startswith("reversed: +2.0")
    assert study.verdict([1.0, 5.0, 3.0], [3.0, 4.0, 4.9]).startswith("not decided")
    assert study.verdict([1.0], [3.0]) == "not decided: -2.0 with one seed"
    error = statistics.stdev([-2.0, -2.1, -1.9]) / 3**0.5
    assert study.verdict([1.0, 2.0, 3.0], [3.0, 4.1, 4.9]).endswith(f"± {error:.1f}")


def test_a_table_names_the_command_that_makes_it_again(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study/odd.yaml").write_text(STUDY)
    found, overrides = study.load("odd", [tmp_path]), ["data.train=my speech.jsonl", "threads=1"]
    values = {arm: {measure: [1.0] for measure in found.measures} for arm in found.arms}
    told = study.table(found, [4], values, overrides)
    assert "One seed (4)." in told
    command = shlex.split(told.split("`")[1].removeprefix("python -m kit study "))
    assert study.options(command) == ({"name": "odd", "seeds": "[4]"}, overrides)
    assert "seeds=" not in study.table(found, found.seeds, values)


def test_a_measure_that_is_nowhere_is_told():
    reports = {"dev": {"parts": {"dev": {"whole": {"all": {"PER": 3.0}}}}}}
    assert study._figure(["dev", "whole", "all", "PER"], reports, {}) == 3.0
    with pytest.raises(KitError, match="there is no 'MER', only PER"):
        study._figure(["dev", "whole", "all", "MER"], reports, {})
    with pytest.raises(KitError, match="there is no '320 ms'"):
        study._figure(["dev", "320 ms", "all", "PER"], {"dev": {"parts": {}}}, {})


def test_an_evaluation_with_hotwords_is_known_by_what_they_are(tmp_path):
    personal = tmp_path / "own.tsv"
    personal.write_text("外滩\n", "utf-8")
    (tmp_path / "manifest.json").write_text("{}")
    assert study.names_digest(small_config()) == []
    config = small_config(f"hotwords={tmp_path}", f"personal={personal}")
    one = study.names_digest(config)
    assert one == study.names_digest(config) != study.names_digest(small_config(f"personal={personal}"))
    (tmp_path / "manifest.json").write_text('{"build": 2}')
    assert study.names_digest(config) != one
