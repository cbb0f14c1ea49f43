import gc
import json
import multiprocessing
import random
import time

import pytest
from pypinyin import Style, lazy_pinyin, pinyin
from pypinyin.constants import PHRASES_DICT, PINYIN_DICT
from pypinyin.contrib.tone_convert import to_normal

from kit.errors import KitError
from kit.text import phonemes
from kit.text.normalize import normalize, units
from kit.text.phonemes import (
    BLANK,
    CharacterInventory,
    PhonemeInventory,
    from_ipa,
    phonemize,
    pronounce,
    read_phrase,
    split_syllable,
)

INVENTORY = PhonemeInventory.default()


def edits(left, right) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        corner, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            corner, row[j] = row[j], min(corner + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def test_inventory_is_fixed():
    assert len(INVENTORY) == 241
    assert INVENTORY.symbols[0] == "<blank>"
    assert INVENTORY.digest == "c55801c28d6bf62dc4c1f00ab4afef827387e42e8feed695d510ad5212d92b42"


def test_inventory_codes_and_decodes():
    ids = list(range(len(INVENTORY)))
    assert INVENTORY.encode(INVENTORY.decode(ids)) == ids
    with pytest.raises(KitError, match="'xx' is not in the inventory"):
        INVENTORY.encode(["b", "xx"])
    for index in (-1, len(INVENTORY)):
        with pytest.raises(KitError, match="outside the inventory"):
            INVENTORY.decode([0, index])


def test_inventory_is_saved_whole(tmp_path):
    INVENTORY.save(tmp_path / "phonemes.json")
    loaded = PhonemeInventory.load(tmp_path / "phonemes.json")
    assert loaded == INVENTORY
    assert loaded.digest == INVENTORY.digest
    assert PhonemeInventory(INVENTORY.symbols[:-1]).digest != INVENTORY.digest


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"symbols": 3}', '{"symbols": [1]}', '{"symbols": ["a"]}', '{"symbols": ["<blank>", "a", "a"]}'],
)
def test_broken_inventory_is_refused(tmp_path, content):
    (tmp_path / "phonemes.json").write_text(content)
    with pytest.raises(KitError):
        PhonemeInventory.load(tmp_path / "phonemes.json")


def test_missing_inventory_is_named(tmp_path):
    with pytest.raises(KitError, match=r"nowhere\.json"):
        PhonemeInventory.load(tmp_path / "nowhere.json")


def test_every_reading_of_every_character_is_in_the_inventory():
    characters = [chr(code) for code in PINYIN_DICT]
    readings = {reading for options in pinyin(characters, heteronym=True, style=Style.TONE) for reading in options}
    readings |= {reading for phrase in PHRASES_DICT.values() for options in phrase for reading in options}
    assert len(readings) > 1500
    for reading in readings:
        assert INVENTORY.encode(split_syllable(reading)), reading


def test_every_known_character_is_pronounced():
    gc.disable()  # pypinyin makes many small objects
    known = [normalize(chr(code)) for code in PINYIN_DICT]
    known = [character for character in known if len(character) == 1]
    assert len(known) > 41000
    for unit, found in pronounce("".join(known)):
        assert INVENTORY.encode(found), unit
    gc.enable()


def test_syllables_agree_with_the_styles_of_pypinyin():
    """pypinyin's own strict styles split syllables by tables of their own."""
    checked = 0
    for code, options in PINYIN_DICT.items():
        reading = options.split(",")[0]
        if to_normal(reading) in ("m", "n", "ng", "hm", "hng", "ê"):
            continue
        character = chr(code)
        initial = lazy_pinyin(character, style=Style.INITIALS, strict=True)[0]
        final = lazy_pinyin(character, style=Style.FINALS_TONE3, strict=True, neutral_tone_with_five=True)[0]
        assert list(split_syllable(reading)) == [part for part in (initial, final) if part], (character, reading)
        checked += 1
        if checked > 6000:
            break


def test_phrases_are_read_as_pypinyin_reads_them():
    rng = random.Random(5)
    common = [chr(code) for code in range(0x4E00, 0x9FA6)]
    phrases = rng.sample(sorted(PHRASES_DICT), 3000)
    texts = [
        rng.choice(phrases) + "".join(rng.choices(common, k=rng.randint(0, 4))) + rng.choice(phrases)
        for _ in range(3000)
    ]
    for text in texts:
        assert read_phrase(text) == lazy_pinyin(text, style=Style.TONE), text


