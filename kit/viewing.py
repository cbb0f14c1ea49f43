"""What notebooks look at: runs that are there, what a phoneme head hears, a stream by chunks, groups of hypotheses.

A notebook has no command line: `KIT_NOTEBOOK` in the environment has overrides for all of them, such as
KIT_NOTEBOOK="runs=elsewhere experiment=mine".
"""

from __future__ import annotations

import csv
import html
import os
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from datamodules.base import SpeechData
from datamodules.batch import SpeechBatch
from kit import runs
from kit.audio.features import LogMel
from kit.config import compose, override
from kit.decoding.batches import Batches
from kit.decoding.callbacks import Utterance
from kit.decoding.engine import Engine
from kit.decoding.events import Final, Partial
from kit.decoding.hotwords import Hotwords
from kit.decoding.offline import transcribe
from kit.errors import KitError
from kit.evaluation.clips import as_flac, as_uri
from kit.fit import data_module, quiet
from kit.model.export import load_export, read_about
from kit.model.recognizer import Recognizer
from kit.model.representation import linear_cka
from kit.plugins import import_class
from kit.runs import Run
from kit.snapshots import Pretraining, source_of
from kit.text.phonemes import PhonemeInventory
from stages.watch import frames_of

HEAD = ("encoder", "phoneme_head")


def configuration(*overrides: str) -> DictConfig:
    """The configuration of a notebook: its own overrides, and those of KIT_NOTEBOOK after them.

    What KIT_NOTEBOOK says of the data is for notebooks that choose no other data.
    """
    given = shlex.split(os.environ.get("KIT_NOTEBOOK", ""))
    if any(text.startswith("data=") for text in overrides):
        given = [text for text in given if not text.startswith(("data=", "data."))]
    return compose([*overrides, *given])


def data_of(config: DictConfig) -> SpeechData:
    """The data module of a configuration, prepared."""
    with quiet():
        return data_module(config)


def finished(config: DictConfig, stage: str) -> list[Run]:
    """All finished runs of a stage, of whatever experiment; the configuration's own last, of those the newest.

    Raises:
        KitError: there is none.
    """
    root = Path(config.runs)
    found = [run for folder in sorted(root.glob(f"*/{stage}")) for run in runs.runs_in(folder) if run.finished]
    if not found:
        raise KitError(f"{root} has no finished run of stage {stage}; train one: python -m kit fit stage={stage}")
    return sorted(found, key=lambda run: (run.path.parts[-3] == config.experiment, run.export.stat().st_mtime_ns))


def newest(config: DictConfig, *stages: str) -> Run:
    """The newest finished run of the first of these stages that has one.

    Raises:
        KitError: none of them has.
    """
    for stage in stages[:-1]:
        try:
            return finished(config, stage)[-1]
        except KitError:
            continue
    return finished(config, stages[-1])[-1]


def tuned(config: DictConfig, stage: str, pretraining: Run) -> list[tuple[str, Run]]:
    """Finished runs of a stage with a pre-training's model and encoder, each with the stage that it began with."""
    try:
        found = finished(config, stage)
    except KitError:
        return []
    chosen = []
    for run in found:
        source = source_of(run.export)
        starts = list(run.notes().get("starts", {}).values())
        same = run.config().model == pretraining.config().model
        if source and starts and same and source[0].run.path.resolve() == pretraining.path.resolve():
            chosen.append((Path(starts[0]).parent.parent.name, run))
    return chosen


def listener(config: DictConfig) -> Recognizer:
    """Encoder and phoneme head of the newest run that has them, of a late stage if there is one."""
    return load_export(newest(config, "sft", "ia_sft", "align", "pretrain").export, HEAD)


