"""`python -m kit evaluate compare A.json B.json`: whether two systems differ on the utterances that both heard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.config import compose
from kit.errors import KitError, UsageError
from kit.evaluation.alignment import text_edits
from kit.evaluation.report import normalization
from kit.evaluation.scored import NAMED, from_dict
from kit.evaluation.significance import Difference, compare
from kit.options import split_off
from kit.progress import say
from kit.text.scoring import Normalization, units

Utterances = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]  # set -> way -> rows
_MEND = "give what python -m kit evaluate out=FILE wrote"
OPTIONS = {"way": "", "against": "", "split": ""}


def differ(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> tuple[Difference, list[str]]:
    """The difference of two systems by the rows of their reports, and the ids that only one has."""
    one, other = ({row["id"]: row["errors"] for row in rows} for rows in (first, second))
    both = [name for name in one if name in other]
    first_wrong, second_wrong = ([_wrong(errors[name]) for name in both] for errors in (one, other))
    lengths = [one[name]["length"] for name in both]
    return compare(first_wrong, second_wrong, lengths), sorted(one.keys() ^ other.keys())


def _wrong(errors: Mapping[str, int]) -> int:
    return errors["substitutions"] + errors["deletions"] + errors["insertions"]


def compare_files(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Compare two reports, print a line a set, way and language.

    Texts are normalized anew, from what was written, so both are judged by one rule whatever theirs was.

    Args:
        files: two reports that `evaluate out=FILE` wrote, or of benchmarks.
        overrides: `way` and `against` choose the ways of the first and second report, `split` a set; others are of the
            configuration, which says the normalization.

    Raises:
        UsageError: not two files, or a way or set that they do not have.
        KitError: a file is no such report, or they have no utterance in common.
    """
    if len(files) != 2:
        raise UsageError(f"compare needs two reports, got {len(files)}: python -m kit evaluate compare A.json B.json")
    chosen, rest = split_off(OPTIONS, overrides)
    spell = normalization(compose(rest))
    first, second = (_utterances(Path(file)) for file in files)
    print("set", "group", "utterances", "first", "second", "difference", "wins", "losses", "ties", "p", "", sep="\t")
    for name in _common(first, second, chosen["split"], files):
        for way, other in _ways(first[name], second[name], chosen["way"], chosen["against"], name):
            label = f"{name}, {way}" if way == other else f"{name}, {way} against {other}"
            _tell(label, _judged(first[name][way], spell, files[0]), _judged(second[name][other], spell, files[1]))
    say(f"rates in percent, normalization {spell.name}; p of a matched-pairs permutation test, each line for itself")
    return 0


def _utterances(path: Path) -> Utterances:
    try:
        found = json.loads(path.read_text("utf-8"))["utterances"]
    except OSError as error:
        raise UsageError(f"cannot read the report {path}: {error.strerror}; {_MEND}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise KitError(f"{path} is no report with utterances; {_MEND}") from error
    if not isinstance(found, dict) or not all(isinstance(ways, dict) for ways in found.values()):
        raise KitError(f"{path} is no report with utterances; {_MEND}")
    return found


def _common(first: Utterances, second: Utterances, wanted: str, files: Sequence[str]) -> list[str]:
    names = [name for name in first if name in second and wanted in ("", name)]
    if not names:
        known = f"the first has {', '.join(first) or 'none'}, the second {', '.join(second) or 'none'}"
        raise UsageError(f"{files[0]} and {files[1]} have no set {wanted or 'in common'}; {known}")
    return names


def _ways(
    first: Mapping[str, object], second: Mapping[str, object], way: str, against: str, name: str
) -> list[tuple[str, str]]:
    """Pairs of ways: those asked for, those of the same name, or the only ones."""
    if way or against:
        pair = way or against, against or way
        if pair[0] in first and pair[1] in second:
            return [pair]
    elif len(first) == len(second) == 1:
        return [(next(iter(first)), next(iter(second)))]
    else:
        same = [(one, one) for one in first if one in second]
        if same:
            return same
    known = f"the first report has {', '.join(first)}, the second {', '.join(second)}"
    raise UsageError(f"{name}: choose with way=... and against=...; {known}")


@dataclass(frozen=True)
class Judged:
    """An utterance of a report, its texts normalized anew."""

    language: str
    reference: str
    row: Mapping[str, Any]  # id and errors, for `differ`


def _judged(rows: Iterable[Mapping[str, Any]], spell: Normalization, path: str) -> dict[str, Judged]:
    found = {}
    for row in (from_dict(row, path) for row in rows):
        if row.told is None:
            raise KitError(f"{path} has no texts, only phonemes; give the report of an export with a language model")
        reference = spell(row.written)
        errors = text_edits(units, reference, spell(row.told))._asdict()
        found[row.id] = Judged(row.language, reference, {"id": row.id, "errors": errors})
    return found


def _tell(label: str, first: Mapping[str, Judged], second: Mapping[str, Judged]) -> None:
    """A line for all utterances that both have, and one a language; what is left out is named."""
    alone = sorted(first.keys() ^ second.keys())
    shared = [name for name in first if name in second]
    strange = [name for name in shared if first[name].reference != second[name].reference]
    for names, why in ((alone, "are in one report only"), (strange, "have another reference in each")):
        if names:
            say(f"{label}: {len(names)} utterances {why} and are left out: {_some(names)}")
    both = [name for name in shared if name not in set(strange)]
    if not both:
        raise KitError(f"{label}: the reports have no utterance in common; evaluate both on the same data")
    languages = sorted({first[name].language for name in both})
    for group in ["all", *(languages if len(languages) > 1 else [])]:
        chosen = [name for name in both if group in ("all", first[name].language)]
        found, _ = differ(*([side[name].row for name in chosen] for side in (first, second)))
        print(label, group, *told(found), sep="\t")


def told(found: Difference) -> list[str]:
    """The cells of a difference: utterances, both rates, the difference with its interval, wins, losses, ties, p and
    verdict.
    """
    change = f"{100 * found.difference:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
    rates = [f"{100 * rate:.2f}" for rate in found.rates]
    counts = [str(count) for count in (found.wins, found.losses, found.ties)]
    return [str(found.utterances), *rates, change, *counts, f"{found.p:.3g}", found.verdict]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")
