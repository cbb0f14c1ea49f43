"""Packages tried in a process of their own, so that a broken one cannot harm the process that asks.

`python -m kit.trials NAME ...` prints a line of JSON for every trial: its name and either facts or an error. A package
can fail in any way, a library that is missing (OSError), a crash of the interpreter, a wait without end: `attempt`
notes who was being tried and goes on with the others.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 60.0  # for all the trials of a process; on a cold disk torch alone takes ten


@dataclass(frozen=True)
class Trial:
    """What a trial found.

    Attributes:
        facts: of a package that works.
        error: one line on why it does not; None if it does.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def attempt(names: Sequence[str], seconds: float = SECONDS) -> dict[str, Trial]:
    """Try each of these by name: one of `TRIALS`, or else a module to be imported."""
    found: dict[str, Trial] = {}
    while left := [name for name in names if name not in found]:
        reports, fault = _run(left, seconds)
        found |= reports
        culprit = next((name for name in left if name not in found), None)
        if culprit is not None:  # it took the process down; those behind it get another one
            found[culprit] = Trial(error=fault)
    return found


def _run(names: Sequence[str], seconds: float) -> tuple[dict[str, Trial], str]:
    """The reports of one process, and how it ended if it did not come to the last."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    command = [sys.executable, "-m", "kit.trials", *names]
    with tempfile.TemporaryFile() as said:  # a file, not a pipe: what a killed process said is there to be read
        try:
            ended = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                timeout=seconds,
            )
            how = f"ended by signal {-ended.returncode}" if ended.returncode < 0 else f"exited with {ended.returncode}"
        except subprocess.TimeoutExpired:
            how = f"took longer than {seconds:g} s"
        said.seek(0)
        lines = said.read().decode().splitlines()
    reports = [json.loads(line) for line in lines if line.endswith("}")]  # the last one may be torn
    return {each["name"]: Trial(each.get("facts", {}), each.get("error")) for each in reports}, how


def _torch() -> dict[str, Any]:
    import torch

    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "devices": [f"{one.name}, {one.total_memory / 2**30:.0f} GiB" for one in devices],
        "threads": torch.get_num_threads(),
    }


def _faiss() -> dict[str, Any]:
    import faiss

    built = hasattr(faiss, "StandardGpuResources")
    return {"version": faiss.__version__, "gpu": built, "gpus": faiss.get_num_gpus() if built else 0}


def _soundfile() -> dict[str, Any]:
    import soundfile

    formats = soundfile.available_formats()
    return {
        "version": soundfile.__version__,
        "formats": [name for name in ("WAV", "FLAC", "MP3", "OGG") if name in formats],
    }


def _sounddevice() -> dict[str, Any]:
    import sounddevice

    inputs = [one["name"] for one in sounddevice.query_devices() if one["max_input_channels"] > 0]
    return {"version": sounddevice.__version__, "inputs": inputs}


def _espeak() -> dict[str, Any]:
    from kit.text.espeak import Espeak

    with Espeak() as espeak:
        return {"ipa": espeak.ipa(["speech"])[0]}


TRIALS: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": _torch,
    "faiss": _faiss,
    "soundfile": _soundfile,
    "sounddevice": _sounddevice,
    "espeak": _espeak,
}


def _imported(name: str) -> dict[str, Any]:
    module = importlib.import_module(name)
    return {"version": str(getattr(module, "__version__", ""))}


def _report(name: str) -> dict[str, Any]:
    try:
        return {"name": name, "facts": TRIALS[name]() if name in TRIALS else _imported(name)}
    except BaseException as error:  # a package may raise anything, SystemExit too
        lines = str(error).strip().splitlines()
        return {"name": name, "error": f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__}


def main(names: Sequence[str]) -> None:
    """Try each and report on standard output, which nobody else gets to write to."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for name in names:
            print(json.dumps(_report(name)), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
