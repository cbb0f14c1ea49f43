import csv

import pytest
import torch
from small import small_recognizer

from kit import bench_streaming
from kit.cli import main


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bench_streaming, "_recognizer", lambda model, device: small_recognizer())


def test_a_table_a_csv_and_a_plot(small, tmp_path, capsys):
    line = ["bench", "streaming", "streams=1,3", "chunks=3", "tokens=4", "minutes=0.05", f"out={tmp_path}"]
    assert main(line) == 0
    assert "in real time" in capsys.readouterr().out
    assert main(line) == 0
    rows = list(csv.DictReader((tmp_path / "streaming.csv").open()))
    assert [row["streams"] for row in rows] == ["1", "3", "1", "3"]  # rows are added
    for row in rows:
        parts = sum(float(row[f"{part}_ms"]) for part in bench_streaming.PARTS)
        assert 0 < parts <= 2 * float(row["step_ms_95"])
    assert (tmp_path / "streaming-tiny-cpu.svg").exists()


def test_every_chunk_writes_the_same_load():
    engine = bench_streaming._engine(small_recognizer(), 2, tokens=5)
    list(bench_streaming.steps(engine, [engine.session() for _ in range(2)], 6))
    assert engine.encoded == engine.decoder.speech_read * 4
    assert not engine.decoder.cache.keys[0].is_cuda or torch.cuda.is_available()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["stream=3"], "unknown option stream of bench streaming; did you mean streams?"),
        (["streams=0"], "streams=0 must be a whole number above 0 or several"),
        (["tokens=x"], "tokens=x must be a whole number above 0"),
        (["chunks=1,2"], "chunks=1,2 must be a whole number above 0"),
        (["streams=1,,2"], "streams=1,,2 must be a whole number above 0 or several"),
        (["minutes=inf"], "minutes=inf must be a number"),
        (["minutes=-1"], "minutes=-1 must be a number"),
        (["device=tpu"], "device=tpu must be cpu or cuda"),
        (["model=large"], "unknown model large"),
    ],
)
def test_wrong_options_are_named(options, message, capsys):
    assert main(["bench", "streaming", *options]) == 2
    assert message in capsys.readouterr().err
