import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import commands
import pytest
import toys
from small import small_config, small_recognizer

import kit.config
from kit import cli
from kit.cli import export_for, main, split
from kit.errors import UsageError
from kit.model.export import save_export

ROOT = Path(kit.__file__).resolve().parents[1]


def shell(*words, **options):
    return subprocess.run([sys.executable, "-m", "kit", *words], cwd=ROOT, capture_output=True, text=True, **options)


def test_help_is_quick_and_imports_nothing_heavy():
    begun = time.perf_counter()
    bare = subprocess.run([sys.executable, "-c", "pass"], cwd=ROOT)
    middle = time.perf_counter()
    shown = shell("--help")
    end = time.perf_counter()
    assert bare.returncode == shown.returncode == 0 and shown.stderr == ""
    assert (end - middle) - (middle - begun) < 0.5
    code = "import sys, kit.cli; kit.cli.main(['fit', '--help']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert "kit.cli" in loaded and not {"torch", "lightning", "hydra", "omegaconf", "numpy", "mlflow"} & set(loaded)


def test_every_command_has_an_entry_in_the_manual_and_no_entry_is_left_over():
    assert list(cli.MANUAL) == list(cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: python -m kit {name}") and f"\n  python -m kit {name}" in out
    assert main(["--help", name]) == 0
    assert capsys.readouterr().out == out
    assert main(["--help"]) == 0
    assert f"\n  {name}" in capsys.readouterr().out


def test_examples_compose(tmp_path, monkeypatch):
    """Every example of the help is a command line that its own parts accept."""
    monkeypatch.chdir(tmp_path)
    examples = [line for entry in cli.MANUAL.values() for line in entry.help.splitlines()]
    examples = [line.strip().split("    ")[0] for line in examples if re.match(r"  (\w+=\S+ )?python -m kit", line)]
    assert len(examples) >= len(cli.COMMANDS)
    for example in examples:
        commands.check(example)


@pytest.mark.parametrize(
    ("line", "code", "answer"),
    [
        ([], 2, ""),
        (["ft"], 2, "kit: unknown command ft; did you mean fit?"),
        (["xyzzy"], 2, "kit: unknown command xyzzy; python -m kit --help lists them"),
        (["fit", "--stage", "sft"], 2, "kit: unknown option --stage; values are written key=value"),
        (["fit", "sft"], 2, "kit: fit takes no files, got sft; values are written key=value"),
        (["fit", "stage=stf"], 2, "kit: unknown stage stf; did you mean sft?"),
        (["fit", "trainer.max_step=5"], 2, "kit: unknown key trainer.max_step; did you mean trainer.max_steps?"),
        (["transcribe"], 2, "kit: transcribe needs audio files"),
        (["transcribe", "a.wav"], 2, "kit: no finished run in runs; train one with python -m kit fit"),
        (["transcribe", "a.wav", "checkpoint=none"], 2, "kit: none does not exist; give a run folder"),
        (["info", "model=nim5"], 2, "kit: unknown model nim5; "),
    ],
)
def test_wrong_use(line, code, answer, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line) == code
    shown = capsys.readouterr()
    assert answer in shown.err
    if line:
        assert shown.out == "" and len(shown.err.splitlines()) == 1


def test_split():
    files, overrides = split(
        ["a.wav", "seed=1", "+x.y=2", "~trainer.log_every", "-", "data/中=1.wav", "--", "b=c.wav", "--x"]
    )
    assert files == ["a.wav", "-", "data/中=1.wav", "b=c.wav", "--x"]
    assert overrides == ["seed=1", "+x.y=2", "~trainer.log_every"]
    with pytest.raises(UsageError):
        split(["--seed=1"])


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setattr(kit.config, "CONFIGS", toys.write_configs(tmp_path / "configs"))
    monkeypatch.chdir(tmp_path)
    for name, module in toys.upper_floors().items():
        monkeypatch.setitem(sys.modules, name, module)
    export = tmp_path / "runs" / "default" / "sft" / "1" / "export"
    export.mkdir(parents=True)
    (export.parent / "config.yaml").write_text("model: {}\n")
    (export / "export.json").write_text(json.dumps({"parts": []}))
    return export


def test_transcribe_prints_a_line_a_file_and_goes_on_after_a_bad_one(toy, capsys):
    assert main(["transcribe", "a.wav", "bad.wav", "c.wav"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "a.wav\ttext of a\nc.wav\ttext of c\n"
    assert shown.err.splitlines() == ["using runs/default/sft/1/export", "kit: bad.wav is no audio"]
    assert main(["transcribe", "a.wav", f"checkpoint={toy.parent}"]) == 0
    assert capsys.readouterr().err == ""


def test_an_export_of_another_model_than_asked_for_is_refused(tmp_path):
    save_export(small_recognizer(), tmp_path, {})
    assert export_for(small_config(f"checkpoint={tmp_path}", "model=tiny", "model.features.bins=80")) == tmp_path
    for text, answer in [
        ("model.features.bins=40", f"{tmp_path} has model.features.bins=80, not 40; leave model.features.bins=40 out"),
        ("model=nim4", f"{tmp_path} has model.name=tiny, not nim4; leave model=nim4 out"),
    ]:
        with pytest.raises(UsageError, match=re.escape(answer)):
            export_for(small_config(f"checkpoint={tmp_path}", text))


def test_info_and_evaluate(toy, capsys):
    assert main(["info"]) == 0
    assert capsys.readouterr().out == "model tiny\n"
    assert main(["evaluate"]) == 0
    assert capsys.readouterr().out == "the table\n"


def test_interruption(toy, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["kit.decoding.offline"], "transcribe_files", interrupted)
    assert main(["transcribe", "a.wav"]) == 130
    assert capsys.readouterr().err.endswith("kit: interrupted\n")


def test_a_reader_that_went_away_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    answer = subprocess.run(
        [sys.executable, "-m", "kit", "fit", "--help"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert answer.returncode == 141 and answer.stderr == ""


def test_what_nobody_expected_keeps_its_traceback(toy, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a fault of the kit")

    monkeypatch.setattr(sys.modules["kit.decoding.offline"], "transcribe_files", broken)
    with pytest.raises(ZeroDivisionError):
        main(["transcribe", "a.wav"])
