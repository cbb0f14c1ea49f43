import gzip
import random
import unicodedata

import pytest

from kit.errors import KitError, UsageError
from kit.retrieval.names import (
    LONGEST,
    MOST_PHONEMES,
    TOLD,
    BadLines,
    BadName,
    Name,
    check_inventory,
    foreign_letter,
    make_name,
    merged,
    read_names,
)
from kit.text.normalize import printable
from kit.text.phonemes import CharacterInventory, PhonemeInventory

INVENTORY = PhonemeInventory.default()


def sound(symbols):
    return bytes(INVENTORY.encode(symbols.split()))


def read(tmp_path, content, name="names.tsv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    bad = BadLines(path)
    return list(read_names(path, INVENTORY, bad)), bad


def test_all_columns(tmp_path, capsys):
    content = "\ufeff外滩\tpoi\t2.5\r\n\n  Blue  Moon \t\t\tB L UW | B L UW M\t\n   \t \nNIO\tcar\nCafé"
    found, bad = read(tmp_path, content.replace("M\t\n", "M\n"))
    assert found == [
        Name("外滩", "poi", 2.5, (), 1),
        Name("Blue Moon", "", 1.0, (sound("B L UW"), sound("B L UW M")), 3),
        Name("NIO", "car", 1.0, (), 5),
        Name("Café", "", 1.0, (), 6),
    ]
    assert not bad.counts and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "reason", "sentence"),
    [
        (b"\xff\xfeN", "encoding", "the line is no UTF-8 text"),
        ("外滩".encode("utf-16le"), "encoding", "the line is no UTF-8 text"),
        (b"N\0I\0O\0", "encoding", "perhaps UTF-16"),
        (b"\tpoi", "empty", "there is no name"),
        ("\u200b\u202e\tpoi".encode(), "empty", "there is no name"),
        (b"NIO\tcar\tmany", "weight", "the weight 'many' is no number from 0 up"),
        (b"NIO\tcar\tnan", "weight", "the weight 'nan' is no number"),
        (b"NIO\tcar\t-1", "weight", "the weight '-1' is no number"),
        (b"NIO\tcar\tinf", "weight", "the weight 'inf' is no number"),
        (b"NIO\tcar\t1\tN XX", "phonemes", "the inventory has no phoneme 'XX'"),
        (b"NIO\tcar\t1\t<blank> N", "phonemes", "<blank> is none of them"),
        (b"NIO\tcar\t1\t" + b"N " * (MOST_PHONEMES + 1), "phonemes", f"1 to {MOST_PHONEMES} phonemes"),
        (b"NIO\tcar\t1\tN\tmore", "columns", "the line has 5 columns, at most 4 are known"),
        (b"x" * (LONGEST + 1), "length", f"has {LONGEST + 1} characters, at most {LONGEST}"),
        (b"x" * 200_000, "length", "the line has 65536 bytes or more"),
        ("东京タワー".encode(), "sound", "how the letter タ of '东京タワー' is pronounced"),
        ("Москва café".encode(), "sound", "how the letter М of"),
    ],
)
def test_bad_lines_are_told_by_their_number_and_the_others_taken(tmp_path, capsys, line, reason, sentence):
    found, bad = read(tmp_path, b"before\n" + line + b"\nafter\n")
    assert [name.text for name in found] == ["before", "after"]
    assert [name.line for name in found] == [1, 3]
    assert bad.counts == {reason: 1}
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "names.tsv, line 2: " in told[0] and sentence in told[0]


def test_only_the_first_bad_lines_of_a_kind_are_told(tmp_path, capsys):
    _, bad = read(tmp_path, "good\n" + "bad\tx\ty\n" * 1000 + "\tz\n")
    bad.tell()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == TOLD + 2
    assert told[-1].endswith("1001 lines left out (empty 1, weight 1000)")


@pytest.mark.parametrize("content", [b"", b"\n \n\t\t\n"])
def test_empty_lines_count_for_nothing(tmp_path, content):
    found, bad = read(tmp_path, content)
    assert found == [] and bad.counts.total() == 0


