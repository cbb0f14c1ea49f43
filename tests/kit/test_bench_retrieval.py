"""`python -m kit bench retrieval`, with a head that hears what was said and here and there something else."""

import csv
import random
import sys

import pytest
from hearing import head
from small import small_recognizer
from strings import database_of, made_up

from kit import bench_retrieval
from kit.cli import main
from kit.evaluation.listening import Listened
from kit.model.export import save_export


@pytest.fixture
def hearing(monkeypatch, tmp_path):
    """An export, and a head that takes a tenth of the phonemes of any part for others."""

    def listen(recognizer, data, part, decoding):
        draw = random.Random(part)
        for cut in data.cuts(part):
            text, phonemes = data.dataset(part).labels(cut)[:2]
            symbols = [int(symbol) for symbol in phonemes]
            doubts = {
                place: {draw.randrange(1, 240): 0.7, symbol: 0.3}
                for place, symbol in enumerate(symbols)
                if draw.random() < 0.1
            }
            yield Listened(cut, head(symbols, doubts), symbols, text)

    monkeypatch.setattr(bench_retrieval, "listen", listen)
    monkeypatch.setattr(bench_retrieval, "_SPED_UTTERANCES", 8)
    save_export(small_recognizer(), tmp_path / "export", {})
    return tmp_path / "export"


def line(corpus, export, folder, *more):
    where = [f"checkpoint={export}", f"cache={corpus.cache}", "data.hours=0.01", f"out={folder}"]
    return ["bench", "retrieval", *where, "utterances=12", "errors=0,20", "sizes=100,300", *more]


def rows(path):
    return list(csv.DictReader(path.open()))


def test_made_up_names(hearing, corpus, tmp_path, capsys):
    assert main(line(corpus, hearing, tmp_path / "out", "names=200", "edits=3")) == 0
    shown = capsys.readouterr().out
    assert "recall and precision" in shown and "what a chunk of 640 ms costs" in shown
    quality = rows(tmp_path / "out" / "retrieval-quality.csv")
    ways = {row["way"] for row in quality}
    assert ways == {"exact", "dense", "hybrid", "edit distance"}
    clean = [row for row in quality if row["speech"] == "simulated 0 %"]
    assert {row["per"] for row in clean} == {"0.0"}
    assert all(float(row["recall"]) > 50 for row in clean)
    assert {row["speech"] for row in quality} >= {"dev", "test", "unseen", "simulated 20 %"}
    speed = rows(tmp_path / "out" / "retrieval-speed.csv")
    assert {row["way"] for row in speed} == {"exact", "hybrid"}
    assert {int(row["entries"]) for row in speed if row["way"] == "exact"} >= {100, 300}
    assert {int(row["streams"]) for row in speed if row["way"] == "hybrid"} == {1, 8}
    for row in speed:
        assert 0 < float(row["ms_50"]) <= float(row["ms_99"]) <= float(row["ms_100"])
    assert (tmp_path / "out" / "retrieval-cpu.svg").read_text().lstrip().startswith("<?xml")


def test_a_database_and_more_strings_than_it_has(hearing, corpus, tmp_path):
    database = database_of(tmp_path / "db", made_up(150, 0))
    assert main(line(corpus, hearing, tmp_path / "out", f"database={database.folder.parent}", "edits=0")) == 0
    speed = rows(tmp_path / "out" / "retrieval-speed.csv")
    assert sorted({int(row["entries"]) for row in speed if row["way"] == "exact"}) == [100, 150, 300]
    assert sorted({int(row["entries"]) for row in speed if row["way"] == "hybrid"}) == [100, 150]
    assert "edit distance" not in {row["way"] for row in rows(tmp_path / "out" / "retrieval-quality.csv")}


def test_without_rapidfuzz_the_others_are_measured(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rapidfuzz", None)
    assert not bench_retrieval._has_rapidfuzz()
    assert "pip install nim4-kit[dev]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["edit=3"], "edit"),
        (["names=0"], "names=0 must be a whole number from 1 up"),
        (["sizes=10,x"], "sizes=x must be a whole number from 1 up"),
        (["errors=120"], "errors=120 must be percentages"),
        (["precision=2"], "precision=2 must be a number above 0 and up to 1"),
        (["database=nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_named(hearing, corpus, tmp_path, options, message, capsys):
    assert main(line(corpus, hearing, tmp_path, *options)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
