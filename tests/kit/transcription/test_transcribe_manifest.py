"""`transcribe manifest=`: everything once, in the words of `transcribe FILE`, and killed as often as one likes."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpus import BAD, Corpus, rows_of

import kit
from kit.cli import main
from kit.config import compose
from kit.decoding.offline import transcribe_files
from kit.transcription.results import problems_of

ROOT = Path(kit.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return Corpus(tmp_path_factory.mktemp("transcription"), 60)


@pytest.fixture(scope="module")
def whole(corpus):
    """The results of a run that nothing disturbed, and what it said."""
    out = corpus.folder / "whole.jsonl"
    assert main(corpus.arguments(out, "batch.times=true")) == 1
    return out


def test_every_utterance_is_written_once_or_listed_with_a_reason(corpus, whole):
    rows = rows_of(whole)
    assert sorted(row["id"] for row in rows) == corpus.names
    problems = {row["id"]: row["reason"] for row in rows_of(problems_of(whole))}
    assert set(problems) == set(BAD)
    assert all(BAD[name] in reason for name, reason in problems.items())
    assert all(0.4 <= row["duration"] <= 1.2 for row in rows)
    assert {row["language"] for row in rows if int(row["id"][1:]) % 2} == {"zh"}
    assert len({row["text"] for row in rows}) > 3


def test_the_texts_are_those_of_the_files_one_by_one(corpus, whole):
    texts = {row["id"]: row["text"] for row in rows_of(whole)}
    names = corpus.names[::6]
    config = compose([one for one in corpus.arguments(whole)[1:]])
    alone = transcribe_files([corpus.folder / f"{name}.wav" for name in names], corpus.export, config)
    assert {path.stem: text for path, text in alone} == {name: texts[name] for name in names}


def test_times_lie_inside_and_words_make_the_text(whole):
    words = 0
    for row in rows_of(whole):
        assert [one["text"] for one in row["segments"]] == [row["text"]] * bool(row["text"])
        for one in [*row["segments"], *row["words"]]:
            assert 0 <= one["start"] <= one["end"] <= row["duration"] + 0.05
        words += len(row["words"])
        assert all(word["text"] in row["text"].lower() for word in row["words"])
    assert words


def test_killed_at_any_moment_the_same_command_goes_on(corpus, tmp_path):
    out = tmp_path / "out.jsonl"
    arguments = corpus.arguments(out, "batch.seconds=1")
    process = subprocess.Popen(
        [sys.executable, "-m", "kit", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not (out.exists() and out.stat().st_size) and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
    process.stderr.close()
    before = out.read_bytes()
    assert 0 < before.count(b"\n") < len(corpus.names)
    with out.open("ab") as file:
        file.write(b'{"id": "u0059", "te')  # a kill may come in the middle of a line, too
    assert main(arguments) == 1
    assert out.read_bytes().startswith(before)
    assert sorted(row["id"] for row in rows_of(out)) == corpus.names
    assert {row["id"] for row in rows_of(problems_of(out))} == set(BAD)


def test_a_finished_file_is_left_as_it_is_and_what_was_mended_joins_it(corpus, tmp_path, capsys, monkeypatch):
    out, manifest = tmp_path / "out.jsonl", tmp_path / "few.jsonl"
    rows = corpus.manifest.read_text().splitlines()[:4]
    manifest.write_text("\n".join(rows).replace('"audio": "', f'"audio": "{corpus.folder}/'))
    arguments = [*corpus.arguments(out), f"manifest={manifest}"]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == "" and "2 utterances written" in said.err and "times real time" in said.err
    assert f"2 could not be transcribed: {problems_of(out)}" in said.err
    before = out.read_bytes()
    (corpus.folder / "gone.wav").symlink_to(corpus.folder / "u0000.wav")
    assert main(arguments) == 1
    (corpus.folder / "gone.wav").unlink()
    assert "2 utterances are in" in capsys.readouterr().err
    assert out.read_bytes().startswith(before)
    assert [row["id"] for row in rows_of(out)[2:]] == ["gone"]
    assert [row["id"] for row in rows_of(problems_of(out))] == ["empty"]
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:3]))
    local = importlib.import_module("kit.transcription.local")
    monkeypatch.setattr(local, "load_recognizer", None)  # nothing is loaded where nothing is to be done
    assert main(arguments) == 0
    assert not problems_of(out).exists()


def test_a_file_goes_on_with_the_export_it_was_begun_with(corpus, tmp_path, capsys):
    out, manifest = tmp_path / "out.jsonl", tmp_path / "one.jsonl"
    manifest.write_text(f'{{"audio": "{corpus.folder}/u0001.wav"}}\n')
    assert main([*corpus.arguments(out), f"manifest={manifest}"]) == 0
    manifest.write_text(manifest.read_text() + f'{{"audio": "{corpus.folder}/u0002.wav"}}\n')
    assert main([*corpus.arguments(out), f"manifest={manifest}", "checkpoint=null", f"runs={tmp_path}"]) == 0
    assert f"going on with {corpus.export}" in capsys.readouterr().err
    assert [row["id"] for row in rows_of(out)] == ["u0001", "u0002"]
    assert main([*corpus.arguments(out), f"manifest={manifest}", "decoding.max_tokens=7"]) == 2
    assert "was begun with another decoding" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "code", "answer"),
    [
        (["out=null"], 2, "needs out=FILE.jsonl for the results"),
        (["manifest=nowhere.jsonl"], 2, "manifest=nowhere.jsonl does not exist"),
        (["engine=loacl"], 2, "engine must be one of local"),
        (["batch.seconds=0"], 2, "batch.seconds must be at least 1"),
        (["batch.device=gpu"], 2, "batch.device must be cpu, cuda or cuda:NUMBER"),
        (["batch.device=cuda"], 1, "torch finds no GPU here; write batch.device=cpu"),
        (
            ["decoding.callbacks.x={_target_: kit.decoding.timing.Timing, y: 1}"],
            2,
            "decoding.callbacks.x cannot be made",
        ),
    ],
)
def test_wrong_use(corpus, tmp_path, overrides, code, answer, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if overrides[0].startswith("decoding"):
        overrides = [f"+{overrides[0]}"]
    assert main(corpus.arguments(tmp_path / "out.jsonl", *overrides)) == code
    shown = capsys.readouterr()
    assert answer in shown.err.splitlines()[-1] and shown.out == ""


def test_manifests_that_cannot_be_meant(corpus, tmp_path, capsys):
    manifest = tmp_path / "m.jsonl"
    for text, code, answer in [
        ('{"audio": "a/x.wav"}\n{"audio": "b/x.wav"}\n', 1, "the id x comes twice in the manifest"),
        ("\n\n", 2, "the manifest lists nothing"),
    ]:
        manifest.write_text(text)
        assert main([*corpus.arguments(tmp_path / "out.jsonl"), f"manifest={manifest}"]) == code
        assert answer in capsys.readouterr().err
    assert main(["transcribe", "a.wav", f"manifest={manifest}"]) == 2