def curve(run: Run, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a curve of a run; empty where it has no such curve."""
    with open(run.path / "metrics.csv", encoding="utf-8", newline="") as file:
        points = [(int(row["step"]), float(row["value"])) for row in csv.DictReader(file) if row["name"] == name]
    return [step for step, _ in points], [value for _, value in points]


# --- what a head hears ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spikes:
    """How spiky the output of a CTC head is.

    Attributes:
        blank: share of frames whose likeliest symbol is the blank.
        sure: share of frames whose likeliest symbol has more than 0.9.
        width: frames that a symbol lasts in the greedy path, in the mean.
    """

    blank: float
    sure: float
    width: float


def spikes(log_probs: Tensor) -> Spikes:
    """Of (T, V) log-probabilities whose symbol 0 is the blank."""
    best, path = log_probs.exp().max(-1)
    begins = torch.cat([path[:1] != 0, (path[1:] != path[:-1]) & (path[1:] != 0)])
    spoken = path != 0
    width = float(spoken.sum()) / max(1, int(begins.sum()))
    return Spikes(float((~spoken).float().mean()), float((best > 0.9).float().mean()), width)


def busiest(log_probs: Tensor, count: int) -> list[int]:
    """The symbols, without the blank, with the most probability over all frames, in the order of their peaks."""
    chosen = log_probs[:, 1:].exp().sum(0).topk(min(count, log_probs.shape[1] - 1)).indices + 1
    return sorted(chosen.tolist(), key=lambda symbol: int(log_probs[:, symbol].argmax()))


def encoders(run: Run) -> dict[str, Path]:
    """The encoders that a pre-training published, and the one that it ended with, by their step."""
    source = Pretraining(run)
    found = {str(snapshot.step): snapshot.path for snapshot in source.snapshots()}
    return {**found, f"{source.total} (end)": run.export}


def cka_matrix(folders: Mapping[str, Path], batches: Sequence[SpeechBatch]) -> Tensor:
    """(N, N) linear CKA between the frames that N exported encoders make of the same utterances."""
    frames = [torch.cat(frames_of(load_export(path, ("encoder",)).encoder, batches)) for path in folders.values()]
    return torch.tensor([[linear_cka(one, other) for other in frames] for one in frames])


# --- a stream, chunk by chunk -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """What a push of one chunk made happen.

    Attributes:
        second: of the stream, heard so far.
        settled, provisional: the text so far, and the part of it that may still change.
        phonemes: of the utterance so far.
        seconds: of computing, by part.
        encoder, llm: bytes that the stream's caches hold and use.
        final: the text of the utterance, once it has ended.
    """

    second: float
    settled: str
    provisional: str
    phonemes: int
    seconds: Mapping[str, float]
    encoder: int
    llm: int
    final: str | None = None


def chunk_by_chunk(engine: Engine, samples: Tensor, rate: int = 16000) -> list[Heard]:
    """Let a session hear (n,) samples a chunk at a time, and look at it after each."""
    session, size = engine.session(), round(engine.chunk.frames * 0.04 * rate)
    pieces = [samples[at : at + size] for at in range(0, len(samples), size)]
    found: list[Heard] = []
    text, stable, heard, known = "", 0, 0, 0
    try:
        for place in range(len(pieces) + 1):
            before = dict(engine.watch.seconds)
            last = place == len(pieces)
            events = session.finish() if last else session.push(pieces[place])
            heard += 0 if last else len(pieces[place])
            final = None
            for event in events:
                if isinstance(event, Partial):
                    text, stable = event.text, event.stable
                elif isinstance(event, Final):
                    final, text, stable = event.text, event.text, len(event.text)
            spent = {part: total - before.get(part, 0.0) for part, total in engine.watch.seconds.items()}
            known = known if last else len(session.party[1].phonemes)
            found.append(
                Heard(heard / rate, text[:stable], text[stable:], known, spent, *engine.cached(session), final)
            )
    finally:
        session.close()
    return found


# --- hotwords ---------------------------------------------------------------------------------------------------------


def hints_by_chunk(
    retriever: Hotwords, log_probs: Tensor, inventory: PhonemeInventory, chunk: int = 16
) -> tuple[list[list[str]], list[int]]:
    """The hints after each chunk of (T, V) log-probabilities, and the phonemes that were heard in all."""
    utterance = Utterance(0, 0.0, inventory)
    retriever.prepare(inventory)
    retriever.start(utterance)
    found, last = [], 0
    for piece in log_probs.split(chunk):
        for symbol in piece.argmax(-1).tolist():
            if symbol not in (0, last):
                utterance.phonemes.append(symbol)
            last = symbol
        utterance.log_probs.append(piece)
        utterance.frames += len(piece)
        utterance.chunks += 1
        type(retriever).together([(retriever, utterance)])
        retriever.chunk(utterance)
        found.append(list(retriever.hints(utterance)))
    return found, utterance.phonemes


def with_and_without(
    config: DictConfig, data: SpeechData, database: Path, cuts: Sequence[Any]
) -> list[tuple[str, str]]:
    """The texts of some cuts by the newest whole recognizer: without hotwords, and with those of a database.

    Raises:
        KitError: there is no such recognizer.
    """
    recognizer = load_export(newest(config, "rl", "context_sft", "sft", "ia_sft").export)
    helped = compose([*config.overrides, "retrieval=hybrid", override("hotwords", str(database))])
    plain, better = (Batches(Engine(recognizer, each.decoding)) for each in (config, helped))
    return [(transcribe(plain, samples), transcribe(better, samples)) for samples in map(data.samples, cuts)]


# --- hypotheses and their rewards -------------------------------------------------------------------------------------


def groups(config: DictConfig, data: SpeechData, export: Path, batch: SpeechBatch) -> list[Any]:
    """The hypotheses of each utterance of a batch, drawn and rewarded as the stage `rl` does in its first step.

    Args:
        config: of the stage rl; export: what it would begin with.

    Returns:
        `stages.rl.Explained` of each.
    """
    config = config.copy()
    config.model = OmegaConf.create(read_about(export)["model"])
    stage_class: Any = import_class(config.stage._target_, torch.nn.Module, "stage._target_")
    stage = stage_class(stage_class.build(config, data, {"init": export}), config)
    stage.learn_keywords(data)
    return stage.explained(batch)


# --- things to show ---------------------------------------------------------------------------------------------------


def style() -> None:
    """One look for all figures: light, without frames, small enough for a page."""
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "figure.dpi": 80,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "image.cmap": "magma",
            "image.aspect": "auto",
            "font.size": 10,
        }
    )


def measured_roof(size: int = 768) -> tuple[float, float]:
    """Bytes and operations a second that this machine reaches in fp32: the best of some copies and matrix products."""
    one, other = torch.randn(size, size), torch.randn(32 * size, size)
    target, result = torch.zeros_like(other), torch.zeros_like(one)  # touched once: new memory would be slower
    copy, product = (_quickest(call) for call in (lambda: target.copy_(other), lambda: torch.mm(one, one, out=result)))
    return 2.0 * other.nbytes / copy, 2.0 * size**3 / product


def _quickest(call: Callable[[], object], times: int = 7) -> float:
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return min(found)


def log_mel(data: SpeechData, cut: Any) -> Tensor:
    """(T, F) log-mel features of a cut of some data."""
    return LogMel(**data.config.model.features)(data.samples(cut)[None])[0]


def player(samples: Tensor, caption: str = "") -> str:
    """An audio element in HTML, with the sound inside."""
    words = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure style="margin:.4em 0">{words}<audio controls src="{as_uri(as_flac(samples))}"></audio></figure>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in HTML; text is escaped, floats have three digits."""

    def cell(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else html.escape(str(value))

    head = "".join(f'<th style="text-align:left">{html.escape(name)}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{cell(value)}</td>' for value in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
