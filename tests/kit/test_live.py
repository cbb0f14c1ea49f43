"""`python -m kit stream` on the command line and in a terminal."""

import io
import json
import sys
import time

import numpy as np
import pytest
import soundfile
from rich.console import Console
from streams import database, engine, heard_by, listener

from kit import live
from kit.audio.reading import read_audio
from kit.cli import main
from kit.decoding.events import Final, Hotword, Partial
from kit.model.export import load_export, save_export
from kit.text.phonemes import PhonemeInventory

OTHERS = ("endpoint", "gate", "trim", "veto", "splice", "guard", "timing")
PLAIN = [f"decoding.callbacks.{name}=null" for name in OTHERS]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    save_export(listener(), folder / "export", {})
    noise = 0.1 * np.random.default_rng(0).standard_normal(40000)
    soundfile.write(folder / "a.wav", noise, 16000)
    return folder


def line(place, *more):
    return ["stream", str(place / "a.wav"), f"checkpoint={place / 'export'}", "decoding.max_tokens=4", *PLAIN, *more]


def test_json_events(place, capsys):
    assert main(line(place, "events=json")) == 0
    events = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert events[0]["event"] == "began"
    assert events[-1]["event"] == "final"
    assert events[-1]["end"] == 2.5
    assert {event["event"] for event in events} <= {"began", "partial", "final"}


def test_hotwords_are_told(place, capsys):
    samples = read_audio(place / "a.wav")
    heard = heard_by(engine(model=load_export(place / "export")).session(), samples)
    database(place, {"外滩": PhonemeInventory.default().decode(heard[4:10])})
    assert main(line(place, "events=json", f"hotwords={place / 'db'}")) == 0
    events = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert [event["text"] for event in events if event["event"] == "hotword"] == ["外滩"]
    assert main(line(place, f"hotwords={place / 'db'}")) == 0
    assert "hotword: 外滩" in capsys.readouterr().err
    assert main(line(place, f"hotwords={place / 'none'}")) == 2
    assert str(place / "none") in capsys.readouterr().err


def test_text_goes_to_standard_output_and_partials_beside_it(place, capsys):
    assert main(line(place)) == 0
    shown = capsys.readouterr()
    (row,) = shown.out.splitlines()
    assert row.startswith("0.00-2.50\t")
    assert "|" in shown.err


def test_real_time_takes_as_long_as_the_audio(place):
    begin = time.monotonic()
    assert main(line(place, "realtime=true")) == 0
    assert time.monotonic() - begin >= 2.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stream"], "stream needs one audio file, or mic"),
        (["stream", "a.wav", "b.wav"], "stream needs one audio file, or mic"),
        (["stream", "missing.wav"], "missing.wav does not exist"),
        (["stream", "a.wav", "events=xml"], "events=xml must be text or json"),
    ],
)
def test_wrong_use_is_answered(place, capsys, arguments, message):
    assert main([*arguments, f"checkpoint={place / 'export'}"]) in (1, 2)
    assert message in capsys.readouterr().err


def test_the_microphone_may_be_missing(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["stream", "mic", f"checkpoint={place / 'export'}"]) == 1
    assert "the microphone needs the package sounddevice" in capsys.readouterr().err


def test_a_text_under_way_tells_settled_from_provisional():
    drawn = live.under_way(Partial(0, 1.3, "导航到外", 3), ["外滩", "外白渡桥"])
    pieces = [(drawn.plain[span.start : span.end], str(span.style)) for span in drawn.spans]
    assert pieces[1:3] == [("导航到", "bold"), ("外", "dim italic")]
    assert pieces[-1] == ("外滩, 外白渡桥", "magenta")


def test_ended_utterances_stay_in_the_terminal():
    console = Console(force_terminal=True, width=80, record=True, highlight=False, file=io.StringIO())
    with live.View(console) as show:
        show(Hotword(0, 1.0, "外滩"))
        show(Partial(0, 1.3, "导航到外", 3))
        show(Final(0, 2.0, "导航到外滩", 0.5, 2.0))
        show(Final(1, 4.0, "", 3.0, 4.0))
    kept = console.export_text()
    assert "0.50 -    2.00  导航到外滩" in kept
    assert "3.00 -    4.00  (nothing)" in kept
