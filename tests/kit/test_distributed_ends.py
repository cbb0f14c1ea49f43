"""How a training of two processes ends before its time: killed, interrupted, or one of them fails."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toys
from safetensors.torch import load_file

import kit.config
from kit import distributed, runs
from kit.config import compose
from kit.errors import KitError
from kit.fit import fit

OPTIONS = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.checkpoint_every=5", "trainer.progress=false"]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ends")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit.config, "CONFIGS", toys.write_configs(folder / "configs"))
        patch.chdir(folder)
        for name, module in toys.upper_floors().items():
            patch.setitem(sys.modules, name, module)
        yield folder


def words(experiment):
    return ["stage=pretrain", f"experiment={experiment}", "tracking=false", *OPTIONS]


def start(home, experiment, deed, rank=0):
    """A process of its own with the command."""
    source = str(Path(kit.config.__file__).parents[1])
    environment = {**os.environ, "KIT_TOY": deed, "KIT_TOY_RANK": str(rank), "PYTHONPATH": source}
    line = [sys.executable, toys.__file__, str(home / "configs"), "fit", *words(experiment)]
    return subprocess.Popen(line, cwd=home, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def workers(home):
    """Workers that live in this folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            here = Path(os.readlink(folder / "cwd")) == home
            if here and b"kit.worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def nobody_is_left(home):
    until = time.monotonic() + 20
    while workers(home) and time.monotonic() < until:
        time.sleep(0.1)
    return not workers(home)


def checkpoint_of(experiment):
    (run,) = runs.runs_in(Path("runs") / experiment / "pretrain")
    return torch.load(run.checkpoint, weights_only=True)["global_step"]


def weights(export):
    return torch.cat([value.flatten() for _, value in sorted(load_file(export / "model.safetensors").items())])


def resumed_is_whole(experiment, monkeypatch):
    """Finish it, and train the same in one go."""
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "dismiss", lambda: None)  # the same worker for both
        resumed, whole = (weights(fit(compose(words(name)))) for name in (experiment, "whole"))
    distributed.dismiss()
    return torch.equal(resumed, whole)


@pytest.mark.timeout(300)
def test_kill_9_leaves_nobody_and_the_run_goes_on_exactly(home, monkeypatch, capsys):
    process = start(home, "killed", "pretrain:8:kill")
    process.communicate(timeout=110)
    assert process.returncode == -signal.SIGKILL and nobody_is_left(home)
    assert checkpoint_of("killed") == 5
    assert resumed_is_whole("killed", monkeypatch)
    assert capsys.readouterr().err.count("stage pretrain: from step 5 on") == 1
    assert nobody_is_left(home)


@pytest.mark.timeout(300)
def test_a_signal_saves_the_step_and_ends_both(home, monkeypatch):
    sign = home / "sign"
    process = start(home, "asked", f"pretrain:7:wait:{sign}", rank=1)  # the other one is in the middle of the step
    until = time.monotonic() + 90
    while not sign.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert len(workers(home)) == 1
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    sign.unlink()
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (143, "") and "Traceback" not in err
    assert "interrupted; the same command goes on from step 8 of stage pretrain" in err
    assert nobody_is_left(home) and checkpoint_of("asked") == 8
    assert resumed_is_whole("asked", monkeypatch)


@pytest.mark.parametrize(
    ("deed", "rank", "answer"),
    [
        ("kill", 1, "^process 2 of 2 of this training was ended by SIGKILL; the same command goes on from the last "),
        ("refuse", 1, "^this went wrong; mend it$"),
        ("refuse", 0, "^this went wrong; mend it$"),
    ],
)
def test_the_failure_of_either_is_told_in_one_sentence(home, monkeypatch, capfd, deed, rank, answer):
    monkeypatch.setenv("KIT_TOY", f"pretrain:8:{deed}")
    monkeypatch.setenv("KIT_TOY_RANK", str(rank))
    with pytest.raises(KitError, match=answer):
        fit(compose(words(f"{deed}-{rank}")))
    assert nobody_is_left(home) and distributed.place() == (0, 1)
    assert "Traceback" not in capfd.readouterr().err
    assert checkpoint_of(f"{deed}-{rank}") == 5
