"""Adapters of other recognizers, with stand-ins for their packages."""

import io
import sys
import types
from pathlib import Path

import pytest
import soundfile

from kit.errors import KitError, UsageError
from kit.peers import faster_whisper, pocketsphinx
from kit.peers.listing import answer_all, listed


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, [0.5] * 1600, 16000)
    return path


def asked(monkeypatch, lines, make):
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return answer_all(make)


def test_each_line_is_answered(monkeypatch, capsys):
    code = asked(monkeypatch, "a\t/x/a.wav\nb c\t/x/b.wav\n", lambda: lambda path: f" text\tof\n{path.name} ")
    assert code == 0
    assert capsys.readouterr().out == "a\ttext of a.wav\nb c\ttext of b.wav\n"


def test_a_file_that_fails_is_told_and_the_others_go_on(monkeypatch, capsys):
    def transcribe(path):
        if path.name == "a.wav":
            raise KitError("a.wav is no audio")
        return "fine"

    assert asked(monkeypatch, "a\ta.wav\nb\tb.wav\n", lambda: transcribe) == 1
    shown = capsys.readouterr()
    assert shown.out == "b\tfine\n" and shown.err == "a: a.wav is no audio\n"


def test_lines_that_are_none(monkeypatch, capsys):
    assert list(listed(["a\tx y.wav\r\n"])) == [("a", Path("x y.wav"))]
    assert asked(monkeypatch, "a.wav\n", lambda: str) == 2
    assert "line 1 of standard input is no id<TAB>path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "make"),
    [("pocketsphinx", lambda folder: pocketsphinx.recognizer()),
     ("faster_whisper", lambda folder: faster_whisper.recognizer([str(folder)]))],
)  # fmt: skip
def test_a_missing_package_is_named(package, make, monkeypatch, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    name = package.replace("_", "-")
    with pytest.raises(KitError, match=rf"needs the package {name}; install nim4-kit\[{name}\]"):
        make(tmp_path)


def test_pocketsphinx_hears_all_samples(monkeypatch, wav):
    heard = []

    class Decoder:
        def __init__(self, loglevel):
            heard.append(loglevel)

        def start_utt(self):
            heard.append("start")

        def process_raw(self, content, full_utt):
            heard.append((len(content), content[:2], full_utt))

        def end_utt(self):
            heard.append("end")

        def hyp(self):
            return types.SimpleNamespace(hypstr="hello") if heard.count("end") == 1 else None

    monkeypatch.setitem(sys.modules, "pocketsphinx", types.SimpleNamespace(Decoder=Decoder))
    transcribe = pocketsphinx.recognizer()
    assert transcribe(wav) == "hello"
    assert heard == ["FATAL", "start", (3200, (16383).to_bytes(2, "little"), True), "end"]
    assert transcribe(wav) == ""  # nothing was heard


def test_faster_whisper_takes_a_local_model_only(monkeypatch, wav, tmp_path):
    calls = []

    class Model:
        def __init__(self, folder, local_files_only):
            calls.append((folder, local_files_only))

        def transcribe(self, samples, language, beam_size):
            calls.append((samples.shape, language, beam_size))
            return iter([types.SimpleNamespace(text=" one"), types.SimpleNamespace(text=" two")]), None

    monkeypatch.setitem(sys.modules, "faster_whisper", types.SimpleNamespace(WhisperModel=Model))
    (tmp_path / "model.bin").write_bytes(b"")
    assert faster_whisper.recognizer([str(tmp_path), "language=zh", "beam=2"])(wav).split() == ["one", "two"]
    assert calls == [(str(tmp_path), True), ((1600,), "zh", 2)]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [([], "give the folder"), (["language=zh"], "give the folder"), (["nowhere"], "is no converted model"),
     (["nowhere", "beam=0"], "beam=0 must be"), (["nowhere", "size=1"], "unknown option size")],
)  # fmt: skip
def test_faster_whisper_says_what_it_needs(arguments, answer):
    with pytest.raises(UsageError, match=answer):
        faster_whisper.recognizer(arguments)
