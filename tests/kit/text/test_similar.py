"""Nearness of sounds: the distance by its definition, and the index against comparing everything with everything."""

import itertools
import random

import pytest

from kit.text.phonemes import FINALS, INITIALS, phonemize
from kit.text.similar import MOST_EDITS, TONE, SoundIndex, difference, distance, toneless

NAMES = [
    *[
        "晴天",
        "青天",
        "庆典",
        "蜻蜓",
        "停电",
        "成都",
        "程度",
        "诚笃",
        "张三",
        "章三",
        "脏三",
        "江山",
        "匠山",
        "外滩",
        "外摊",
    ],
    *["人民广场", "人名广场", "仁民广场", "人民商场", "人民机场", "春熙路", "春西路", "春溪路", "纯洗路", "虹桥火车站"],
    *[
        "right",
        "write",
        "night",
        "knight",
        "believer",
        "beliver",
        "central park",
        "sentral park",
        "abbey road",
        "abby rode",
    ],
    *["播放rihanna", "播放rihana", "hello", "hallow", "the white house", "the wide house", "虹桥汽车站", "红桥火车站"],
]
ALPHABET = [*INITIALS[:4], *[f"{final}{tone}" for final in FINALS[:3] for tone in (1, 4)], "AA", "B"]


def strings(seed, count, longest=9):
    draw = random.Random(seed)
    return [tuple(draw.choices(ALPHABET, k=draw.randint(0, longest))) for _ in range(count)]


def by_definition(one, other):
    """The cheapest way from one string to another, by trying every last step."""
    known = {}

    def cost(i, j):
        if not i or not j:
            return i + j
        if (i, j) not in known:
            ways = cost(i - 1, j - 1) + difference(one[i - 1], other[j - 1]), cost(i - 1, j) + 1, cost(i, j - 1) + 1
            known[i, j] = min(ways)
        return known[i, j]

    return cost(len(one), len(other)) / max(1, len(one), len(other))


def edits(one, other):
    """Levenshtein distance without tones."""
    rows = list(range(len(other) + 1))
    for x in one:
        left = rows
        rows = [left[0] + 1]
        for j, y in enumerate(other, 1):
            rows.append(min(left[j - 1] + (toneless(x) != toneless(y)), left[j] + 1, rows[-1] + 1))
    return rows[-1]


def test_distance_against_its_definition():
    for one, other in zip(strings(1, 150), strings(2, 150), strict=True):
        assert distance(one, other) == pytest.approx(by_definition(one, other))


def test_distance_is_symmetric_and_bounded():
    for one, other in itertools.combinations(strings(3, 25), 2):
        assert distance(one, other) == pytest.approx(distance(other, one))
        assert 0 <= distance(one, other) <= 1
        assert (distance(one, other) == 0) == (one == other)


def test_a_tone_is_cheaper_than_a_phoneme():
    assert distance(phonemize("晴天"), phonemize("青天")) == TONE / 4
    assert distance(["a1"], ["a2"]) == TONE < distance(["a1"], ["o1"]) == distance(["b"], []) == 1
    assert distance(phonemize("right"), phonemize("write")) == 0


@pytest.mark.parametrize("reach", [0.0, 0.1, 0.2, 0.34])
def test_the_index_finds_what_comparing_everything_finds(reach):
    index = SoundIndex([*NAMES, "晴天"], reach)
    sounds = {name: phonemize(name) for name in NAMES}
    found = 0
    for name in NAMES:
        expected = {
            other
            for other in NAMES
            if other != name
            and distance(sounds[name], sounds[other]) <= reach + 1e-9
            and edits(sounds[name], sounds[other]) <= MOST_EDITS
        }
        near = index.near(name)
        assert {other for _, other in near} == expected
        assert near == sorted(near)
        assert all(far == distance(sounds[name], sounds[other]) for far, other in near)
        found += len(near)
    assert found > 0


@pytest.mark.parametrize("seed", range(3))
def test_the_index_is_complete_on_random_strings(seed, monkeypatch):
    """Short alphabets make neighbors of every kind: substitutions, gaps, several at once, at both ends."""
    texts = {" ".join(row): row for row in strings(seed + 10, 250, longest=12) if row}
    monkeypatch.setattr("kit.text.similar.phonemize", lambda text: texts[text])
    index = SoundIndex(texts, 0.25)
    for text, sound in list(texts.items())[:80]:
        expected = {
            other
            for other, found in texts.items()
            if other != text and distance(sound, found) <= 0.25 and edits(sound, found) <= MOST_EDITS
        }
        assert {other for _, other in index.near(text)} == expected


def test_what_nobody_can_pronounce_is_left_out():
    index = SoundIndex(["", "晴天"], 0.5)
    assert len(index) == 1
    assert index.near("") == []
