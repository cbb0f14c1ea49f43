import multiprocessing
import os
import random
import threading

import pytest

from kit.errors import KitError, UsageError
from kit.retrieval.build import build
from kit.retrieval.lexicon import Entry
from kit.retrieval.names import BadName, Name, make_name
from kit.retrieval.personal import PersonalList, add_to_file, remove_from_file
from kit.text.phonemes import CharacterInventory, PhonemeInventory

INVENTORY = PhonemeInventory.default()
CHARACTERS = "东西南北中山路河和园原源圆"


def name(text, kind="", weight="", sounds=""):
    return make_name(INVENTORY, text, kind, weight, sounds)


def sound(symbols):
    return bytes(INVENTORY.encode(symbols.split()))


def contents(lexicon):
    return {lexicon.phonemes(key): lexicon.entries(key) for key in range(lexicon.keys)}


def load(tmp_path, text):
    (tmp_path / "mine.tsv").write_text(text)
    return PersonalList.load(tmp_path / "mine.tsv", INVENTORY)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_list_is_a_small_database(tmp_path, seed):
    """The same lines give the same lexicon, built in quite another way."""
    rng = random.Random(seed)
    texts = sorted({"".join(rng.choices(CHARACTERS, k=rng.randint(1, 3))) for _ in range(60)})
    lines = [f"{text}\tpoi\t{rng.choice((1, 2))}\t{rng.choice(('', 'N IY OW|N AY'))}\n" for text in texts]
    mine = load(tmp_path, "".join(lines))
    database = build(tmp_path / "mine.tsv", tmp_path / "db", INVENTORY, dense=False)
    assert contents(mine) == contents(database) == contents(mine.snapshot())
    assert mine.longest == database.longest
    heard = b"".join(rng.choices(list(contents(mine)), k=20))
    assert mine.automaton.find_overlapping(heard) == database.automaton.find_overlapping(heard)


def test_names_come_and_go():
    mine = PersonalList(INVENTORY)
    assert (mine.keys, mine.longest, mine.hidden, mine.automaton.find_overlapping(b"\1\2")) == (0, 0, frozenset(), [])
    versions = {mine.version}
    mine.add(name("NIO", "car", "2", "N IY OW | N AY OW"), name("新天地"))
    versions.add(mine.version)
    assert contents(mine)[sound("N AY OW")] == [Entry("NIO", "car", 2.0)] and mine.keys == 3
    mine.add(name("nio", "shop"))  # the same name in another form
    versions.add(mine.version)
    assert sorted(entry.text for entries in contents(mine).values() for entry in entries) == ["nio", "新天地"]
    before = mine.snapshot()
    mine.remove("Nio!")
    versions.add(mine.version)
    assert mine.hidden == {"nio"}
    assert [entry.text for entries in contents(mine).values() for entry in entries] == ["新天地"]
    assert before.keys == 2 and before.version in versions
    mine.remove("外滩")
    assert mine.hidden == {"nio", "外滩"}
    mine.add(name("外滩"))
    assert mine.hidden == {"nio"}
    assert len(versions) == 4 and PersonalList(INVENTORY).version not in versions


def test_all_names_are_added_or_none():
    mine = PersonalList(INVENTORY)
    version = mine.version
    with pytest.raises(BadName, match=r"how '\?!' is pronounced"):
        mine.add(name("外滩"), Name("?!"))
    assert mine.keys == 0 and mine.version == version


def test_homophones_stand_by_weight():
    mine = PersonalList(INVENTORY)
    mine.add(name("东园"), name("东原", weight="3"), name("东源"))
    assert [entry.text for entry in mine.entries(0)] == ["东原", "东园", "东源"]


def test_a_file_is_read_line_by_line_and_the_last_word_counts(tmp_path, capsys):
    lines = [
        "\ufeff-\t外滩",
        "NIO\tcar\t2\tN IY OW",
        "nio\t\t",
        "- \tOld  Home",
        "新天地\tx\tmany",
        "-\t新天地",
        "新天地",
    ]
    mine = load(tmp_path, "\n".join([*lines, "-", "?!", "Old Town", "-\told town"]))
    assert [entry.text for entries in contents(mine).values() for entry in entries] == ["新天地", "nio"]
    assert mine.hidden == {"外滩", "old home", "old town"}
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    assert "mine.tsv, line 5: the weight 'many'" in told[0] and "line 9: nobody can tell how '?!'" in told[1]
    assert told[2].endswith("2 lines left out (sound 1, weight 1)")


