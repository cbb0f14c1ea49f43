"""Figures of streams: on streams made by hand, and from the corpus to the table."""

import pytest
import torch
from small import small_config, small_recognizer

from kit.decoding.engine import Engine
from kit.decoding.events import Final, Partial, Word
from kit.evaluation.latency import latency
from kit.evaluation.report import measure
from kit.evaluation.streaming import Heard, listen, offline, silent_clips, words_in_silence
from kit.evaluation.tables import show


class Counts:
    """What an engine counted: nothing twice."""

    encoded, heard = 50, [50, 13]

    class decoder:
        speech_read = 13


def test_figures_of_a_stream_made_by_hand():
    words = [Word("a", 0.2, 0.5), Word("b", 0.6, 1.0), Word("c", 1.1, 1.6)]
    heard = Heard(
        events=[
            (0.9, Partial(0, 0.8, "a", 0)),
            (1.5, Partial(0, 1.4, "a x", 2)),  # x will change, a is settled
            (2.3, Final(0, 2.0, "a b c", 0.0, 2.0, words)),
        ],
        seconds=2.0,
        computing=0.5,
        finalization=0.3,
    )
    found = latency([heard], Counts())
    assert found["first text after the first word began, ms"]["median"] == pytest.approx(700)
    delays = found["a word's last change after its end, ms"]
    assert delays == {"median": pytest.approx(700), "95 %": pytest.approx(1300)}  # 0.4, 0.7, 1.3
    delays = found["final text after the end of the audio, ms"]
    assert delays["median"] == pytest.approx(300)
    assert found["real-time factor"] == 0.25
    assert found["encoder frames computed twice, %"] == found["speech embeddings read twice, %"] == 0
    assert found["words told that changed, %"] == pytest.approx(33.33)
    assert found["settled words that changed, %"] == 0


def test_the_clock_waits_for_audio_and_for_the_machine():
    config = small_config("decoding=streaming", "decoding.callbacks.endpoint=null", "decoding.max_tokens=3")
    heard = listen(Engine(small_recognizer(), config.decoding).session(), 0.1 * torch.randn(30000))
    times = [at for at, _ in heard.events]
    assert times == sorted(times)
    assert all(at >= event.time - 1e-6 for at, event in heard.events)
    assert times[-1] >= heard.seconds == 30000 / 16000
    assert heard.finalization > 0


def test_offline_is_the_same_decoding_in_one_chunk():
    decoding = small_config("decoding=streaming").decoding
    whole = offline(decoding)
    assert (whole.chunk, whole.left, whole.partials) == (0, -1, False)
    assert set(decoding.callbacks) - set(whole.callbacks) == {"endpoint"}
    assert whole.beam == decoding.beam


def test_clips_without_speech():
    clips = list(silent_clips(8))
    assert [kind for kind, _ in clips] == ["white noise", "pink noise", "tone", "silence"] * 2
    assert all(samples.shape == (160000,) and samples.abs().max() <= 1 for _, samples in clips)
    assert clips[3][1].abs().max() == 0
    assert 20 * torch.log10(clips[0][1].std()) == pytest.approx(-70, abs=0.1)
    assert 20 * torch.log10(clips[5][1].std()) == pytest.approx(-60, abs=0.1)


def test_a_random_model_says_nothing_in_silence():
    engine = Engine(small_recognizer(), small_config("decoding=streaming").decoding)
    assert words_in_silence(engine, 8) == {
        kind: {"clips": 2, "with text": 0} for kind in ("white noise", "pink noise", "tone", "silence")
    }


def test_a_report_of_streams(corpus, capsys, monkeypatch):
    monkeypatch.setattr("kit.evaluation.streaming.silent_clips", lambda count: silent_clips(4))
    config = small_config(
        "decoding=streaming", "split=test", "decoding.max_tokens=3", "decoding.callbacks.gate=null", cache=corpus.cache
    )
    data = corpus.data(config)
    report = measure(config, small_recognizer(), data)
    ways = report["parts"]["test"]
    assert list(ways) == ["whole", "stream, 640 ms"]
    assert all(way["all"]["utterances"] == len(data.cuts("test")) for way in ways.values())
    figures = report["latency"]["test"]
    assert figures["encoder frames computed twice, %"] == figures["speech embeddings read twice, %"] == 0
    assert sum(row["clips"] for row in report["silence"].values()) == 4
    show(report)
    printed = capsys.readouterr().out
    assert "test: streams" in printed
    assert "clips of 10 s without speech: 4" in printed
