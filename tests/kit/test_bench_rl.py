"""`python -m kit bench rl` with a model of test size."""

import csv

import pytest
from small import small_recognizer

from kit.cli import main
from kit.model.export import save_export

SMALL = ["data.hours=0.01", "stage.batch_seconds=6", "stage.group=3", "stage.max_tokens=5"]


@pytest.fixture
def line(corpus, tmp_path):
    save_export(small_recognizer(), tmp_path / "export", {})
    where = [f"checkpoint={tmp_path / 'export'}", f"cache={corpus.cache}", "device=cpu", f"out={tmp_path / 'out'}"]
    return ["bench", "rl", *where, *SMALL]


def test_both_stages_are_timed_by_part(line, tmp_path, capsys):
    assert main([*line, "steps=2", "than=sft"]) == 0
    assert "rollout s" in capsys.readouterr().out
    one, rl = list(csv.DictReader((tmp_path / "out" / "rl.csv").open()))
    assert (one["stage"], rl["stage"], rl["group"], rl["steps"]) == ("sft", "rl", "3", "2")
    assert float(one["times"]) == 1 and float(rl["times"]) == pytest.approx(
        float(rl["seconds"]) / float(one["seconds"])
    )
    assert not one["rollout"] and 0 < float(rl["rollout"]) + float(rl["reference"]) < 2 * float(rl["seconds"])
    assert not rl["peak_mbytes"] or float(rl["peak_mbytes"]) >= float(rl["before_mbytes"]) > 50


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("steps=0", "steps=0 must be a whole number from 1 up"),
        ("device=tpu", "device=tpu must be cpu or cuda"),
        ("than=sftt", "stage"),
        ("stage.groups=3", "did you mean stage.group"),
    ],
)
def test_wrong_options(line, option, message, capsys):
    assert main([*line, option]) == 2
    assert message in capsys.readouterr().err
