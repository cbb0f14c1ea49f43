import math
import random

import pytest
import torch
from hearing import INVENTORY, head
from strings import database_of, made_up, one_wrong

from kit.evaluation import retrieval
from kit.evaluation.mishearing import Snippets
from kit.evaluation.retrieval import Dense, Edits, Exact, Hybrid, error_rate, has_name, measure, quality, spoken
from kit.retrieval.hybrid import Found, search_in
from kit.text.normalize import normalize

NAMES = sorted(made_up(300, 0, shortest=8))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return database_of(tmp_path_factory.mktemp("names") / "db", NAMES)


def name(key):
    return normalize(f"n{key}")


def utterance(key, seed, wrong=False):
    """A name between other phonemes; with `wrong` the head takes one of its phonemes for another, in doubt."""
    draw = random.Random(seed)
    before, after = (bytes(draw.choices(range(1, len(INVENTORY)), k=12)) for _ in range(2))
    said = before + NAMES[key] + after
    doubts = {}
    if wrong:
        heard = one_wrong(NAMES[key], draw)
        doubts = {
            len(before) + place: {one: 0.6, other: 0.4}
            for place, (one, other) in enumerate(zip(heard, NAMES[key], strict=True))
            if one != other
        }
    return spoken(head(said, doubts), said, name(key), [name(key)])


@pytest.fixture(scope="module")
def ways(database):
    return {
        "exact": Exact(database),
        "dense": Dense(database.dense()),
        "edit distance": Edits(database),
        "hybrid": Hybrid(search_in(database, INVENTORY, 0.0)),
    }


def test_all_ways_find_what_was_heard_rightly(database, ways):
    utterances = [utterance(key, key) for key in range(0, 300, 10)]
    for name, reached in measure(database, ways, utterances, 0.0, 0.9, {}):
        assert reached.recall >= 0.9, name
        assert reached.precision >= 0.9


def test_only_the_exact_way_needs_every_phoneme(database, ways):
    utterances = [utterance(key, key, wrong=True) for key in range(0, 300, 10)]
    reached = dict(measure(database, ways, utterances, 0.0, 0.9, {"edit distance": 10}))
    assert reached["exact"].recall == 0.0 and math.isnan(reached["exact"].precision)
    assert reached["dense"].recall >= 0.5
    assert min(reached["edit distance"].recall, reached["hybrid"].recall) >= 0.9
    assert error_rate(utterances) == pytest.approx(100 * len(utterances) / sum(len(one.phonemes) for one in utterances))


def test_quality_counts_hints_and_names(database):
    said = utterance(5, 0)
    right, wrong = Found(5, 0, 9, 2.0, False), Found(6, 10, 19, 1.0, False)
    nothing = utterance(7, 1)
    found = [(said, [right, wrong]), (nothing, [])]
    reached = quality(database, found)
    assert (reached.recall, reached.precision, reached.hints) == (0.5, 0.5, 1.0)
    assert quality(database, found, margin=1.5).precision == 1.0
    assert quality(database, found, precision=0.9).margin == 2.0
    impossible = quality(database, [(nothing, [wrong])], precision=0.9)
    assert (impossible.recall, impossible.hints) == (0.0, 0.0) and math.isnan(impossible.precision)


def test_simulated_speech_has_a_name_each_and_the_same_ones_at_every_rate(database):
    draw = random.Random(0)
    strings = [draw.choices(range(1, len(INVENTORY)), k=40) for _ in range(30)]
    heads = [head(one, {3: {one[4]: 0.9, one[3]: 0.1}, 20: {0: 0.8, one[20]: 0.2}}) for one in strings]
    snippets = Snippets(zip(heads, strings, strict=True), INVENTORY)
    clean, dirty = (
        retrieval.simulated(database, snippets, [(bytes(strings[0]), "")], 50, errors) for errors in (0.0, 0.2)
    )
    assert [one.names for one in clean] == [one.names for one in dirty]
    for one in (*clean, *dirty):
        assert sum(name(key) in one.names and string in one.phonemes for key, string in enumerate(NAMES)) == 1
        assert all(len(chunk) == 16 for chunk in one.chunks[:-1])
    assert error_rate(clean) == 0.0
    assert 12 < error_rate(dirty) < 28


def test_names_that_a_database_has(database):
    assert has_name(database, [b"\1\1\1", NAMES[3]], name(3))
    assert not has_name(database, [NAMES[3]], name(4))
    assert not has_name(database, [NAMES[3] + b"\1", NAMES[3][1:]], name(3))


def test_chunks_are_those_of_the_utterance():
    said = bytes(range(1, 30))
    assert torch.equal(torch.cat(spoken(head(said), said, "", []).chunks), head(said))
