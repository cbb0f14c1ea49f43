"""Transcription by many processes, on one machine or many: Ray Data hands out the clips and replaces workers that die.

Workers compute and answer; only the process that a person started writes. So a clip that is transcribed twice, because
its worker died before it could answer, is still written once.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from kit.cluster import joined, library
from kit.config import dump
from kit.errors import KitError, UsageError, first_line
from kit.transcription.outcome import Outcome

if TYPE_CHECKING:
    from datamodules.listing import Clip

LARGEST = 256  # clips that a worker gets at a time; what is answered late is lost late
_ROUNDS = 4  # so many times each worker gets some at least: the fast ones wait for the slow ones at the end only
_TRIES = 3  # deaths of workers after which their clips are set aside
_FAILED = "kit_error"  # the key of an answer that ends everything


class Worker:
    """What runs in a process of Ray's: a `Transcriber`, made when the first clips come."""

    def __init__(self, export: str, config: str, folder: str) -> None:
        self.export, self.config = export, config
        self.transcriber: Any = None
        if os.path.isdir(folder):
            os.chdir(folder)  # where the command was typed: relative paths and plugins of one's own

    def __call__(self, table: Any) -> dict[str, list[str]]:
        """A JSON text for each clip of an arrow table, or one that says what prevents all."""
        try:
            rows = [json.dumps(asdict(one)) for one in self.outcomes(table.to_pylist())]
        except Exception as error:  # Ray would try again, and pass over it in the end
            said = str(error) if isinstance(error, KitError) else f"a worker failed: {type(error).__name__}: {error}"
            rows = [json.dumps({_FAILED: said, "usage": isinstance(error, UsageError)})]
        return {"outcome": rows}

    def outcomes(self, clips: Sequence[Mapping[str, Any]]) -> Iterator[Outcome]:
        """What comes of clips."""
        clip_class = importlib.import_module("datamodules.listing").Clip
        if self.transcriber is None:
            self.transcriber = self._load()
        for ready in self.transcriber.transcribe(clip_class(**clip) for clip in clips):
            yield from ready

    def _load(self) -> Any:
        from kit.transcription.local import Transcriber

        config = OmegaConf.create(self.config)
        assert isinstance(config, DictConfig)
        return Transcriber(self.export, config, importlib.import_module("datamodules.sources").shelf_of(config))


def on_cluster(clips: Iterable[Clip], total: int, export: Path, config: DictConfig) -> Iterator[Sequence[Outcome]]:
    """What came of the clips, as the workers answer.

    Those whose workers died are tried again one by one, so that one that takes its worker along costs no other.

    Raises:
        UsageError: Ray is not installed.
        KitError: the cluster cannot be reached or has no room for a worker, or a worker cannot work at all.
    """
    sent: dict[str, Clip] = {}
    options = config.batch
    size = max(1, min(LARGEST, total // (_ROUNDS * options.workers)))
    data = library("data", "ray")
    context = data.DataContext.get_current()
    context.enable_progress_bars, context.max_errored_blocks = False, -1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with joined(config.cluster, options.workers * options.cpus) as ray:
        worker = {"export": str(export.absolute()), "config": dump(config), "folder": os.getcwd()}
        together = list(map(_table, _noted(clips, size, sent)))
        yield from _answered(_answers(ray, together, worker, config, ahead=1), sent)
        alone = [_table([clip]) for clip in sent.values()]
        yield from _answered(_answers(ray, alone, worker, config, ahead=0), sent)
    lost = "the worker that had it died, also when it had nothing else; try engine=local to see why"
    yield [Outcome(name, reason=lost) for name in sent]


def _answered(answers: Iterable[list[Outcome]], sent: dict[str, Clip]) -> Iterator[list[Outcome]]:
    """The answers; what was answered is no longer sent."""
    for outcomes in answers:
        for outcome in outcomes:
            sent.pop(outcome.id, None)
        yield outcomes


def _noted(clips: Iterable[Clip], size: int, sent: dict[str, Clip]) -> Iterator[list[Clip]]:
    """Clips, so many at a time; they are put down as sent."""
    source = iter(clips)
    while block := list(islice(source, size)):
        sent.update((clip.id, clip) for clip in block)
        yield block


def _table(clips: Sequence[Clip]) -> Any:
    """An arrow table of clips, with paths that hold in any folder."""
    import pyarrow

    found = (clip if "://" in clip.path else replace(clip, path=os.path.abspath(clip.path)) for clip in clips)
    return pyarrow.Table.from_pylist([asdict(clip) for clip in found], _schema(pyarrow))


def _schema(pyarrow: Any) -> Any:
    text, number = pyarrow.string(), pyarrow.float64()
    kinds = {"id": text, "path": text, "start": number, "seconds": number, "member": text, "language": text}
    return pyarrow.schema(list(kinds.items()))


def _answers(
    ray: Any, tables: Sequence[Any], worker: Mapping[str, str], config: DictConfig, ahead: int
) -> Iterator[list[Outcome]]:
    """What workers make of tables; those whose workers died too often are left out.

    Args:
        ahead: tables that wait at a worker while it has another; they share its fate.
    """
    if not tables:
        return
    options = config.batch
    gpu = options.device != "cpu" and bool(ray.cluster_resources().get("GPU"))
    answers = ray.data.from_arrow(list(tables)).map_batches(
        Worker,
        fn_constructor_kwargs=dict(worker),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=options.workers, max_tasks_in_flight_per_actor=1 + ahead),
        num_cpus=options.cpus,
        num_gpus=int(gpu),
        max_task_retries=_TRIES,  # for ever is the default, even for what kills every worker
    )
    try:
        for batch in answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            yield [_read(text) for text in batch["outcome"].to_pylist()]
    except ray.exceptions.RayError as error:
        raise KitError(f"Ray failed: {first_line(error)}; what is written stays, the same command goes on") from error


def _read(text: str) -> Outcome:
    content = json.loads(text)
    if _FAILED in content:
        raise (UsageError if content["usage"] else KitError)(content[_FAILED])
    return Outcome(**content)
