"""The benchmark of the server, with a server that a test started."""

import csv
from contextlib import contextmanager

import pytest
import soundfile
from served import served
from streams import listener, noise

from kit import bench_serving
from kit.bench_serving import faults_of
from kit.cli import main
from kit.model.export import save_export


@pytest.fixture
def server(tmp_path, monkeypatch):
    save_export(listener(), tmp_path / "export", {})
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", noise(1.0 + number / 2).numpy(), 16000)
    with served(tmp_path / "export", "serving.streams=2") as running:
        monkeypatch.setattr(bench_serving, "_server", contextmanager(lambda overrides: iter([running.address])))
        yield tmp_path


def test_a_table_a_csv_a_plot_and_what_is_left_behind(server, capsys):
    line = ["bench", "serving", "streams=1,3", "seconds=2", "cycles=4", f"audio={server}", f"out={server / 'out'}"]
    main(line)  # memory of a test's own process is no server's: it may grow
    rows = list(csv.DictReader((server / "out/serving.csv").open()))
    assert [row["streams"] for row in rows] == ["1", "3"]
    assert [int(row["refused"]) for row in rows] == [0, 1]
    assert all(float(row["final_ms_95"]) >= float(row["final_ms_50"]) > 0 for row in rows)
    assert all(float(row["front_mb"]) > 0 and int(row["utterances"]) > 0 for row in rows)
    assert (server / "out/serving-cpu.svg").exists()
    shown = capsys.readouterr()
    assert "streams 3" in shown.out and "4 connections" in shown.err and "'streams': 0.0" in shown.err


def event(seq, kind, **content):
    return {"event": kind, "seq": seq, **content}


def test_lost_and_doubled_events_are_found():
    whole = [event(0, "ready"), event(1, "began", utterance=0), event(2, "final", utterance=0)]
    whole.append(event(3, "ended", utterances=1))
    assert faults_of(whole) == []
    for wrong in (whole[:2] + whole[3:], whole[:-1], [*whole[:3], *whole[2:]], [], whole[:1] + whole[2:]):
        assert faults_of(wrong)


@pytest.mark.parametrize("option", ["streams=0", "streams=a", "seconds=0", "minutes=-1", "cycles=x"])
def test_wrong_options_are_named(option, capsys):
    assert main(["bench", "serving", option]) == 2
    assert option.partition("=")[0] in capsys.readouterr().err