def test_an_empty_file_is_an_empty_list(tmp_path):
    mine = load(tmp_path, "")
    assert mine.keys == 0 and mine.hidden == frozenset()
    with pytest.raises(UsageError, match="cannot read the names"):
        PersonalList.load(tmp_path / "none.tsv", INVENTORY)


def test_characters_are_no_phonemes():
    with pytest.raises(KitError, match="hotwords are found by their phonemes"):
        PersonalList(CharacterInventory.of(["外滩"]))


def test_editing_a_file_changes_the_lines_about_one_name_only(tmp_path):
    path = tmp_path / "lists" / "mine.tsv"
    assert add_to_file(path, INVENTORY, "NIO", "car", "2", "N IY OW|N AY OW") == [sound("N IY OW"), sound("N AY OW")]
    with open(path, "a") as file:
        file.write("a line\tof\tsomebody else's\n\n-\t外滩\n")
    assert add_to_file(path, INVENTORY, "单县") == [sound("d an1 x ian4"), sound("sh an4 x ian4")]
    add_to_file(path, INVENTORY, " nio ", "shop")
    remove_from_file(path, "Old Home")
    add_to_file(path, INVENTORY, "外滩", weight="3")
    assert path.read_text() == "a line\tof\tsomebody else's\n单县\nnio\tshop\n-\tOld Home\n外滩\t\t3\n"
    remove_from_file(path, "NIO")
    assert path.read_text().endswith("外滩\t\t3\n-\tNIO\n")
    mine = PersonalList.load(path, INVENTORY)
    assert mine.hidden == {"old home", "nio"} and mine.keys == 3


def test_what_was_added_is_read_back(tmp_path):
    for text in ("<|im_end|>", "a\tb\nc", "\x1b[1mred", "{context}", "-1", "外滩"):
        path = tmp_path / "mine.tsv"
        path.unlink(missing_ok=True)
        sounds = add_to_file(path, INVENTORY, text)
        mine = PersonalList.load(path, INVENTORY)
        assert set(contents(mine)) == set(sounds)
        assert path.read_text().count("\n") == 1 and path.read_text()[:-1].isprintable()


def test_bad_edits_change_nothing(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("NIO\n")
    for columns in (("?!",), ("",), ("-",), ("-", "", "", "N"), ("NIO", "", "x"), ("NIO", "", "", "XX")):
        with pytest.raises(BadName):
            add_to_file(path, INVENTORY, *columns)
    with pytest.raises(BadName, match="there is no name"):
        remove_from_file(path, " ")
    assert path.read_text() == "NIO\n"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"mine\.tsv is no UTF-8 text"):
        remove_from_file(path, "NIO")
    with pytest.raises(KitError, match="cannot change .*: (Not a directory|File exists)"):
        remove_from_file(path / "list.tsv", "NIO")


def _add_some(path, number):
    for count in range(15):
        add_to_file(path, INVENTORY, CHARACTERS[number] + CHARACTERS[count % 13], weight=str(count))


def test_two_who_edit_a_file_lose_nothing_of_each_other(tmp_path):
    path = tmp_path / "mine.tsv"
    children = [
        multiprocessing.get_context("fork").Process(target=_add_some, args=(path, number)) for number in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(path.read_text().splitlines()) == 3 * 13
    assert os.listdir(tmp_path) == ["mine.tsv"]


def test_a_snapshot_agrees_with_itself_while_others_add():
    mine = PersonalList(INVENTORY)
    stop = threading.Event()

    def change():
        count = 0
        while not stop.is_set():
            text = CHARACTERS[count % 5] + CHARACTERS[count % 13]
            mine.add(name(text)) if count % 3 else mine.remove(text)
            count += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            now = mine.snapshot()
            heard = b"".join(contents(now))
            for start, end, key in now.automaton.find_overlapping(heard):
                assert now.phonemes(key) == heard[start:end] and now.entries(key)
    finally:
        stop.set()
        thread.join()
