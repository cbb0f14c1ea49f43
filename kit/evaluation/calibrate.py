"""`python -m kit hotwords calibrate`: which margin of evidence gives which precision, with a model and a database."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from kit.errors import KitError
from kit.evaluation.hints import Names
from kit.model.encoder import Chunk
from kit.model.export import load_export
from kit.model.recognizer import Recognizer
from kit.progress import say, track
from kit.retrieval.calibrate import Point, curve, in_hundredths, least_margin
from kit.retrieval.database import Database
from kit.retrieval.hybrid import Found, Hearing, HybridSearch, Progress, compete, search_in, verify
from kit.text.keywords import occurs
from kit.text.normalize import normalize

if TYPE_CHECKING:
    from datamodules.base import SpeechData

PRECISIONS = (0.9, 0.95, 0.98, 0.99)  # that the table tells beside the wanted one
LOOSE = -3.0  # margin to begin with: what has less evidence is hardly ever right
_PARTS = ("encoder", "phoneme_head")


@dataclass
class Judged:
    """Hints and what became of them.

    Attributes:
        hints: evidence of each in hundredths, and whether it was said: by its letters, or by its phonemes.
        names: for each name said the evidence with which it is a hint, in hundredths; minus infinity if it is none.
        utterances: that all this is from.
    """

    hints: list[tuple[float, bool]] = field(default_factory=list)
    names: list[float] = field(default_factory=list)
    utterances: int = 0


def calibrate(config: DictConfig, export: Path, data: SpeechData, database: Database, precision: float) -> None:
    """Print a row for each precision, and the margin for the wanted one.

    Args:
        config: reads `split` (null: all held-out parts), and `retrieval` and `decoding` as they are evaluated with.

    Raises:
        KitError: the database cannot be used with the model, or no margin has the precision.
    """
    recognizer = load_export(export, _PARTS)
    database.manifest.check_inventory(database.folder.parent, recognizer.inventory)
    data.use_inventory(recognizer.inventory)
    search = search_in(database, recognizer.inventory, LOOSE, config.retrieval.get("shortest"))
    judged = judge(recognizer, data, config, search)
    points = curve(judged.hints, judged.names)
    print("precision", "margin", "hints an utterance", "names found", sep="\t")
    for wanted in sorted({*PRECISIONS, precision}):
        point = least_margin(points, wanted)
        if point is not None:
            print(_row(wanted, point, judged))
    chosen = least_margin(points, precision)
    if chosen is None:
        raise KitError(
            f"no margin has a precision of {precision:g} on {judged.utterances} utterances; take more utterances "
            "(split=...), a smaller database or a better model"
        )
    say(f"for a precision of {precision:g}: retrieval=hybrid retrieval.margin={chosen.margin:g}")


def judge(recognizer: Recognizer, data: SpeechData, config: DictConfig, search: HybridSearch) -> Judged:
    """Search in all utterances of `config.split`, chunk by chunk as streams are."""
    judged, names = Judged(), Names(data, config.split)
    for part in [config.split] if config.split else data.test_parts():
        for batch in track(list(data.part_dataloader(part)), f"listening to {part}"):
            for row, found in enumerate(_found(recognizer, batch, config.decoding, search)):
                said = bytes(batch.phonemes[row, : batch.phoneme_lengths[row]].tolist())
                _judge(judged, search, found, said, batch.texts[row], names.said(batch.cuts[row], batch.texts[row]))
    return judged


def _judge(
    judged: Judged, search: HybridSearch, found: list[Found], said: bytes, text: str, names: Iterable[str]
) -> None:
    """Add what became of the hints `found` in an utterance of these phonemes, this text and these names."""
    hints = [(in_hundredths(one.evidence), one.key) for one in found]
    texts = {key: [normalize(entry.text) for entry in search.lexicon.entries(key)] for _, key in hints}
    for evidence, key in hints:
        right = search.lexicon.phonemes(key) in said or any(occurs(one, text) for one in texts[key])
        judged.hints.append((evidence, right))
    for name in names:
        judged.names.append(max((evidence for evidence, key in hints if name in texts[key]), default=-math.inf))
    judged.utterances += 1


@torch.inference_mode()
def _found(recognizer: Recognizer, batch: Any, decoding: DictConfig, search: HybridSearch) -> list[list[Found]]:
    """What stands of each row of a batch in the end, with the margin of the search."""
    batch = batch.to(recognizer.device)
    frames, lengths = recognizer.encode(batch.features, batch.lengths, Chunk(decoding.chunk, decoding.left))
    log_probs = recognizer.phoneme_head(frames).float().log_softmax(-1).cpu()
    rows = [(Hearing(), row[:size]) for row, size in zip(log_probs, lengths.tolist(), strict=True)]
    progress, found = [Progress()] * len(rows), [list[Found]() for _ in rows]
    for begin in _begins(log_probs, decoding.chunk):
        for hearing, row in rows:
            piece = row[begin : begin + (decoding.chunk or len(row))]
            hearing.hear([*hearing.log_probs, piece])
        proposed = search.propose([(hearing, done) for (hearing, _), done in zip(rows, progress, strict=True)])
        progress = [done for _, done in proposed]
        for all_found, fresh in zip(found, verify([one for one, _ in rows], [one for one, _ in proposed]), strict=True):
            all_found += fresh
    return [_outermost(compete(one for one in several if one.evidence >= search.margin)) for several in found]


def _outermost(found: Iterable[Found]) -> list[Found]:
    """Those that lie wholly in none of at least as much evidence: such a name is no hint. By falling evidence."""
    kept: list[Found] = []
    for one in found:
        around = (other for other in kept if other.start <= one.start and one.end <= other.end)
        if all((other.start, other.end) == (one.start, one.end) for other in around):
            kept.append(one)
    return kept


def _begins(log_probs: Tensor, chunk: int) -> Iterator[int]:
    frames = log_probs.shape[1]
    yield from range(0, frames, chunk or max(1, frames))


def _row(wanted: float, point: Point, judged: Judged) -> str:
    share = f"{100 * point.found / len(judged.names):.1f} %" if judged.names else "-"
    return f"{wanted:g}\t{point.margin:.2f}\t{point.hints / max(1, judged.utterances):.2f}\t{share}"
