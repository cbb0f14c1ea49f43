"""Phoneme times from the synthesizer's events, on events written by hand and on real ones."""

from __future__ import annotations

import numpy as np

from datamodules.cockpit.alignment import Part, align, spoken_text
from kit.text.espeak import Espeak, Speech
from kit.text.phonemes import pronounce


def speech(events: list[tuple[float, str]], words: list[tuple[int, int, int]], seconds: float = 2.0) -> Speech:
    return Speech(np.zeros(int(seconds * 100), np.int16), 100, events, words)


def parts_of(text: str) -> list[Part]:
    return [(unit, tuple(phonemes)) for unit, phonemes in pronounce(text)]


def test_spaces_surround_latin_words_only() -> None:
    text, offsets = spoken_text(parts_of("播放taylor swift的歌"))
    assert text == "播放 taylor swift 的歌"
    assert [text[offset] for offset in offsets] == ["播", "放", "t", "s", "的", "歌"]


def test_a_syllable_begins_with_its_initial_and_goes_on_with_its_final() -> None:
    events = [(0.1, "t"), (0.2, "j"), (0.3, "'Au"), (0.5, "_|"), (0.6, "'A"), (0.7, "n"), (0.9, "_|"), (0.9, "_:")]
    parts: list[Part] = [("调", ("d", "iao4")), ("安", ("an1",))]
    starts, end = align(parts, [0, 1], speech(events, [(0, 0, 1), (4, 1, 1)]))
    assert (starts, end) == ([0.1, 0.2, 0.6], 0.9)


def test_words_with_as_many_sounds_are_taken_one_by_one() -> None:
    events = [(0.0, "k"), (0.1, "'a"), (0.2, "t"), (0.4, "s"), (0.5, "'I"), (0.6, "t"), (0.8, "_:"), (0.81, "_")]
    parts: list[Part] = [("cat", ("K", "AE", "T")), ("sit", ("S", "IH", "T"))]
    starts, end = align(parts, [0, 4], speech(events, [(0, 0, 3), (3, 4, 3)]))
    assert (starts, end) == ([0.0, 0.1, 0.2, 0.4, 0.5, 0.6], 0.8)


def test_a_vowel_that_holds_two_phonemes_is_cut_in_the_middle_unless_an_r_follows() -> None:
    car: list[Part] = [("car", ("K", "AA", "R"))]
    starts, _ = align(car, [0], speech([(0.0, "k"), (0.2, "'A@"), (0.6, "_:")], [(0, 0, 3)]))
    assert starts == [0.0, 0.2, 0.4]
    starts, _ = align(car, [0], speech([(0.0, "k"), (0.2, "'A@"), (0.5, "r-"), (0.6, "_:")], [(0, 0, 3)]))
    assert starts == [0.0, 0.2, 0.5]


def test_characters_that_the_synthesizer_joins_are_told_apart_by_their_consonants() -> None:
    names = ["s", "ou", "ts.", "w", "'A", "n"]
    events = [(0.1 * index, name) for index, name in enumerate(names)] + [(0.7, "_:")]
    parts: list[Part] = [("搜", ("s", "ou1")), ("转", ("zh", "uan3"))]
    starts, end = align(parts, [0, 1], speech(events, [(0, 0, 1)]))
    np.testing.assert_allclose(starts, [0.0, 0.1, 0.2, 0.3])
    assert end == 0.7


def test_fewer_sounds_than_phonemes_are_interpolated_inside_their_word_only() -> None:
    events = [(0.0, "f"), (0.4, "_:")]
    starts, _ = align([("of", ("AH", "V"))], [0], speech(events, [(0, 0, 2)]))
    np.testing.assert_allclose(starts, [0.0, 0.2])
    events = [(0.0, "O2"), (0.1, "n"), (0.2, "D"), (0.3, "@"), (0.4, "k"), (0.8, "_:")]
    parts: list[Part] = [("on", ("AA", "N")), ("the", ("DH", "AH")), ("car", ("K", "AA", "R"))]
    starts, _ = align(parts, [0, 3, 7], speech(events, [(0, 0, 2), (4, 7, 3)]))
    np.testing.assert_allclose(starts[:5], [0.0, 0.1, 0.2, 0.3, 0.4])
    assert 0.4 < starts[5] < starts[6] < 0.8


def test_changes_of_language_and_palatalization_are_no_sounds() -> None:
    events = [(0.0, "(en)"), (0.1, "m"), (0.2, ";"), (0.3, "'i:"), (0.5, "(cmn)"), (0.6, "_|"), (0.7, "_:")]
    starts, end = align([("me", ("M", "IY"))], [0], speech(events, [(0, 0, 2)]))
    assert (starts, end) == ([0.1, 0.3], 0.6)


def test_real_sentences_begin_every_unit_where_the_synthesizer_begins_it() -> None:
    texts = ["导航到人民广场", "把温度调到二十六度", "play yesterday by the beatles", "播放taylor swift的新歌"]
    with Espeak() as worker:
        for text in texts:
            parts = parts_of(text)
            spoken, offsets = spoken_text(parts)
            said = worker.say(spoken, "cmn+f2" if not text.isascii() else "en-us+f2", 200)
            starts, end = align(parts, offsets, said)
            assert len(starts) == sum(len(phonemes) for _, phonemes in parts)
            assert starts == sorted(starts) and starts[0] >= 0 and starts[-1] < end <= len(said.samples) / said.rate
            firsts = np.cumsum([0, *(len(phonemes) for _, phonemes in parts)])
            unit_starts = {at: starts[firsts[offsets.index(at)]] for _, at, _ in said.words}
            for index, at, _ in said.words:
                real = [seconds for seconds, name in said.events[index:] if name[0] not in "_(;"]
                assert unit_starts[at] == real[0]