@pytest.mark.parametrize(
    ("syllable", "expected"),
    [
        ("háng", "h ang2"), ("yī", "i1"), ("wǔ", "u3"), ("yuán", "van2"), ("nǚ", "n v3"), ("lüè", "l ve4"),
        ("xué", "x ve2"), ("er", "er5"), ("shì", "sh i4"), ("wēng", "ueng1"), ("guì", "g uei4"), ("liú", "l iou2"),
        ("ń", "en2"), ("ǹg", "en4"), ("ḿ", "m u2"), ("hm", "h en5"), ("ề", "ei4"), ("yō", "o1"), ("", ""),
    ],
)  # fmt: skip
def test_syllables(syllable, expected):
    assert " ".join(split_syllable(syllable)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("导航", "d ao3 h ang2"),
        ("重庆银行", "ch ong2 q ing4 in2 h ang2"),  # both are read otherwise when alone
        ("重量行走", "zh ong4 l iang4 x ing2 z ou3"),
        ("播放hello", "b o1 f ang4 HH AH L OW"),
        ("q", "K Y UW"),
        ("it's", "IH T S"),
        ("", ""),
    ],
)
def test_phrases(text, expected):
    assert " ".join(phonemize(text)) == expected


def test_units_are_those_of_the_text():
    rng = random.Random(1)
    known = ["the", "music", "navigate", "it's", *"abcxyz"]
    for _ in range(300):
        parts = [rng.choice(known) if rng.random() < 0.4 else chr(rng.randrange(0x4E00, 0x9000)) for _ in range(8)]
        text = normalize(" ".join(parts))
        pronounced = pronounce(text)
        assert [unit for unit, _ in pronounced] == units(text)
        assert [p for _, found in pronounced for p in found] == phonemize(text)


def test_unknown_characters_are_silent_and_lose_nobody_else():
    assert pronounce("一\U000323af\U000323ae二") == [
        ("一", ["i1"]), ("\U000323af", []), ("\U000323ae", []), ("二", ["er4"]),
    ]  # fmt: skip


def test_every_word_of_the_dictionary_is_in_the_inventory():
    words = phonemes._dictionary()
    assert len(words) > 120_000
    assert {phone for phones in words.values() for phone in phones} == set(phonemes.ARPABET)
    assert all(len(phonemes._english(letter)) for letter in "abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize(
    ("word", "expected"),
    [("rihanna's", "Z"), ("batik's", "S"), ("zelch's", "IH Z"), ("spotify's", "Z")],
)
def test_possessives_outside_the_dictionary(monkeypatch, word, expected):
    stems = {"rihanna": "riˈænə", "batik": "bɐtˈiːk", "zelch": "zˈɛltʃ", "spotify": "spˈɑːɾɪfˌaɪ"}
    monkeypatch.setattr(phonemes, "_espeak_ipa", stems.__getitem__)
    monkeypatch.setattr(phonemes, "_dictionary", dict)
    phonemes.spoken_by_rule.cache_clear()
    stem = from_ipa(stems[word.removesuffix("'s")])
    assert " ".join(phonemes._english(word)) == " ".join([*stem, expected])
    phonemes.spoken_by_rule.cache_clear()


@pytest.mark.parametrize(
    ("ipa", "expected"),
    [
        ("tʃˈæmpiənʃˌɪp", "CH AE M P IY AH N SH IH P"),
        ("bˈʌʔn̩", "B AH T AH N"),
        ("(fr)ʒˈɑ̃(en)", "ZH AA N"),
        ("sɪkˈɑːɹɹə", "S IH K AA R AH"),
        ("fˈoːɹ", "F AO R"),
        ("bˈɜːd", "B ER D"),
        ("ǃ", ""),
    ],
)
def test_ipa(ipa, expected):
    assert " ".join(from_ipa(ipa)) == expected


def test_words_without_any_sound_are_spelled(monkeypatch):
    monkeypatch.setattr(phonemes, "_espeak_ipa", lambda word: "")
    phonemes.spoken_by_rule.cache_clear()
    assert " ".join(phonemes.spoken_by_rule("qx")) == "K Y UW EH K S"
    phonemes.spoken_by_rule.cache_clear()


