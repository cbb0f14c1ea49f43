"""`python -m kit hotwords calibrate`: which margin of evidence gives which precision, with a model and a database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from kit.errors import KitError
from kit.evaluation.hints import Names
from kit.evaluation.listening import PARTS, listen
from kit.evaluation.retrieval import Hybrid, Judged, spoken
from kit.model.export import load_export
from kit.model.recognizer import Recognizer
from kit.progress import say
from kit.retrieval.calibrate import Point, curve, least_margin
from kit.retrieval.database import Database
from kit.retrieval.hybrid import HybridSearch, search_in

if TYPE_CHECKING:
    from datamodules.base import SpeechData

PRECISIONS = (0.9, 0.95, 0.98, 0.99)  # that the table tells beside the wanted one
LOOSE = -3.0  # margin to begin with: what has less evidence is hardly ever right


def calibrate(config: DictConfig, export: Path, data: SpeechData, database: Database, precision: float) -> None:
    """Print a row for each precision, and the margin for the wanted one.

    Args:
        config: reads `split` (null: all held-out parts), and `retrieval` and `decoding` as they are evaluated with.

    Raises:
        KitError: the database cannot be used with the model, or no margin has the precision.
    """
    recognizer = load_export(export, PARTS)
    database.manifest.check_inventory(database.folder.parent, recognizer.inventory)
    data.use_model(recognizer)
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
    judged, names, way = Judged(), Names(data, config.split), Hybrid(search)
    for part in [config.split] if config.split else data.test_parts():
        for one in listen(recognizer, data, part, config.decoding):
            said = names.said(one.cut, one.text)
            utterance = spoken(one.log_probs, one.phonemes, one.text, said, config.decoding.chunk)
            judged.add(search.lexicon, way.find(utterance), utterance)
    return judged


def _row(wanted: float, point: Point, judged: Judged) -> str:
    share = f"{100 * point.found / len(judged.names):.1f} %" if judged.names else "-"
    return f"{wanted:g}\t{point.margin:.2f}\t{point.hints / max(1, judged.utterances):.2f}\t{share}"
