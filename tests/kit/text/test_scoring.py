"""Normalization before scoring: the worked cases, and what holds for any text."""

import random
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import kit.text
from kit.errors import KitError
from kit.text import scoring
from kit.text.normalize import language_of, normalize
from kit.text.normalize import units as plain_units
from kit.text.numerals import one_spelling
from kit.text.scoring import Basic, Light, Untouched, WeText, foreign, units

CASES = OmegaConf.to_container(OmegaConf.load(Path(kit.text.__path__[0]) / "worked_cases.yaml"))
SAME = [(text, case["as"]) for case in CASES["same"] for text in case["texts"]]
LIGHT, BASIC = Light("light"), Basic("basic")
POOL = [*"0123456789一二三四五六七八九十百千万亿零两幺〇点半第年:-.,%$°", "one ", "twenty ", "hundred ", "and ", "oh "]
POOL += ["thousand ", "five ", "third ", "播放", "km ", "um ", "嗯", "Привет ", "a ", "point ", "ã", "カ"]


def random_texts(count, seed):
    draw = random.Random(seed)
    return ["".join(draw.choices(POOL, k=draw.randint(0, 12))) for _ in range(count)]


def test_there_are_cases_in_both_languages():
    assert len(SAME) > 100
    languages = [language_of(text) for text, _ in SAME]
    assert min(languages.count(one) for one in ("zh", "en", "mixed")) > 5


@pytest.mark.parametrize(("text", "wanted"), SAME)
def test_worked_cases(text, wanted):
    assert LIGHT(text) == wanted


@pytest.mark.parametrize("text", CASES["stay"])
def test_what_stays_as_it_is(text):
    assert LIGHT(text) == text


@pytest.mark.parametrize(("one", "other"), CASES["not_decided"])
def test_what_is_not_decided_is_not_taken_for_the_same(one, other):
    assert LIGHT(str(one)) != LIGHT(str(other))


@pytest.mark.parametrize("method", [LIGHT, BASIC, Untouched("none")])
def test_normalization_is_idempotent(method):
    for text in random_texts(1500, seed=1):
        once = method(text)
        assert method(once) == once, text


def test_every_way_to_write_a_number_is_one():
    draw = random.Random(2)
    numbers = [*range(3, 400), *(draw.randrange(10 ** draw.randint(3, 12)) for _ in range(300))]
    for number in numbers:
        words = normalize(f"{number}")
        assert LIGHT(f"{number} songs") == LIGHT(f"{number:,} songs") == LIGHT(f"{words} songs")
        assert LIGHT(f"{number} songs") == LIGHT(words.replace(" and ", " ") + " songs")
        numeral = normalize(f"{number}个")
        assert LIGHT(f"{number}个") == LIGHT(numeral)
        if number >= 100:
            digits = "".join("零一二三四五六七八九"[int(digit)] for digit in str(number))
            assert LIGHT(f"{digits}个") == LIGHT(f"{number}个")


def test_different_numbers_stay_different():
    for make in ("{}个", "{} songs"):
        assert len({LIGHT(make.format(number)) for number in range(3000)}) == 3000


def test_light_is_basic_where_nothing_of_its_own_is_in_a_text():
    draw = random.Random(3)
    for _ in range(500):
        text = "".join(draw.choices([*"打开天窗外滩", "turn ", "Radio ", "，", "é", "a "], k=8))
        assert LIGHT(text) == BASIC(text)


def test_basic_is_the_form_of_training_labels_for_known_scripts():
    for text in random_texts(1500, seed=4):
        if not foreign(text):
            assert BASIC(text) == normalize(text)
            assert units(BASIC(text)) == plain_units(normalize(text))


def test_other_scripts_are_kept_and_named():
    assert foreign("播放Привет, wörld カ 123") == ["Привет", "カ"]
    assert LIGHT("播放 Привет 23, カラオケ") == "播放 привет twenty three カラオケ"
    assert units(LIGHT("播放Привет")) == ["播", "放", "привет"]
    for text in random_texts(1500, seed=5):
        if any(one.isalnum() for one in text):
            assert units(BASIC(text)), text
        assert len(foreign(text)) <= len(units(BASIC(text)))


def test_nothing_but_white_space_is_touched():
    assert Untouched("none")(" A,  b\t三四!\n") == "A, b 三四!"


def test_numbers_grow_no_worse_with_length():
    long = "二零二四年" * 2000 + "one hundred and " * 2000
    assert len(one_spelling(long)) > 1000


def test_wetext_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "tn", None)
    with pytest.raises(KitError, match=r"needs the package WeTextProcessing; install nim4-kit\[wetext\]"):
        WeText("wetext")


class Tagged:
    """Stands for WeTextProcessing's normalizer."""

    def __init__(self, word):
        self.word = word

    def normalize(self, text):
        return text.replace("5", self.word)


def test_wetext_is_followed_by_the_same_spelling(monkeypatch):
    makers = {"zh": lambda: Tagged("幺零零"), "en": lambda: Tagged("Nineteen, Ninety-Nine")}
    monkeypatch.setattr(scoring, "_wetext", lambda: makers)
    found = WeText("wetext")
    assert found("嗯，5！") == "一百"
    assert found("um 5 Songs") == "one thousand nine hundred ninety nine songs"
    assert WeText("wetext", language="zh")("5") == "一百"
    with pytest.raises(ValueError, match="language is 'fr'"):
        WeText("wetext", language="fr")
