"""`python -m kit transcribe manifest=FILE out=FILE`: what is missing in the file of results is transcribed."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from kit.config import fingerprint
from kit.errors import KitError, UsageError
from kit.progress import bar, say
from kit.transcription.outcome import Outcome
from kit.transcription.results import Results, begun_with, problems_of

if TYPE_CHECKING:
    from datamodules.listing import Clip, Fault

Machine = Callable[[Iterable["Clip"], int, Path, DictConfig], Iterator[Sequence[Outcome]]]


def transcribe_manifest(config: DictConfig, newest: Callable[[], Path]) -> int:
    """Transcribe what `config.manifest` lists into `config.out`; 1 if something could not be transcribed.

    Args:
        newest: gives the export to take where none was chosen; a file that was begun goes on with its own.

    Raises:
        UsageError: a value is missing or wrong, or the file was begun with other ones.
        KitError: the manifest is damaged, the file of results cannot be written, or transcription itself fails.
    """
    if not config.out:
        raise UsageError("transcribe manifest=... needs out=FILE.jsonl for the results")
    out, machine = Path(config.out), MACHINES[config.engine]
    begun = begun_with(out).get("export") if config.checkpoint is None else None
    export = Path(begun) if begun else newest()
    if begun:
        say(f"going on with {export}, as {out} was begun")
    with Results.opened(out, _about(config, export)) as results:
        there = len(results.done)
        faults, total = _look_through(_listed(config), results.done)
        if there:
            say(f"{there} utterances are in {out}; {total} are to be done")
        results.add([Outcome(fault.id, reason=fault.reason) for fault in faults])
        if total:
            _work(machine, config, export, results, total)
        if results.failed:
            say(f"{results.failed} could not be transcribed: {problems_of(out)}")
    return int(results.failed > 0)


def _about(config: DictConfig, export: Path) -> dict[str, Any]:
    """What must not change while a file of results grows."""
    return {
        "manifest": str(Path(config.manifest).absolute()) if "://" not in config.manifest else config.manifest,
        "export": str(export.absolute()),
        "decoding": _decoding(config),
        "times": bool(config.batch.times),
    }


def _decoding(config: DictConfig) -> str:
    """What is known of the decoding; a server may be another one that has the same LLM."""
    same = config.copy()
    OmegaConf.update(same, "decoding.llm", bool((config.decoding.get("llm") or {}).get("url")))
    return fingerprint(same, ["decoding"])


def _listed(config: DictConfig) -> Iterator[Clip | Fault]:
    found: Iterator[Clip | Fault] = importlib.import_module("datamodules.listing").list_clips(config.manifest, config)
    return found


def _look_through(listed: Iterable[Clip | Fault], done: set[str]) -> tuple[list[Fault], int]:
    """The lines that are no clips, and how many clips are to be done.

    Raises:
        KitError: two clips have one id, or there is none at all.
    """
    fault_class = importlib.import_module("datamodules.listing").Fault
    seen, faults = set[str](), []
    for one in listed:
        if isinstance(one, fault_class):
            faults.append(one)
        elif one.id in seen:
            raise KitError(f"the id {one.id} comes twice in the manifest; give each utterance an id of its own")
        else:
            seen.add(one.id)
    if not seen and not faults:
        raise UsageError("the manifest lists nothing; write an utterance a line")
    return faults, len(seen - done)


def _work(machine: Machine, config: DictConfig, export: Path, results: Results, total: int) -> None:
    """Let clips that are not in the results be transcribed, and write what comes of them."""
    clip_class: type[Clip] = importlib.import_module("datamodules.listing").Clip
    missing = (one for one in _listed(config) if isinstance(one, clip_class) and one.id not in results.done)
    begun, written, heard = time.perf_counter(), 0, 0.0
    with bar() as progress:
        task = progress.add_task(f"transcribing {config.manifest}", total=total)
        for outcomes in machine(missing, total, export, config):
            results.add(outcomes)
            rows = [one.row for one in outcomes if one.row is not None]
            written += len(rows)
            heard += sum(row["duration"] for row in rows)
            progress.advance(task, len(outcomes))
    spent = time.perf_counter() - begun
    say(
        f"{results.path}: {written} utterances written, {heard:.1f} s of audio in {spent:.1f} s "
        f"with the model's loading, {heard / spent:.1f} times real time"
    )


def _locally(clips: Iterable[Clip], _: int, export: Path, config: DictConfig) -> Iterator[Sequence[Outcome]]:
    from kit.transcription.local import Transcriber

    shelf = importlib.import_module("datamodules.sources").shelf_of(config)
    yield from Transcriber(export, config, shelf).transcribe(clips)


def _by_ray(clips: Iterable[Clip], total: int, export: Path, config: DictConfig) -> Iterator[Sequence[Outcome]]:
    from kit.transcription.cluster import on_cluster

    yield from on_cluster(clips, total, export, config)


MACHINES: dict[str, Machine] = {"local": _locally, "ray": _by_ray}
