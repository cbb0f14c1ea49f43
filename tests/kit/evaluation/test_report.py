import json
import random
from dataclasses import replace

import jiwer
import pytest
from small import small_config, small_recognizer
from streams import database, listener

from kit.evaluation.report import Scored, evaluate, groups, measure, rates, show, ways
from kit.model.export import save_export
from kit.text.normalize import units


def scored(number, language, domain, said, heard):
    return Scored(f"u{number}", language, domain, 1.0, said, heard, ["b", "a1"], ["b", "a2"])


ROWS = [
    scored(0, "zh", "poi", "导航到外滩", "导航到外摊"),
    scored(1, "en", "media", "turn on the radio", "turn the radio on"),
    scored(2, "mixed", "media", "播放hello", "播放halo吗"),
    scored(3, "zh", "media", "打开天窗", ""),
]


def test_rates_against_jiwer():
    found = rates(ROWS)
    spaced = [(" ".join(units(row.reference)), " ".join(units(row.hypothesis))) for row in ROWS]
    assert found["MER"] == pytest.approx(100 * jiwer.wer(*map(list, zip(*spaced, strict=True))), abs=0.01)
    assert found["PER"] == 50.0
    zh = [row for row in ROWS if row.language == "zh"]
    cer = jiwer.cer([row.reference for row in zh], [row.hypothesis for row in zh])
    assert found["zh CER"] == pytest.approx(100 * cer, abs=0.01)
    assert found["en WER"] == 50.0
    assert found["mixed MER"] == pytest.approx(100 * 2 / 3, abs=0.01)


def test_every_utterance_is_in_its_groups():
    sizes = {name: len(rows) for name, rows in groups(ROWS).items()}
    assert sizes == {"all": 4, "en": 1, "mixed": 1, "zh": 2, "media": 3, "poi": 1}


def test_ways_of_decoding():
    both = ways(small_config().decoding)
    assert [(name, way.chunk, way.left) for name, way in both.items()] == [("whole", 0, -1), ("640 ms", 16, 4)]
    one = ways(small_config("decoding=chunked", "decoding.chunk=8").decoding)
    assert [(name, way.chunk, way.left) for name, way in one.items()] == [("320 ms", 8, 4)]


@pytest.mark.parametrize("parts", [("encoder", "phoneme_head"), ("encoder", "phoneme_head", "adaptor", "llm")])
def test_a_report_from_data_to_table(parts, corpus, tmp_path, capsys):
    config = small_config("decoding.max_tokens=3", f"out={tmp_path / 'report.json'}", cache=corpus.cache)
    data = corpus.data(config)
    save_export(small_recognizer(parts), tmp_path / "export", {})
    report = evaluate(config, tmp_path / "export", data)
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == json.loads(json.dumps(report))
    assert set(report["parts"]) == {"test", "unseen"}
    for part, found in report["parts"].items():
        assert found["whole"]["all"]["utterances"] == len(data.cuts(part))
        languages = [found["whole"][name]["utterances"] for name in ("zh", "en", "mixed") if name in found["whole"]]
        assert sum(languages) == len(data.cuts(part))
    printed = capsys.readouterr().out
    assert "test: error rates in percent" in printed
    assert ("MER" in printed) == ("llm" in parts)
    assert printed.count("heard") == len(report["examples"]) == 5
    assert "None" not in printed


def test_figures_of_hints_where_there_were_any():
    assert "hints said" not in rates(ROWS)
    rows = [replace(ROWS[0], names=["外滩"], hints=["外滩", "外摊"], shown=["外滩"]), *ROWS[1:]]
    found = rates(rows)
    assert found["hints an utterance"] == 0.25
    assert (found["hints said"], found["hints verbatim"], found["names hinted"]) == (100.0, 100.0, 100.0)
    assert found["recited"] == 100.0  # what the recognizer was given and did not show to the LLM counts, too
    assert rates([replace(row, shown=[]) for row in rows])["names hinted"] == 0.0


@pytest.mark.parametrize("decoding", ["chunked", "streaming"])
def test_retrieval_reaches_the_report(decoding, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("kit.evaluation.streaming.silent_clips", lambda count: [])
    recognizer, part = listener(), ["split=unseen", "decoding.max_tokens=1", "decoding.beam=1"]

    def measured(*overrides):
        config = small_config(*part, *overrides, cache=corpus.cache)
        for name in {"endpoint", "gate", "trim", "veto", "splice"} & set(config.decoding.callbacks):
            config.decoding.callbacks[name] = None
        return measure(config, recognizer, corpus.data(config))

    heard = measured("decoding=chunked")["examples"][0]
    name = heard["reference"]
    folder = database(tmp_path, {name: heard["phonemes"][:6]})
    report = measured(f"decoding={decoding}", f"hotwords={folder}")
    (example,) = [one for one in report["examples"] if one["id"] == heard["id"]]
    assert example["shown"] == example["hints"] == [name]
    *_, way = report["parts"]["unseen"].values()  # a stream stands behind the whole pass, which hears other phonemes
    assert way["all"]["hints an utterance"] > 0 and "hints said" in way["all"]
    show(report)
    assert "hints that were said" in capsys.readouterr().out


def test_rates_do_not_depend_on_the_order_of_utterances():
    mixed = ROWS * 3
    random.Random(0).shuffle(mixed)
    assert rates(mixed) == rates(ROWS)


def test_one_part_alone(corpus, capsys):
    config = small_config("split=dev", "decoding=chunked", "decoding.max_tokens=2", cache=corpus.cache)
    report = measure(config, small_recognizer(), corpus.data(config))
    assert list(report["parts"]) == ["dev"]
    assert list(report["parts"]["dev"]) == ["640 ms"]
    show(report)
    assert "640 ms" in capsys.readouterr().out
