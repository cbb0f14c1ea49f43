"""Encoder snapshots that a pre-training under way publishes, and what may use them.

<run>/snapshots/step-000400/     an export of encoder and phoneme head, with snapshot.json: run, step, CKA, SHA-256
<run>/snapshots/progress.json    the step that pre-training has reached

Both appear whole or not at all, so that other processes, on this machine or on one that shares the folder, may read
them at any time.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kit import beside
from kit.errors import KitError
from kit.files import folder_atomic, write_text
from kit.model.export import PHONEMES, TENSORS, load_tensors, read_about, save_export
from kit.model.recognizer import Recognizer
from kit.progress import say
from kit.runs import Run, read_json
from kit.text.phonemes import PhonemeInventory

FOLDER, MANIFEST, PROGRESS = "snapshots", "snapshot.json", "progress.json"
PARTS = ("encoder", "phoneme_head")
_LOOK_SECONDS, _REMIND_SECONDS = 0.5, 60.0
_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Snapshot:
    """An encoder as it was at one step of a pre-training.

    Attributes:
        path: its folder, an export.
        step: optimizer steps done.
        run: id of the run that it should be of; None for the export that a pre-training ended with.
    """

    path: Path
    step: int
    run: str | None

    def load_into(self, recognizer: Recognizer) -> None:
        """Put encoder and phoneme head into a recognizer, strictly.

        Raises:
            KitError: the snapshot is torn, or of another run or model; it is named and nothing was changed.
        """
        if self.run is not None:
            self._check_whole(self.run)
        self._check_model(recognizer)
        load_tensors(recognizer, self.path, [part for part in PARTS if part in recognizer.parts])

    def _check_whole(self, run: str) -> None:
        about = read_json(self.path / MANIFEST)
        if about.get("sha256") != _digest(self.path / TENSORS):
            raise KitError(f"the snapshot {self.path} is torn: its tensors are not those of its {MANIFEST}")
        if about.get("run") != run:
            raise KitError(f"the snapshot {self.path} is foreign: it is of run {about.get('run')}, not of {run}")

    def _check_model(self, recognizer: Recognizer) -> None:
        if PhonemeInventory.load(self.path / PHONEMES) != recognizer.inventory:
            raise KitError(f"the snapshot {self.path} is foreign: it was trained on other labels than this recognizer")
        theirs, mine = read_about(self.path)["model"]["encoder"], dict(recognizer.config.encoder)
        for key in sorted(theirs.keys() | mine.keys()):
            if theirs.get(key) != mine.get(key):
                raise KitError(
                    f"the snapshot {self.path} is foreign: its model.encoder.{key} is {theirs.get(key)}, "
                    f"here it is {mine.get(key)}"
                )


class Pretraining:
    """A pre-training run as others see it: finished, or under way.

    Args:
        run: its folder may be another machine's.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.folder = run, run.path / FOLDER

    @property
    def finished(self) -> bool:
        """Whether it has ended; then there is an export."""
        return self.run.finished

    @property
    def step(self) -> int:
        """The step that it is known to have reached."""
        return self.total if self.finished else int(read_json(self.folder / PROGRESS).get("step", 0))

    @cached_property
    def total(self) -> int:
        """Steps that it will have in all."""
        return int(self.run.config().trainer.max_steps)

    def snapshots(self) -> list[Snapshot]:
        """Those published so far, oldest first; whether they are what they should be is found out by loading them."""
        found = (_STEP.fullmatch(path.name) for path in self.folder.glob("step-*"))
        steps = sorted(int(match[1]) for match in found if match)
        return [Snapshot(self.folder / _name(step), step, self.run.path.name) for step in steps]

    def last(self) -> Snapshot:
        """What a finished pre-training ended with."""
        return Snapshot(self.run.export, self.total, None)

    def first(self) -> Snapshot | None:
        """The first snapshot; the export of a pre-training that ended without any; None while there is neither."""
        snapshots = self.snapshots()
        return snapshots[0] if snapshots else self.last() if self.finished else None

    def wait(self, there: Callable[[], bool]) -> None:
        """Sleep until `there()`, saying once in a while for whom.

        Raises:
            KitError: it is trained in a process beside this one, which failed.
        """
        begun = reminded = time.monotonic()
        beside.check()
        while not there():
            time.sleep(_LOOK_SECONDS)
            beside.check()
            if time.monotonic() - reminded > _REMIND_SECONDS:
                reminded = time.monotonic()
                idle = "" if self.run.busy() else ", which no process trains here now; its fit command makes it go on"
                say(f"waiting for {self.run.path}{idle} (at step {self.step}, {reminded - begun:.0f} s so far)")


def publish(run: Run, recognizer: Recognizer, step: int, cka: float) -> Snapshot:
    """Write a snapshot; one that is there from before a restart stays, for a restarted run repeats itself exactly.

    Raises:
        KitError: the folder cannot be written.
    """
    path = run.path / FOLDER / _name(step)
    if not path.exists():
        with folder_atomic(path) as folder:
            save_export(recognizer, folder, {"stage": run.stage, "steps": step, "run": str(run.path), "cka": cka})
            about = {"run": run.path.name, "step": step, "cka": cka, "sha256": _digest(folder / TENSORS)}
            write_text(folder / MANIFEST, json.dumps(about, indent=1))
    return Snapshot(path, step, run.path.name)


def note_progress(run: Run, step: int) -> None:
    """Tell others how far pre-training is."""
    write_text(run.path / FOLDER / PROGRESS, json.dumps({"step": step}))


def source_of(export: Path) -> tuple[Pretraining, int] | None:
    """The pre-training that the encoder of an export comes from, and the step of it that it is of.

    Found by the chain of what each run started from; None where there is no such run any more, or never was.
    """
    step = _STEP.fullmatch(export.name) if export.parent.name == FOLDER else None
    run = Run(export.parent.parent if step else export.parent)
    if (run.path / FOLDER).is_dir() and (run.path / "config.yaml").is_file():
        source = Pretraining(run)
        return source, int(step[1]) if step else source.total
    starts = run.notes().get("starts", {})
    for name in sorted(starts, key=lambda name: name != "pretrain"):
        found = source_of(Path(starts[name]))
        if found is not None:
            return found
    return None


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
