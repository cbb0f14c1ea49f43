"""Every sentence that the grammar can make is in canonical form and can be pronounced."""

from __future__ import annotations

from collections import Counter

import pytest

from datamodules.cockpit.grammar import (
    DOMAINS,
    LANGUAGE_SHARES,
    LANGUAGES,
    Draw,
    Sampler,
    Template,
    lists,
    templates,
    unseen_names,
    unseen_pattern,
)
from datamodules.cockpit.plan import MADE, plan_made, voices
from kit.errors import KitError
from kit.text.normalize import language_of, normalize
from kit.text.phonemes import PhonemeInventory, pronounce


def sentences(count: int, unseen: bool = False) -> list[str]:
    sampler = Sampler(Draw("test"), unseen=unseen)
    return [sampler.sentence().text for _ in range(count)]


def fillings(template: Template) -> list[str]:
    """The template with the first, the last, and a middle name of each list in turn."""
    result = []
    for position in (0, -1, 0.5):
        values = []
        for language, kind in template.slots:
            names = lists()[language][kind].known + lists()[language][kind].unseen
            values.append(names[int(position * len(names)) if position == 0.5 else int(position)])
        result.append(template.fill(values))
    return result


def test_every_template_gives_canonical_sentences_of_its_language() -> None:
    for template in templates():
        for text in fillings(template):
            assert normalize(text) == text
            assert language_of(text) == template.language


def test_every_name_is_canonical_and_has_phonemes_of_the_inventory() -> None:
    inventory = PhonemeInventory.default()
    for language, kinds in lists().items():
        for names in kinds.values():
            for name in names.known + names.unseen:
                assert normalize(name) == name
                assert language_of(name) == language
                parts = pronounce(name)
                assert all(phonemes for _, phonemes in parts)
                inventory.encode([phoneme for _, phonemes in parts for phoneme in phonemes])


def test_sampled_sentences_are_canonical_distinct_and_pronounceable() -> None:
    inventory = PhonemeInventory.default()
    texts = sentences(1500)
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert normalize(text) == text
        inventory.encode([phoneme for _, phonemes in pronounce(text) for phoneme in phonemes])


def test_all_domains_in_all_languages_and_enough_of_everything() -> None:
    counts = Counter((template.language, template.domain) for template in templates())
    assert set(counts) == {(language, domain) for language in LANGUAGES for domain in DOMAINS}
    by_language = Counter(template.language for template in templates())
    assert by_language["zh"] >= 60 and by_language["en"] >= 45 and by_language["mixed"] >= 18
    assert len(set(templates())) == len(templates())
    zh, en = lists()["zh"], lists()["en"]
    sizes = {name: len(zh[name].known + zh[name].unseen) for name in ("poi", "song", "singer", "contact")}
    assert sizes["poi"] >= 115 and sizes["song"] >= 50 and sizes["singer"] >= 30 and sizes["contact"] >= 20
    sizes = {name: len(en[name].known + en[name].unseen) for name in ("poi", "song", "artist", "contact")}
    assert sizes["poi"] >= 90 and sizes["song"] >= 40 and sizes["artist"] >= 20 and sizes["contact"] >= 20


def test_language_shares_are_kept() -> None:
    sampler = Sampler(Draw("shares"))
    counts = Counter(sampler.sentence().language for _ in range(3000))
    for language, share in LANGUAGE_SHARES.items():
        assert counts[language] / 3000 == pytest.approx(share, abs=0.03)


def test_names_come_up_equally_often() -> None:
    sampler = Sampler(Draw("decks"))
    counts: Counter[str] = Counter()
    for _ in range(3000):
        counts.update(name for language, kind, name in sampler.sentence().names if (language, kind) == ("zh", "poi"))
    assert set(counts) == set(lists()["zh"]["poi"].known)
    assert max(counts.values()) <= min(counts.values()) + 8  # dealt like cards; repeated sentences are dropped


def test_unseen_names_are_about_an_eighth_and_contained_in_no_known_name() -> None:
    for language, kind in (("zh", "poi"), ("zh", "song"), ("en", "poi"), ("en", "song"), ("en", "artist")):
        names = lists()[language][kind]
        assert 0.09 < len(names.unseen) / (len(names.known) + len(names.unseen)) < 0.16
        assert not set(names.known) & set(names.unseen)
    for kinds in lists().values():
        for names in kinds.values():
            assert not [name for name in names.known if unseen_pattern().search(name)]


def test_unseen_names_are_never_mentioned_unless_asked_for() -> None:
    names = [name for _, _, name in unseen_names()]
    for text in sentences(2000):
        assert not [name for name in names if name in text and (not name.isascii() or f" {name} " in f" {text} ")]
    for text in sentences(100, unseen=True):
        assert [name for name in names if name in text]


def test_a_sentence_never_goes_from_a_place_to_the_same_place() -> None:
    sampler = Sampler(Draw("pairs"))
    for _ in range(2000):
        places = [name for _, kind, name in sampler.sentence().names if kind == "poi"]
        assert len(set(places)) == len(places)


def test_draws_depend_on_the_seed_alone() -> None:
    assert sentences(50) == sentences(50)
    other = Sampler(Draw("other"))
    assert sentences(50) != [other.sentence().text for _ in range(50)]


def test_draw_covers_its_ranges_and_keeps_all_when_shuffling() -> None:
    draw = Draw("ranges")
    assert {draw.integer(3, 5) for _ in range(200)} == {3, 4, 5}
    assert sorted(draw.shuffled(range(20))) == list(range(20))
    assert {draw.weighted({"a": 1.0, "b": 0.0}) for _ in range(50)} == {"a"}


def test_a_grammar_that_ends_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    few = (Template("en", "chat", "call {contact}"), Template("en", "chat", "tell me a joke"))
    monkeypatch.setattr("datamodules.cockpit.grammar.templates", lambda: few)
    sampler = Sampler(Draw("few"))
    made = set()
    with pytest.raises(KitError, match="ask for fewer hours"):
        while True:
            made.add(sampler.sentence().text)
    assert "tell me a joke" in made
    assert len(made) >= 15


def test_made_up_names_are_nobody_s_and_can_be_written_and_said() -> None:
    made = plan_made(0.05, 1)
    assert made == plan_made(0.05, 1) != plan_made(0.05, 2)
    assert list(made.utterances) == [MADE] and not made.texts
    real = {name for kinds in lists().values() for names in kinds.values() for name in names.known + names.unseen}
    inventory = PhonemeInventory.default()
    invented = []
    for utterance in made.utterances[MADE]:
        sentence = utterance.sentence
        names = [name for language, kind, name in sentence.names if lists()[language][kind].unseen]
        assert names and not real.intersection(names)
        assert all(name in sentence.text for name in names)
        assert normalize(sentence.text) == sentence.text
        assert not unseen_pattern().search(sentence.text)
        assert utterance.variant in voices("train")
        inventory.encode([phoneme for _, phonemes in utterance.parts for phoneme in phonemes])
        invented += names
    assert len(set(invented)) > 0.9 * len(invented)
