"""Rates of sets of utterances: as they always were, whole in their parts, and nothing dropped."""

import json
from dataclasses import replace
from pathlib import Path

import jiwer
import pytest

from kit.errors import KitError
from kit.evaluation.scored import EMPTY, NO_ANSWER, SCRIPT, Scored, as_dict, check_ids, faults, from_dict, groups, rates
from kit.text.scoring import Basic, Light, units

STORED = json.loads((Path(__file__).parent / "stored_hypotheses.json").read_text("utf-8"))["parts"]


def scored(said, heard, normalize=None, **more):
    spell = normalize or Light("light")
    known = {"id": "u", "language": "zh", "domain": "-", "seconds": 1.0, "written": said, "told": heard}
    texts = {"reference": spell(said), "hypothesis": None if heard is None else spell(heard)}
    return Scored(**{**known, **texts, "phonemes": None, "reference_phonemes": [], **more})


def stored(part, normalize):
    rows = []
    for row in STORED[part]["rows"]:
        strings = {key: row[key].split() for key in ("phonemes", "reference_phonemes")}
        texts = {key: normalize(row[key]) for key in ("reference", "hypothesis")}
        rows.append(Scored(**{**row, **strings, **texts, "written": row["reference"], "told": row["hypothesis"]}))
    return rows


@pytest.mark.parametrize("normalize", [Basic("basic"), Light("light")])
@pytest.mark.parametrize("part", STORED)
def test_figures_are_those_of_the_scorer_before(part, normalize):
    """Light changes nothing here: the corpus spells its numbers, and nobody hesitates in it."""
    found = {name: rates(rows) for name, rows in groups(stored(part, normalize)).items()}
    before = STORED[part]["rates"]
    assert {name: {key: found[name][key] for key in row} for name, row in before.items()} == before


def test_what_is_beside_a_rate_fits_it():
    for name, rows in groups(stored("unseen", Light("light"))).items():
        found = rates(rows)
        for rate in [key for key in found if f"{key} edits" in found]:
            *kinds, length = found[f"{rate} edits"]
            low, high = found[f"{rate} interval"]
            assert found[rate] == pytest.approx(100 * sum(kinds) / length, abs=0.01), name
            assert low <= found[rate] <= high


def test_kinds_of_errors_against_jiwer():
    rows = stored("unseen", Light("light"))
    said, heard = ([" ".join(units(getattr(row, name))) for row in rows] for name in ("reference", "hypothesis"))
    other = jiwer.process_words(said, heard)
    substituted, deleted, inserted, length = rates(rows)["MER edits"]
    assert substituted + deleted + inserted == other.substitutions + other.deletions + other.insertions
    assert inserted - deleted == other.insertions - other.deletions
    assert length == other.hits + other.substitutions + other.deletions
    assert length - substituted - deleted >= other.hits  # as many units right as there can be


def test_an_utterance_comes_back_from_its_report():
    row = scored("去外滩", "去外摊", names=["外滩"], snr=12.5)
    content = json.loads(json.dumps(as_dict(row)))
    assert content["errors"] == {"substitutions": 1, "deletions": 0, "insertions": 0, "length": 3}
    assert from_dict(content, "x.json") == row
    with pytest.raises(KitError, match=r"x\.json holds an utterance that is none"):
        from_dict({"id": "u"}, "x.json")


def test_faults_are_counted_and_named_and_stay_in_the_rates():
    rows = [
        scored("打开天窗", "打开天窗", id="good"),
        scored("！", "打开", id="empty"),
        scored("Привет мир", "", id="foreign"),
        scored("turn it on", "turn it on", id="english"),
        scored("打开", "", id="silent", answered=False),
    ]
    found = faults(rows)
    assert {fault: about["ids"] for fault, about in found.items()} == {
        EMPTY: ["empty"],
        SCRIPT: ["foreign", "english"],
        NO_ANSWER: ["silent"],
    }
    assert rates(rows)["MER edits"] == [0, 4, 2, 11]  # two characters inserted; two words and two characters deleted
    many = faults([scored("", "x", id=str(number)) for number in range(50)])[EMPTY]
    assert (many["count"], len(many["ids"])) == (50, 20)


def test_a_part_of_nothing_but_empty_references_counts_texts():
    assert rates([scored("", "打开"), scored("", "")]) == {"with text": 1, "with text, %": 50.0}


def test_a_language_without_a_unit_has_no_rate():
    found = rates([scored("打开", "打开"), scored("", "on", language="en")])
    assert "en WER" not in found and found["MER edits"] == [0, 0, 1, 2]


def test_a_system_without_phonemes_has_no_phoneme_error_rate():
    assert "PER" not in rates([scored("打开", "打开")])
    assert rates([scored("打开", "打", phonemes=["b"], reference_phonemes=["b", "a1"])])["PER"] == 50.0


def test_names_are_judged_in_canonical_form_whatever_is_scored():
    raw = scored("Play Hello!", "play hello", lambda text: text, names=["hello"], named=["hello"], language="en")
    found = rates([raw, replace(raw, named=["hello", "radio"])])
    assert found["MER"] == 100.0 and found["entity recall"] == 100.0
    assert found["entity precision"] == 66.67


def test_two_utterances_of_one_id_are_refused_by_name():
    check_ids(["a", "b"], "test")
    with pytest.raises(KitError, match="2 ids of the test part are there more than once: a, b; give each its own"):
        check_ids(["a", "b", "a", "b", "c"], "test")