def test_rules_agree_with_the_dictionary():
    words = sorted(word for word in phonemes._dictionary() if word.isalpha() and len(word) > 1)
    sample = random.Random(2).sample(words, 200)
    wrong = total = 0
    for word in sample:
        expected, found = phonemes._dictionary()[word], phonemes.spoken_by_rule(word)
        assert INVENTORY.encode(found), word
        wrong += edits(found, expected)
        total += len(expected)
    print(f"\neSpeak NG against cmudict: phoneme error rate {100 * wrong / total:.1f} % of {total}")
    assert wrong / total < 0.2


def test_spoken_words_are_remembered(monkeypatch):
    asked = []
    monkeypatch.setattr(phonemes, "_espeak_ipa", lambda word: asked.append(word) or "zˈɪɡ")
    phonemes.spoken_by_rule.cache_clear()
    assert phonemize("zzyxq") == phonemize("zzyxq") == ["Z", "IH", "G"]
    assert asked == ["zzyxq"]
    phonemes.spoken_by_rule.cache_clear()


def test_words_asked_together_sound_as_words_asked_alone(monkeypatch):
    rng = random.Random(7)
    texts = [normalize("".join(rng.choices("abeiklmnorstuz", k=rng.randint(2, 9)))) for _ in range(60)]
    texts += ["zorvik's", "播放blenmar", "the grumolf", "oolor'een", ""]
    phonemes.spoken_by_rule.cache_clear()
    alone = [phonemize(text) for text in texts]
    phonemes.spoken_by_rule.cache_clear()
    phonemes.ask_ahead(texts)
    monkeypatch.setattr(phonemes, "_espeak_ipas", lambda words: [pytest.fail(word) for word in words])
    assert [phonemize(text) for text in texts] == alone
    phonemes.ask_ahead(texts[::-1] * 2)
    phonemes.spoken_by_rule.cache_clear()


def _say_in_child(word, pipe):
    pipe.send((phonemize(word), list(phonemes._workers)))


def test_a_forked_child_has_a_worker_of_its_own():
    phonemize("vrimlo")
    ours, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_say_in_child, args=("vrimla", theirs))
    child.start()
    assert ours.poll(60)
    spoken, workers = ours.recv()
    child.join(60)
    assert spoken == phonemize("vrimla")
    assert child.pid in workers


def test_a_worker_that_died_is_replaced():
    expected = phonemize("blorvik")
    phonemes.spoken_by_rule.cache_clear()
    phonemes._worker().close()
    with pytest.raises(KitError):
        phonemize("blorvik")
    assert phonemize("blorvik") == expected


def test_mandarin_names_are_pronounced_quickly():
    rng = random.Random(3)
    syllables = "北京上海南西东中山路店小区人民医院银行大学公园广场花苑城镇村口站"
    names = ["".join(rng.choices(syllables, k=6)) for _ in range(4000)]
    phonemize(names[0])
    start = time.process_time()
    for name in names:
        phonemize(name)
    rate = len(names) / (time.process_time() - start)
    print(f"\n{rate:.0f} names of 6 characters a second")
    assert rate > 10_000  # some 60,000 on an idle core


def test_inventory_file_is_plain_json(tmp_path):
    INVENTORY.save(tmp_path / "phonemes.json")
    assert json.loads((tmp_path / "phonemes.json").read_text())["symbols"] == list(INVENTORY.symbols)


def test_characters_in_place_of_phonemes(tmp_path):
    inventory = CharacterInventory.of(["打开天窗", "turn on the radio", "播放hello"])
    assert inventory.symbols[0] == BLANK
    assert inventory.spell("打开hello") == [("打", ["打"]), ("开", ["开"]), ("hello", list("hello"))]
    ids = inventory.encode(["打", "h", "龘"])
    assert inventory.decode(ids) == ["打", "h", CharacterInventory.UNKNOWN]
    inventory.save(tmp_path / "symbols.json")
    again = PhonemeInventory.load(tmp_path / "symbols.json")
    assert isinstance(again, CharacterInventory)
    assert again == inventory
    assert again != PhonemeInventory(inventory.symbols)


def test_every_normalized_text_can_be_spelled_in_characters():
    inventory = CharacterInventory.of([])
    for _, symbols in inventory.spell("don't stop"):
        assert CharacterInventory.UNKNOWN not in inventory.decode(inventory.encode(symbols))


def test_phonemes_are_spelled_as_they_are_pronounced():
    assert PhonemeInventory.default().spell("打开radio") == pronounce("打开radio")
