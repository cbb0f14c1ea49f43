"""Benchmarks, from their lists of sets to the report in three forms."""

import json
import re
import shlex
import sys
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf
from small import SIZES, small_recognizer

from kit.config import CONFIGS, compose
from kit.errors import KitError, UsageError
from kit.evaluation import benchmark
from kit.evaluation.alignment import edits
from kit.evaluation.benchmark import known, paper, run_benchmark, sets_of
from kit.evaluation.charts import Point, chart
from kit.evaluation.clips import Clips, worst
from kit.evaluation.digest import binned, duration_of, markdown, point, ratio_of, tables
from kit.evaluation.page import page
from kit.evaluation.scored import LEFT_OUT
from kit.model.export import save_export
from kit.text.scoring import Light, units

FAST = ["decoding.max_tokens=2", "decoding.beam=1", "data.hours=0.01"]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"quoted\" 'x' | `code` [a](javascript:b)"


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "export"
    save_export(small_recognizer(), folder, {})
    return folder


@pytest.fixture(scope="module")
def report(corpus, export, tmp_path_factory):
    """The folder of a benchmark of the small corpus, in the four ways."""
    folder = tmp_path_factory.mktemp("benchmark")
    config = compose([*SIZES, *FAST, f"cache={corpus.cache}", "benchmark=cockpit", f"out={folder}"])
    assert run_benchmark(config, export) == 0
    return folder


def rows_of(folder):
    return json.loads((folder / "report.json").read_text("utf-8"))


def test_all_sets_in_all_ways(report):
    found = rows_of(report)
    assert [one["name"] for one in found["sets"]] == list(found["parts"]) == ["cockpit test", "cockpit unseen names"]
    plain = ["whole", "stream, 640 ms"]
    for name, ways in found["utterances"].items():
        assert list(ways) == [*plain, *(f"{way} + retrieval" for way in plain)]
        assert len({len(rows) for rows in ways.values()}) == 1
        assert list(found["latency"][name]) == ["stream, 640 ms", "stream, 640 ms + retrieval"]
    assert all(re.fullmatch(r"\d+ names of the set itself", one["retrieval"]) for one in found["sets"])
    assert found["normalization"]["name"] == "light"


def test_the_figures_can_be_computed_again_from_the_utterances(report):
    found, spell = rows_of(report), Light("light")
    for name, ways in found["parts"].items():
        for way, groups in ways.items():
            rows = found["utterances"][name][way]
            assert groups["all"]["utterances"] == len(rows)
            total = np.zeros(4, int)
            for row in rows:
                assert (row["reference"], row["hypothesis"]) == (spell(row["written"]), spell(row["told"]))
                again = edits(units(row["reference"]), units(row["hypothesis"]))
                assert again._asdict() == row["errors"]
                total += again
            assert groups["all"]["MER edits"] == total.tolist()
            texts = ([" ".join(units(row[key])) for row in rows] for key in ("reference", "hypothesis"))
            assert groups["all"]["MER"] == pytest.approx(100 * jiwer.wer(*texts), abs=0.01)


def test_markdown_and_page_say_what_the_json_says(report):
    found = rows_of(report)
    text, web = ((report / name).read_text("utf-8") for name in ("report.md", "report.html"))
    for name, ways in found["parts"].items():
        assert name in text and name in web
        for way in ways.values():
            for rate in (way["all"]["MER"], *way["all"]["MER interval"]):
                assert f"{rate:.2f}" in text and f"{rate:.2f}" in web
    for said in (text, web):
        assert "normalization: light (" in said and "no paper reports this set" in said
    assert text == markdown(found)


