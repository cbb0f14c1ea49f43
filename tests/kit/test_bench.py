"""`python -m kit bench` on the CPU, and what it says to wrong use."""

import csv

import pytest
import torch

from kernels import benchmark
from kit import bench
from kit.cli import main


def test_a_suite_makes_a_table_a_csv_and_a_plot(tmp_path, capsys):
    line = ["bench", "ctc_prefix", "device=cpu", "only=step B1 ", "seconds=0.01", f"out={tmp_path}"]
    assert main(line) == 0
    shown = capsys.readouterr().out
    assert "ours" in shown
    assert "loop" in shown
    rows = list(csv.DictReader((tmp_path / "ctc_prefix.csv").open()))
    assert [row["provider"] for row in rows] == ["ours", "loop"]
    assert all(float(row["ms_20"]) <= float(row["ms_50"]) <= float(row["ms_80"]) for row in rows)
    assert float(rows[1]["speedup"]) == 1.0
    assert (tmp_path / "ctc_prefix-cpu.svg").read_text().lstrip().startswith("<?xml")
    assert main(line) == 0
    assert len(list(csv.DictReader((tmp_path / "ctc_prefix.csv").open()))) == 4  # rows are added


def test_wrong_numbers_get_no_time():
    def wrong(inputs, case):
        return lambda: inputs + 1

    def broken(inputs, case):
        raise RuntimeError("no such kernel")

    case = benchmark.Case("one", lambda device: torch.ones(3), {})
    providers = [
        benchmark.Provider("right", lambda inputs, case: lambda: inputs * 1),
        benchmark.Provider("wrong", wrong),
        benchmark.Provider("broken", broken),
    ]
    suite = benchmark.Suite("toy", [case], providers, lambda inputs, case: inputs, "right")
    right, *others = benchmark.run(suite, torch.device("cpu"), seconds=0.001)
    assert right["correct"]
    assert right["speedup"] == 1.0
    for row in others:
        assert not row["correct"]
        assert "ms_50" not in row
        assert "speedup" not in row


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["bench"], "bench needs a suite: chunk_attention or chunk_attention_stream or ctc_prefix or streaming"),
        (["bench", "chunk_atention"], "did you mean chunk_attention?"),
        (["bench", "ctc_prefix", "device=tpu"], "device=tpu must be cpu or cuda"),
        (["bench", "ctc_prefix", "second=3"], "unknown option second of bench; did you mean seconds?"),
        (["bench", "ctc_prefix", "seconds=0"], "seconds=0 must be a number above 0"),
        (["bench", "ctc_prefix", "seconds=nan"], "seconds=nan must be a number above 0"),
        (
            ["bench", "ctc_prefix", "device=cpu", "only=nothing"],
            "has 'nothing' in its name",
        ),
    ],
)
def test_wrong_use(line, message, capsys):
    assert main(line) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    line = ["bench", "ctc_prefix", "device=cpu", "only=step B1 ", "seconds=0.01", f"out={tmp_path / 'file'}"]
    assert main(line) == 1
    assert "name another folder with out=" in capsys.readouterr().err


def test_a_gpu_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "ctc_prefix", "device=cuda"]) == 1
    assert "torch finds no GPU here" in capsys.readouterr().err
    assert bench.DEFAULTS["device"] == "auto"