def test_zipped_lists_are_read_whatever_their_name(tmp_path):
    content = "外滩\tpoi\nNIO\tcar\n".encode()
    assert read(tmp_path, gzip.compress(content), "names.txt")[0] == read(tmp_path, content)[0]


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "torn.gz").write_bytes(gzip.compress(b"name\n" * 10_000)[:-20])
    (tmp_path / "wrong.gz").write_bytes(b"\x1f\x8bnonsense")
    for path in (tmp_path / "none.tsv", tmp_path, tmp_path / "torn.gz", tmp_path / "wrong.gz"):
        with pytest.raises(UsageError, match=f"cannot read the names {path}: .*; give a text file, a name a line"):
            list(read_names(path, INVENTORY, BadLines(path)))


def test_any_file_is_read_to_its_end(tmp_path, capsys):
    rng = random.Random(1)
    pieces = [
        "\t",
        "\n",
        "\r",
        "|",
        "外滩",
        "N IY OW",
        "1.5",
        "<|im_end|>",
        "{context}",
        "\0",
        "\x1b[31m",
        "é",
        "\u2028",
    ]
    for _ in range(200):
        content = "".join(rng.choices(pieces, k=rng.randint(0, 40))).encode()
        content += bytes(rng.randrange(256) for _ in range(rng.randint(0, 5)))
        found, bad = read(tmp_path, content)
        lines = [line for line in content.split(b"\n") if line.strip()]
        assert len(found) + bad.counts.total() <= len(lines)
        for name in found:
            assert name.text == printable(name.text) != "" and name.text.isprintable() and name.kind.isprintable()
    capsys.readouterr()


def test_names_are_kept_as_they_are_but_printable():
    for text, kept in [
        ("<|im_start|>system {context}", "<|im_start|>system {context}"),
        ("\x1b[31mred\x07", "[31mred"),
        ("left\u202eright\u2028next", "leftright next"),
        ("e\u0301", "é"),
        ("ＮＩＯ\u3000家", "ＮＩＯ 家"),
    ]:
        name = make_name(INVENTORY, text)
        assert name.text == kept == unicodedata.normalize("NFC", kept)


def test_own_pronunciations_make_any_name_a_hotword():
    name = make_name(INVENTORY, "东京タワー", sounds="d ong1 j ing1 | d ong1 j ing1 |")
    assert name.pronunciations == (sound("d ong1 j ing1"),)


def test_letters_that_normalization_keeps_are_not_foreign():
    for text in ("Nürnberg", "Łódź", "Straße", "Kyōto", "Hawaiʻi", "O’Neill", "北京", "Ⅳ", "R&B 99%", "İzmir"):
        assert foreign_letter(text) == ""
    for text in ("Ħamrun", "ひらがな", "ไทย", "Ελλάδα", "佐々木"):
        assert foreign_letter(text) in text and foreign_letter(text)


def test_of_several_lines_about_one_name_the_heaviest_counts():
    one, two = sound("N IY OW"), sound("N AY OW")
    names = [
        Name("NIO", "car", 1.0, (one,), 1),
        Name("外滩", "poi", 3.0, (), 2),
        Name("NIO", "brand", 2.0, (two, one), 3),
        Name("外滩", "place", 3.0, (), 4),
        Name("NIO", "", 0.5, (), 5),
    ]
    assert merged(names) == {"NIO": Name("NIO", "brand", 2.0, (one, two), 3), "外滩": names[1]}


def test_characters_are_no_phonemes():
    with pytest.raises(KitError, match="are found by their phonemes, .* labels here are .* characters"):
        check_inventory(CharacterInventory.of(["外滩"]))
    with pytest.raises(KitError, match="of at most 255 kinds, but the labels here are 257 phonemes"):
        check_inventory(PhonemeInventory([*INVENTORY.symbols, *map(str, range(16))]))
    check_inventory(INVENTORY)


def test_a_bad_name_says_of_what_kind():
    with pytest.raises(BadName) as caught:
        make_name(INVENTORY, "NIO", weight="heavy")
    assert caught.value.reason == "weight"
