"""Any program as a recognizer: it gets a list of files and prints id<TAB>text; its texts are scored like our own."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import soundfile
from omegaconf import DictConfig

from kit.audio.features import SAMPLE_RATE
from kit.errors import KitError, UsageError
from kit.evaluation.report import Answer, Judge, Measurement, parts
from kit.evaluation.scored import Scored, check_ids
from kit.evaluation.tables import show
from kit.files import write_text
from kit.progress import say, track
from kit.text.normalize import normalize

if TYPE_CHECKING:
    from datamodules.base import SpeechData

WAY = "system"
LIST = "{}"  # an argument that stands for the file of the list


@dataclass(frozen=True)
class Told:
    """What a program made of a list.

    Attributes:
        texts: id -> text.
        again: ids that it answered more than once; the first answer counts.
        seconds: from its start to its end, the loading of its model included.
        crash: how it ended, if not well.
    """

    texts: dict[str, str]
    again: list[str]
    seconds: float
    crash: str | None


def ask(command: str, ids: Sequence[str], listing: Path) -> Told:
    """Run a program on a list, without a shell.

    Args:
        command: words are split as a shell does; a word "{}" becomes the path of the list, which is on standard input,
            too.
        ids: that the list has.

    Raises:
        UsageError: there is no such program.
        KitError: it printed an id that the list does not have, or something else than id<TAB>text.
    """
    begun, texts, again = time.perf_counter(), dict[str, str](), list[str]()
    known = set(ids)
    with _running(command, listing) as process:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout, 1):
            name, text = _read(line, number, known, command)
            if name in texts:
                again.append(name)
            texts.setdefault(name, text)
        code = process.wait()
    crash = f"it ended with exit code {code} after {len(texts)} of {len(ids)} answers" if code else None
    return Told(texts, again, time.perf_counter() - begun, crash)


@contextmanager
def _running(command: str, listing: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that hears the list, and is stopped whatever happens."""
    words = [str(listing) if word == LIST else word for word in _words(command)]
    with listing.open() as source:
        try:
            process = subprocess.Popen(
                words, stdin=source, stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
            )
        except OSError as error:
            raise UsageError(f"system={command}: {words[0]} cannot be run: {error.strerror}") from error
        with process:
            try:
                yield process
            finally:
                process.kill()


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"system={command}: {error}; close quotes") from error
    if not words:
        raise UsageError("system= is empty; give a program that prints id<TAB>text for a list of files")
    return words


def _read(line: str, number: int, known: set[str], command: str) -> tuple[str, str]:
    name, tab, text = line.rstrip("\r\n").partition("\t")
    if name in known:
        return name, text
    problem = f"the unknown id {name!r}" if tab else f"{line.strip()[:60]!r}, which is no id<TAB>text,"
    raise KitError(f"system={command} printed {problem} in line {number}; it must print the ids of the list it gets")


def measure_system(config: DictConfig, data: SpeechData) -> dict[str, Any]:
    """Let the program of `config.system` transcribe the parts of `config.split`, and score it.

    It gets every utterance as a wav file at 16 kHz, with noise where `noise_at` says so. Ids that it does not answer
    are scored as empty texts, and named.

    Returns:
        what `kit.evaluation.report.Measurement` has, and "system": the command, "again" and "crash" of each part.

    Raises:
        KitError: the program printed what it must not; two utterances have one id.
    """
    judge = Judge(config, data)
    result = Measurement(judge)
    result.report["system"] = {"command": config.system, "again": {}, "crash": {}}
    for part in parts(config, data):
        rows, told = _asked(config.system, list(cuts_of(data, part, judge.noise_at)), part, judge)
        result.report["system"]["again"][part] = told.again
        result.report["system"]["crash"][part] = told.crash
        result.add(part, WAY, rows, told.seconds)
        result.exemplify(rows)
        if told.crash:
            say(f"system={config.system}, {part}: {told.crash}; what it printed before is scored")
    return result.report


def cuts_of(data: SpeechData, part: str, noise_at: float | None) -> Iterator[Any]:
    """The cuts of a part, in noise at so many dB where that is given."""
    if noise_at is None:
        yield from data.cuts(part)
        return
    for batch in data.part_dataloader(part, noise_at):
        yield from batch.cuts


def _asked(command: str, cuts: Sequence[Any], part: str, judge: Judge) -> tuple[list[Scored], Told]:
    check_ids((cut.id for cut in cuts), part)
    with TemporaryDirectory(prefix="kit-system-") as folder:
        files = {cut.id: Path(folder) / f"{place:06}.wav" for place, cut in enumerate(cuts)}
        for cut in track(cuts, f"writing {part} for the system", len(cuts)):
            soundfile.write(files[cut.id], judge.data.samples(cut).numpy(), SAMPLE_RATE, subtype="PCM_16")
        told = ask(command, list(files), _listing(files, Path(folder) / "list.tsv"))
    return [_scored(judge, cut, told) for cut in cuts], told


def _listing(files: Mapping[str, Path], path: Path) -> Path:
    strange = [name for name in files if not name or set("\t\r\n") & set(name)]
    if strange:
        raise KitError(f"the id {strange[0]!r} cannot stand in a list, it is empty or has a tab or line break; mend it")
    write_text(path, "".join(f"{name}\t{file}\n" for name, file in files.items()))
    return path


def _scored(judge: Judge, cut: Any, told: Told) -> Scored:
    text = normalize(cut.supervisions[0].text or "")
    answer = Answer(told.texts.get(cut.id, ""), answered=cut.id in told.texts)
    return judge.scored(cut, text, [], answer)


def evaluate_system(config: DictConfig, data: SpeechData) -> int:
    """Measure a program, print the table, and write it to `config.out` if that is set; 1 if the program failed."""
    report = measure_system(config, data)
    show(report)
    if config.out:
        write_text(config.out, json.dumps(report, indent=1, ensure_ascii=False))
    return int(any(report["system"]["crash"].values()))
