"""Evaluation in noise and on clips without speech, from the configuration to the table, in every way of decoding."""

import json

import numpy as np
import pytest
import soundfile
import torch
from small import small_config, small_recognizer

from kit.decoding.events import Final, Partial
from kit.evaluation import report as reports
from kit.evaluation import streaming
from kit.evaluation.report import measure
from kit.evaluation.scored import Scored, rates
from kit.evaluation.streaming import Heard, listen
from kit.evaluation.tables import show

HEAD = ("encoder", "phoneme_head")
STREAM = ("decoding=streaming", "decoding.callbacks.gate=null")


@pytest.fixture
def config(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.noise.CLIPS", 10)
    for number in range(3):
        noise = 0.1 * np.random.default_rng(number).standard_normal(16000 * 3)
        (tmp_path / "noise").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "noise" / f"{number}.flac", noise, 16000)

    def make(*overrides):
        extra = ["decoding.max_tokens=2", "decoding.beam=1", f"noise_from={tmp_path / 'noise'}"]
        return small_config(*extra, *overrides, cache=corpus.cache)

    return make


def ratio(clean, noisy):
    return 10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2))


def test_streams_hear_the_noise(config, corpus, monkeypatch):
    heard = []

    def spy(session, samples):
        heard.append(samples.numpy())
        return Heard(seconds=len(samples) / 16000)

    monkeypatch.setattr(streaming, "listen", spy)
    monkeypatch.setattr(streaming, "words_in_silence", lambda engine: {})
    chosen = config("decoding=streaming", "split=test", "noise_at=5")
    data = corpus.data(chosen)
    report = measure(chosen, small_recognizer(), data)
    clean = [cut.load_audio()[0] for batch in data.part_dataloader("test") for cut in batch.cuts]
    assert len(heard) == 2 * len(clean)
    assert [ratio(one, two) for one, two in zip(clean * 2, heard, strict=True)] == pytest.approx(
        [5] * len(heard), abs=0.05
    )
    assert report["noise_at"] == 5


@pytest.mark.parametrize("decoding", ["offline", "chunked"])
def test_whole_and_chunked_decoding_hear_the_noise(config, corpus, monkeypatch, capsys, decoding):
    seen, recognize = [], reports.recognize

    def spy(recognizer, features, *rest):
        seen.append(features)
        return recognize(recognizer, features, *rest)

    monkeypatch.setattr(reports, "recognize", spy)
    chosen = config(f"decoding={decoding}", "split=test", "noise_at=5")
    data = corpus.data(chosen)
    report = measure(chosen, small_recognizer(HEAD), data)
    noisy = [batch.features for batch in data.part_dataloader("test", noise_at=5.0)]
    clean = [batch.features for batch in data.part_dataloader("test")]
    turns = len(report["parts"]["test"])
    assert all(torch.equal(one, two) for one, two in zip(seen, noisy * turns, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(seen, clean * turns, strict=True))
    show(report)
    assert "in noise at 5 dB" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("extra", [("decoding=offline",), ("decoding=chunked",), STREAM])
def test_the_part_without_speech(config, corpus, capsys, extra):
    chosen = config(*extra, "split=silence", "noise_at=5")
    report = json.loads(json.dumps(measure(chosen, small_recognizer(), corpus.data(chosen))))
    assert "silence" not in report  # these clips are the part itself
    for found in report["parts"]["silence"].values():
        assert {kind: scores["utterances"] for kind, scores in found.items()} == {
            "all": 10,
            "noise": 6,
            "silence": 2,
            "white noise": 2,
        }
        for scores in found.values():
            assert scores["with text, %"] == pytest.approx(100 * scores["with text"] / scores["utterances"], abs=0.01)
        assert found["all"]["with text"] == sum(scores["with text"] for scores in found.values()) / 2
    show(report)
    printed = capsys.readouterr().out
    assert "silence: clips without speech" in printed and "error rates" not in printed


def test_an_encoder_alone_is_judged_by_its_phonemes(config, corpus, capsys):
    chosen = config("split=silence")
    report = measure(chosen, small_recognizer(HEAD), corpus.data(chosen))
    found = report["parts"]["silence"]["whole"]["all"]
    assert found["with phonemes"] > 0 and found["with phonemes, %"] == 10 * found["with phonemes"]
    show(report)
    assert "with phonemes" in capsys.readouterr().out


def row(heard, phonemes=()):
    return Scored("u", "-", "noise", 1.0, "", heard, list(phonemes), [])


def test_what_counts_as_a_text():
    assert rates([row("打开"), row(""), row("x"), row("", ["b"])]) == {"with text": 2, "with text, %": 50.0}
    assert rates([row(None, ["b"]), row(None)]) == {"with phonemes": 1, "with phonemes, %": 50.0}


def test_a_text_that_was_told_for_a_moment_counts():
    taken_back = Heard(events=[(1.0, Partial(0, 0.9, "a", 0)), (2.0, Final(0, 1.9, "", 0.0, 1.9, []))])
    assert (taken_back.text, taken_back.told) == ("", "a")
    assert Heard().told == ""


def test_the_same_silence_for_streams_as_for_whole_clips(config, corpus, monkeypatch):
    heard = []
    monkeypatch.setattr(streaming, "listen", lambda session, samples: heard.append(samples) or listen(session, samples))
    chosen = config(*STREAM, "split=silence")
    data = corpus.data(chosen)
    measure(chosen, small_recognizer(), data)
    for samples, cut in zip(
        heard, [cut for batch in data.part_dataloader("silence") for cut in batch.cuts] * 2, strict=True
    ):
        assert np.array_equal(samples.numpy(), cut.load_audio()[0])
