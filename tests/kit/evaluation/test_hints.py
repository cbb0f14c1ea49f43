"""Hints of an evaluation: of the kind that was asked for, the same each time, and in the report."""

import pytest
from small import small_config, small_recognizer

from kit.errors import UsageError
from kit.evaluation.hints import RETRIEVED, Names
from kit.evaluation.report import measure, show
from kit.text.keywords import occurs
from kit.text.phonemes import phonemize
from kit.text.similar import distance

KINDS = ["right", "wrong", "homophone", "mixed"]


@pytest.fixture(scope="module")
def data(corpus):
    return corpus.data(small_config(cache=corpus.cache))


def utterances(data, parts=("test", "unseen")):
    return [(cut, data.dataset(part).labels(cut)[0]) for part in parts for cut in data.cuts(part)]


@pytest.mark.parametrize("kind", KINDS)
def test_hints_are_of_their_kind(kind, data):
    names = Names(data, None, kind)
    assert names.annotated
    count = 0
    for cut, text in utterances(data):
        said, hints = names.said(cut, text), names.hints(cut, text)
        assert said == list(dict.fromkeys(cut.supervisions[0].custom["entities"]))
        assert len(set(hints)) == len(hints)
        right = [hint for hint in hints if occurs(hint, text)]
        count += len(hints)
        if kind == "right":
            assert hints == said
        elif kind == "wrong":
            assert (right, len(hints)) == ([], len(said))
            assert set(hints) <= set(names.keywords.names)
        elif kind == "homophone":
            assert not right
            for hint in hints:
                assert min(distance(phonemize(hint), phonemize(name)) for name in said) <= names.keywords.reach
        else:
            assert set(said) <= set(hints)
            assert len(hints) == len(said) + RETRIEVED
    assert count > 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_gets_the_same(kind, corpus, data):
    other = corpus.data(small_config("seed=7", cache=corpus.cache))
    one, two = Names(data, None, kind), Names(other, "test", kind)
    for cut, text in reversed(utterances(data, ["test"])):
        assert one.hints(cut, text) == two.hints(cut, text)


def test_no_hints_unless_asked_for(data):
    names = Names(data)
    assert not any(names.hints(cut, text) for cut, text in utterances(data))


def test_names_are_mined_where_nobody_annotated_any(data, monkeypatch):
    monkeypatch.setattr(type(data), "entities", staticmethod(lambda cut: None))
    names = Names(data, None, "right")
    assert not names.annotated
    rows = [names.said(cut, text) for cut, text in utterances(data)]
    assert any(rows)
    assert all(occurs(name, text) for row, (_, text) in zip(rows, utterances(data), strict=True) for name in row)


def test_an_unknown_kind_is_refused():
    with pytest.raises(
        UsageError, match=r"hints_from must be one of right, wrong, homophone, mixed, or null; got rihgt"
    ):
        small_config("hints_from=rihgt")


@pytest.mark.parametrize("decoding", ["chunked", "streaming"])
def test_hints_reach_the_recognizer_and_the_report(decoding, corpus, monkeypatch, capsys):
    monkeypatch.setattr("kit.evaluation.streaming.silent_clips", lambda count: [])
    config = small_config(
        "hints_from=mixed", f"decoding={decoding}", "decoding.max_tokens=2", "split=unseen", cache=corpus.cache
    )
    config.decoding.callbacks.guard = None
    if decoding == "streaming":
        config.decoding.callbacks.gate = None
    data, recognizer = corpus.data(config), small_recognizer()
    tails, tail_ids = set(), recognizer.tail_ids
    monkeypatch.setattr(recognizer, "tail_ids", lambda hints=(): tails.add(tuple(hints)) or tail_ids(hints))
    report = measure(config, recognizer, data)
    names = Names(data, "unseen", "mixed")
    assert tails == {tuple(names.hints(cut, text)) for cut, text in utterances(data, ["unseen"])}
    assert (report["names"], report["hints"]) == ("annotated", "mixed")
    for way in report["parts"]["unseen"].values():
        assert {"entity recall", "recited", "hallucination"} <= set(way["all"])
    assert all(example["hints"] and set(example["names"]) <= set(example["hints"]) for example in report["examples"])
    show(report)
    printed = capsys.readouterr().out
    assert "with hints (mixed)" in printed
    assert "wrong hints recited" in printed
    assert max(map(len, printed.splitlines())) <= 100
