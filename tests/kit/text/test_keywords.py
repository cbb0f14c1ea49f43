"""Keywords: found on the borders of units, told from what sounds like them, and mined where nobody names them."""

import random
import re

import pytest

from kit.errors import UsageError
from kit.text.keywords import COHESION, LONGEST, Keywords, mine, occurs, read_keywords
from kit.text.normalize import normalize, units
from kit.text.phonemes import phonemize
from kit.text.similar import distance

NAMES = [
    "外滩",
    "广场舞",
    "人民广场",
    "广场",
    "park",
    "central park",
    "Hotel California",
    "art",
    "红豆",
    "青天",
    "晴天",
    "believer",
]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("导航到外滩", ["外滩"]),
        ("从外滩到人民广场", ["外滩", "人民广场"]),  # 广场 is inside the longer one
        ("人民广场边的广场", ["人民广场", "广场"]),
        ("人民广场舞", ["人民广场", "广场舞"]),  # they only overlap
        ("take me to central park", ["central park"]),
        ("is the party at the park", ["park"]),  # art is no part of a word
        ("播放hotel california吧", ["hotel california"]),
        ("hotel", []),
        ("", []),
    ],
)
def test_names_are_found_on_the_borders_of_units(text, names):
    assert Keywords(NAMES).mentioned(text) == names


def test_every_mentioned_name_occurs_and_the_others_are_inside_a_longer_one():
    keywords, draw = Keywords(NAMES), random.Random(0)
    for _ in range(200):
        text = normalize(" ".join(draw.choices([*keywords.names, "去", "to", "广", "场"], k=5)))
        found = keywords.mentioned(text)
        assert all(occurs(name, text) for name in found)
        missed = [name for name in keywords.names if occurs(name, text) and name not in found]
        assert all(
            any(occurs(name, longer) or set(units(name)) & set(units(longer)) for longer in found) for name in missed
        )


@pytest.mark.parametrize(
    ("name", "text", "there"), [("art", "party", False), ("art", "the art", True), ("外滩", "去外滩", True)]
)
def test_occurs(name, text, there):
    assert occurs(name, text) == there


def test_names_are_normalized_once():
    assert Keywords(["Hotel  California", "hotel california!", "?", "外滩"]).names == ("hotel california", "外滩")


def test_the_set_comes_before_what_is_made():
    keywords = Keywords(NAMES, texts=["青清轻天添", "请外摊"])
    assert keywords.alike("晴天") == ["青天"]
    assert keywords.alike("外滩") == ["外摊"]
    assert Keywords(NAMES).alike("外滩") == []


@pytest.mark.parametrize("name", ["外滩", "人民广场", "红豆", "believer", "central park", "播放rihanna"])
def test_a_made_homophone_sounds_alike_and_is_written_otherwise(name):
    keywords = Keywords([name], texts=["歪外湾弯摊贪谈", "忍人任民名敏光逛场厂", "洪虹宏鸿斗逗", "波博放方"])
    made = keywords.alike(name)
    assert made
    distances = [distance(phonemize(name), phonemize(other)) for other in made]
    assert distances == sorted(distances)
    assert max(distances) <= keywords.reach
    for other in made:
        assert other == normalize(other) != name
        changed = [one != two for one, two in zip(units(name), units(other), strict=True)]
        assert sum(changed) == 1
        assert set(re.findall("[^a-z ]", other)) <= set("".join(keywords._texts) + name)


def test_without_reach_only_the_same_sound_will_do():
    made = Keywords(["外滩"], texts=["歪外湾弯摊贪谈"], reach=0.0).alike("外滩")
    assert set(made) == {"外摊", "外贪"}  # 谈 and 歪 have another tone


def test_mined_words_are_rare_hold_together_and_are_whole():
    texts = [*["请打开窗户"] * 100, *["请播放音乐"] * 100, "导航去趵突泉", "我在趵突泉", "turn on the heating", "请问"]
    texts += [f"turn on the {word}" for word in ["radio"] * 60]
    assert mine(texts) == ["heating", "趵突泉"]  # 趵突 is as frequent as the longer one; 窗户 and radio are everywhere


def test_mining_against_its_definition():
    draw = random.Random(4)
    characters = [chr(0x4E00 + draw.randrange(800)) for _ in range(400)]
    texts = [
        "".join(characters[start : start + 9]) for start in (draw.randrange(391) for _ in range(60))
    ]  # they overlap

    def share(gram):
        return sum(gram in text for text in texts)

    grams = {text[i:j] for text in texts for i in range(9) for j in range(i + 2, min(9, i + LONGEST) + 1)}
    expected = {
        gram
        for gram in grams
        if share(gram) == 2
        and not any(gram in longer and share(longer) == 2 for longer in wider(gram, texts))
        and all(2 * len(texts) >= COHESION * share(gram[:cut]) * share(gram[cut:]) for cut in range(1, len(gram)))
    }
    assert set(mine(texts)) == expected
    assert len(expected) > 5


def wider(gram, texts):
    """The strings of the texts that are one character longer at either end."""
    found = re.findall(f"(?=(.?){gram}(.?))", " ".join(texts))
    return [before + gram for before, _ in found if before] + [gram + after for _, after in found if after]


def test_nothing_is_mined_from_nothing():
    assert mine([]) == []


def test_a_file_of_keywords(tmp_path):
    (tmp_path / "names.txt").write_text("\ufeff外滩\n\n  Central Park \r\n", "utf-8")
    assert read_keywords(tmp_path / "names.txt") == ["外滩", "Central Park"]


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (None, r"cannot read the keywords .*nowhere.txt: No such file"),
        (b"\xff\xfe\x00\xd8", r"are no UTF-8 text; save the file as UTF-8"),
        (b"\n!?\n", r"hold no name in Han or Latin letters"),
    ],
)
def test_a_bad_file_is_named_in_one_sentence(tmp_path, content, answer):
    path = tmp_path / "nowhere.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=answer) as raised:
        read_keywords(path)
    assert str(path) in str(raised.value)