class Reader(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_nothing_from_outside(report):
    web = (report / "report.html").read_text("utf-8")
    reader = Reader(web)
    assert not {"link", "iframe", "img"} & set(reader.tags)
    assert reader.tags.count("script") == reader.tags.count("style") == 1
    sources = [value for key, value in reader.attributes if key in ("src", "href")]
    assert sources and all(value.startswith("data:audio/flac;base64,") for value in sources)
    assert "url(" not in web and "@import" not in web
    for svg in re.findall(r"<svg.*?</svg>", web):
        ElementTree.fromstring(svg)


def hostile(report):
    """The same report with a hostile text wherever a text of a user can stand."""
    found = rows_of(report)
    found["benchmark"] = found["export"] = HOSTILE
    found["sets"][0] |= {"name": HOSTILE, "comparable": HOSTILE, "retrieval": HOSTILE}
    found["sets"][1] |= {"not_run": HOSTILE}
    for key in ("parts", "faults", "latency", "utterances"):
        ways = found[key].pop("cockpit test")
        found[key][HOSTILE] = {f"{way}{HOSTILE}" if way == "whole" else way: value for way, value in ways.items()}
    first = next(iter(found["utterances"][HOSTILE].values()))
    found["faults"][HOSTILE] = {"whole": {HOSTILE: {"count": 1, "ids": [HOSTILE]}}}
    for key in ("id", "language", "domain", "written", "told", "reference", "hypothesis"):
        first[0][key] = HOSTILE
    first[0]["hints"], first[0]["names"] = [HOSTILE], [HOSTILE]
    first[0]["errors"]["insertions"] = 10**6  # the worst of all, so it is shown
    return found


def test_nothing_of_a_hostile_text_becomes_html(report):
    plain, found = Reader((report / "report.html").read_text("utf-8")), hostile(report)
    reader = Reader(page(found, Clips()))
    assert set(reader.tags) <= set(plain.tags) | {"p"}
    assert reader.tags.count("script") == 1
    assert not [key for key, _ in reader.attributes if key.startswith("on")]
    assert any("alert(1)" in text for text in reader.text)
    text = markdown(found)
    assert "<script" not in text and "<img" not in text and "](" not in text.replace("\\]", "")
    columns = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(columns)) < 8  # no row fell apart: each table has rows of one width
    for table in tables(found):
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_a_folder_of_manifests(tmp_path, export, corpus, capsys):
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * np.random.default_rng(number).standard_normal(24000), 16000)
    rows = [{"audio": f"{number}.wav", "text": text} for number, text in enumerate(["turn it on", "", "打开天窗"])]
    (tmp_path / "mine, too.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (tmp_path / "torn.jsonl").write_text('{"audio": "gone.wav", "text": "x"}\n', "utf-8")
    (tmp_path / "notes.txt").write_text("no manifest", "utf-8")
    config = compose([*SIZES, *FAST[:2], f"cache={tmp_path / 'cache'}", f"benchmark={tmp_path}", f"out={tmp_path}/out"])
    assert run_benchmark(config, export) == 0
    found = rows_of(tmp_path / "out")
    assert [(one["name"], bool(one["not_run"])) for one in found["sets"]] == [("mine, too", False), ("torn", True)]
    assert "gone.wav" in found["sets"][1]["not_run"]
    assert "not run: " in capsys.readouterr().out
    assert found["faults"]["mine, too"]["whole"] == {LEFT_OUT: {"count": 1, "ids": ["1"]}}


def test_a_program_on_a_folder_of_manifests(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", [0.1] * 16000, 16000)
    (tmp_path / "set.jsonl").write_text(json.dumps({"audio": "a.wav", "text": "turn it on"}), "utf-8")
    program = "import sys\nfor line in sys.stdin: print(line.split(chr(9))[0], 'turn it off', sep=chr(9))\nsys.exit(2)"
    command = shlex.join([sys.executable, "-c", program])
    config = compose(
        [f"system={command}", f"cache={tmp_path / 'cache'}", f"benchmark={tmp_path}", f"out={tmp_path}/out"]
    )
    assert run_benchmark(config, None) == 1
    found = rows_of(tmp_path / "out")
    assert found["parts"]["set"]["system"]["all"]["MER edits"] == [1, 0, 0, 3]
    assert found["crash"] == {"set": "it ended with exit code 2 after 1 of 1 answers"}
    assert "system: " in capsys.readouterr().out


def test_sets_that_are_not_there_are_listed(tmp_path, export, monkeypatch):
    config = compose([*SIZES, f"cache={tmp_path}", "benchmark=public", f"out={tmp_path / 'out'}"])
    with pytest.raises(KitError, match="no set of benchmark=public could be run: AISHELL-1 test: "):
        run_benchmark(config, export)
    found = rows_of(tmp_path / "out")
    names = [one.name for one in sets_of("public")]
    assert [one["name"] for one in found["sets"]] == names and all(one["not_run"] for one in found["sets"])
    shown = (tmp_path / "out" / "report.md").read_text("utf-8")
    rows = [line for line in shown.splitlines() if "not run" in line]
    assert len(rows) == len(names) and "| 0.57 | – | 0.60 | – |" in rows[0]


def test_every_figure_of_the_paper_belongs_to_a_set():
    sets = sets_of("public")
    assert {one.paper for one in sets if one.paper} == set(paper()["errors"])
    assert all(one.comparable for one in sets)
    assert len({one.name for one in sets}) == len(sets)


def test_own_benchmarks_and_wrong_ones(tmp_path):
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "mine.yaml").write_text("about: x\nsets: [{name: a, data: cockpit, part: test}]\n")
    (tmp_path / "benchmark" / "bad.yaml").write_text("about: x\nsets: [{name: a, dato: cockpit}]\n")
    assert set(known([tmp_path])) == {"cockpit", "public", "mine", "bad"}
    assert [one.name for one in sets_of("mine", [tmp_path])] == ["a"]
    with pytest.raises(UsageError, match="dato is missing or no part of a set"):
        sets_of("bad", [tmp_path])
    with pytest.raises(UsageError, match="unknown benchmark publik; did you mean public"):
        sets_of("publik")
    with pytest.raises(UsageError, match="has no manifest"):
        sets_of(str(tmp_path))
    for path in (CONFIGS / "benchmark").glob("*.yaml"):
        assert OmegaConf.load(path).about


def test_what_cannot_be_written_or_judged(tmp_path, export):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file; a benchmark writes a folder"):
        run_benchmark(compose(["benchmark=cockpit", f"out={tmp_path / 'file'}"]), export)
    head = tmp_path / "export"
    save_export(small_recognizer(("encoder", "phoneme_head")), head, {})
    with pytest.raises(KitError, match="has no language model"):
        run_benchmark(compose(["benchmark=cockpit", f"out={tmp_path / 'out'}"]), head)


def test_a_set_is_kept_when_only_retrieval_fails(tmp_path, corpus, monkeypatch):
    base = [*SIZES, *FAST, f"cache={corpus.cache}", "benchmark=cockpit", "decoding=offline"]
    work = benchmark.Benchmark(compose(base), "x", small_recognizer(), tmp_path)
    monkeypatch.setattr(work, "_listed", lambda *_: (_ for _ in ()).throw(KitError("the database is torn")))
    found = work.run(sets_of("cockpit"))
    assert [one["name"] for one in found["sets"]] == ["cockpit test", "cockpit unseen names"]
    assert all(found["parts"][one["name"]] and one["not_run"] is None for one in found["sets"])
    assert {one["retrieval"] for one in found["sets"]} == {"not run: the database is torn"}


def test_what_was_given_is_searched_in(tmp_path, corpus):
    (tmp_path / "names.tsv").write_text("外滩\n")
    base = [*SIZES, "data.hours=0.01", f"cache={corpus.cache}", "benchmark=cockpit"]
    (one, _) = sets_of("cockpit")
    for extra, wanted in (
        (["retrieval=none"], None),
        ([f"personal={tmp_path / 'names.tsv'}"], str(tmp_path / "names.tsv")),
    ):
        work = benchmark.Benchmark(compose([*base, *extra]), "x", small_recognizer(), tmp_path)
        config = work._composed(one)
        assert config.personal is None and "hotwords" not in config.decoding.callbacks
        with work._listed(one, config, corpus.data(config)) as (found, about):
            assert (found and found.personal) == wanted
            assert about.startswith("not run" if wanted is None else "personal=")


# --- the small pieces -------------------------------------------------------------------------------------------------


def row(name, wrong, length=10, seconds=1.0, snr=20.0):
    errors = {"substitutions": wrong, "deletions": 0, "insertions": 0, "length": length}
    return {"id": name, "errors": errors, "seconds": seconds, "snr": snr, "language": "zh"}


def test_the_worst_are_those_with_most_errors_in_any_way():
    ways = {"a": [row("x", 1), row("y", 3), row("z", 0)], "b": [row("x", 5), row("y", 0), row("w", 3, length=4)]}
    assert worst(ways) == ["x", "w", "y"]
    assert worst(ways, 1) == ["x"]


def test_bins_hold_every_utterance_once_and_in_order():
    draw = np.random.default_rng(1)
    rows = [
        row(str(n), int(draw.integers(0, 9)), 10, float(draw.exponential(8)), float(draw.uniform(0, 60)))
        for n in range(300)
    ]
    for kind in (duration_of, ratio_of):
        found = binned(rows, kind)
        assert sum(one.utterances for one in found.values()) == 300
        begins = [float(re.match(r"[\d.]+", name)[0]) for name in found]
        assert begins == sorted(begins)
        for name, one in found.items():
            chosen = [each for each in rows if kind(each) == name]
            assert one.rate == pytest.approx(10 * np.mean([each["errors"]["substitutions"] for each in chosen]))
            assert one.low <= one.rate <= one.high
    assert binned([row("a", 1, snr=None)], ratio_of) == {}
    assert point([row("a", 2, length=0)]) is None


def test_a_chart_keeps_everything_inside():
    series = {
        "one <way>": {"0–2 s": Point(3, 40.0, 10.0, 130.0)},
        "two": {"0–2 s": Point(3, 0.0, 0.0, 0.0), "x": Point(1, 1, 1, 1)},
    }
    drawn = ElementTree.fromstring(chart(series, "a & b"))
    numbers = [float(one.get(key)) for one in drawn.iter() for key in ("x1", "x2", "cx", "x") if one.get(key)]
    assert min(numbers) >= 0 and max(numbers) <= 460
    heights = [float(one.get(key)) for one in drawn.iter() for key in ("y1", "y2", "cy", "y") if one.get(key)]
    assert min(heights) >= 0 and max(heights) <= 230
    assert chart({}, "nothing") == chart({"a": {}}, "nothing") == ""


class OneClip:
    """A data module with a short and a long recording."""

    def cuts(self, part):
        clips = {"short": 1.0, "long": 40.0, "right": 1.0}
        return [SimpleNamespace(id=name, duration=seconds) for name, seconds in clips.items()]

    def samples(self, cut):
        return torch.zeros(int(16000 * cut.duration))


def test_clips_are_bounded(monkeypatch):
    ways = {"a": [row("short", 2), row("long", 3), row("right", 0)]}
    clips = Clips()
    clips.keep("set", ways, OneClip(), "test", None)
    clips.keep("set", ways, OneClip(), "test", None)  # what is there is not taken again
    assert list(clips.found) == [("set", "short")] and clips.left_out == 2
    monkeypatch.setattr("kit.evaluation.clips.MOST", 10)
    full = Clips()
    full.keep("set", ways, OneClip(), "test", None)
    assert not full.found and full.left_out == 2
