import json
import multiprocessing
import os
import random
import shutil

import numpy as np
import pytest
from strings import wait_for

from kit.errors import KitError, UsageError
from kit.files import held
from kit.retrieval import build as building
from kit.retrieval import sounds as sounding
from kit.retrieval.build import build
from kit.retrieval.database import ARRAYS, Database, Shared
from kit.retrieval.lexicon import Entry, MemoryLexicon
from kit.retrieval.manifest import Manifest
from kit.text.normalize import normalize
from kit.text.phonemes import CharacterInventory, PhonemeInventory
from kit.text.variants import pronunciations

INVENTORY = PhonemeInventory.default()
CHARACTERS = "东西南北中山路河和重长单乐行园原源圆阳羊洋"
WORDS = ["blue", "moon", "route", "radio", "data", "NIO", "Café"]


def rows(count, seed):
    """Lines of a list with many homophones, some duplicates and own pronunciations."""
    rng = random.Random(seed)
    for _ in range(count):
        text = "".join(rng.choices(CHARACTERS, k=rng.randint(1, 3)))
        text = rng.choice([text, text, text, f"{text}{rng.choice(WORDS)}", " ".join(rng.sample(WORDS, 2))])
        sounds = "|".join(" ".join(rng.choices(INVENTORY.symbols[1:], k=rng.randint(1, 9))) for _ in range(2))
        own = sounds if rng.random() < 0.1 else ""
        yield text, rng.choice(["poi", "car", ""]), rng.choice(["", "0.1", "2", "1e3"]), own


def write(path, lines):
    path.write_text("".join("\t".join(line) + "\n" for line in lines), "utf-8")
    return path


def make(folder, lines, **options):
    options = {"dense": False, **options}
    return build(write(folder.parent / "names.tsv", lines), folder, INVENTORY, **options)


@pytest.fixture
def database(tmp_path):
    return make(tmp_path / "db", rows(60, 0))


def contents(database):
    """All of a lexicon in plain Python: phoneme string -> entries."""
    return {database.phonemes(key): database.entries(key) for key in range(database.keys)}


def by_hand(lines):
    """The same, computed from the lines."""
    entries, own = {}, {}
    for text, kind, weight, sounds in lines:
        entry = Entry(text, kind, float(weight or 1))
        if text not in entries or entry.weight > entries[text].weight:
            entries[text] = entry
        own.setdefault(text, []).extend(INVENTORY.encode(one.split()) for one in sounds.split("|") if one)
    found = {}
    for text, entry in entries.items():
        said = own[text] or map(INVENTORY.encode, pronunciations(normalize(text)))
        for string in {bytes(phonemes) for phonemes in said}:
            found.setdefault(string, []).append(entry)
    return {string: sorted(found[string], key=lambda one: (-one.weight, one.text)) for string in sorted(found)}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_database_has_the_names_of_the_list_by_their_sound(tmp_path, seed):
    lines = list(rows(300, seed))
    database = make(tmp_path / "db", lines)
    expected = by_hand(lines)
    assert list(contents(database).items()) == list(expected.items())
    assert database.longest == max(map(len, expected))
    assert database.manifest.names == len({line[0] for line in lines})
    assert database.manifest.pronunciations == sum(map(len, expected.values()))
    told = {
        text: {string for string, names in expected.items() if text in [one.text for one in names]}
        for text, *_ in lines
    }
    assert {text: set(strings) for text, strings in database.sounds()} == told
    for key in range(database.keys):
        assert bytes(database.strings[database.starts[key] : database.starts[key + 1]]) == database.phonemes(key)


def test_the_automaton_finds_every_key_wherever_it_stands(tmp_path):
    database = make(tmp_path / "db", rows(200, 4))
    rng = random.Random(4)
    strings = [database.phonemes(key) for key in range(database.keys)]
    for _ in range(30):
        heard = b"".join(rng.choices(strings, k=4)) + bytes(rng.choices(range(1, 241), k=5))
        expected = {
            (start, start + len(string), key)
            for key, string in enumerate(strings)
            for start in range(len(heard))
            if heard.startswith(string, start)
        }
        assert set(database.automaton.find_overlapping(heard)) == expected
    memory = MemoryLexicon(contents(database), "1")
    assert contents(memory) == contents(database) and memory.longest == database.longest
    assert memory.automaton.find_overlapping(heard) == database.automaton.find_overlapping(heard)


def test_several_processes_say_the_same_as_one(tmp_path, monkeypatch):
    lines = list(rows(60, 5))
    alone = make(tmp_path / "alone", lines)
    monkeypatch.setattr(sounding, "FEW", 0)
    monkeypatch.setattr(sounding, "_BATCH", 7)
    together = make(tmp_path / "together", lines, workers=2)
    assert contents(together) == contents(alone)
    assert data_of(together) == data_of(alone)


def data_of(database):
    return {path.name: path.read_bytes() for path in database.folder.iterdir()}


def test_a_process_that_ends_is_told(monkeypatch):
    monkeypatch.setattr(sounding, "FEW", 0)
    monkeypatch.setattr(sounding.sys, "executable", "/bin/true")
    with pytest.raises(KitError, match="a process that pronounces names ended with status 0; build again"):
        sounding.all_sounds(["外滩"], INVENTORY, 1)


def test_a_failure_in_a_process_is_told_as_it_is(monkeypatch, tmp_path):
    (tmp_path / "espeakng_loader.py").write_text("def get_library_path():\n    return '/none'\n")
    monkeypatch.setattr(sounding, "FEW", 0)
    monkeypatch.setattr(sounding.sys, "path", [str(tmp_path), *sounding.sys.path])
    with pytest.raises(KitError, match=r"the speech program \(eSpeak NG\) ended unexpectedly"):
        sounding.all_sounds(["zvorvik"], INVENTORY, 1)


def watched(monkeypatch):
    """The names that builds pronounce by the rules from here on."""
    asked, real = [], sounding.all_sounds
    monkeypatch.setattr(building, "all_sounds", lambda texts, *rest: asked.extend(texts) or real(texts, *rest))
    return asked


def test_a_rebuild_asks_only_for_new_names_and_equals_a_new_build(tmp_path, monkeypatch):
    lines = list(rows(200, 6))
    make(tmp_path / "db", lines)
    changed = [*lines[20:], ("新天地", "poi", "", ""), (lines[30][0], "", "7", ""), ("东山", "", "", "N IY OW")]
    asked = []
    monkeypatch.setattr(
        building, "all_sounds", lambda texts, *rest: asked.extend(texts) or sounding.all_sounds(texts, *rest)
    )
    again = make(tmp_path / "db", changed)
    kept = {text for text, *_, own in lines if not own} - {text for text, *_, own in lines if own}
    assert "新天地" in asked and not set(asked) & kept
    assert data_of(again) == data_of(make(tmp_path / "new", changed))
    assert [path.name for path in (tmp_path / "db").iterdir() if path.is_dir()] == [again.version]


def test_own_pronunciations_are_forgotten_with_their_line(tmp_path):
    make(tmp_path / "db", [("NIO", "", "", "B L UW")])
    assert contents(make(tmp_path / "db", [("NIO", "", "", "")])) == by_hand([("NIO", "", "", "")])


def test_other_rules_pronounce_all_names_anew(tmp_path, monkeypatch, database):
    asked = []
    monkeypatch.setattr(building, "rules", lambda: "others")
    monkeypatch.setattr(
        building, "all_sounds", lambda texts, *rest: asked.extend(texts) or sounding.all_sounds(texts, *rest)
    )
    again = make(tmp_path / "db", rows(60, 0))
    assert {text for (text, _), own in zip(again.sounds(), again.own, strict=True) if not own} == set(asked)


def test_what_is_left_out_is_counted(tmp_path, capsys):
    database = make(
        tmp_path / "db", [("外滩", "", "", ""), ("外滩", "", "x", ""), ("!?", "", "", ""), ("…", "", "", "")]
    )
    assert database.manifest.refused == {"sound": 2, "weight": 1}
    told = capsys.readouterr().err
    assert "names.tsv, line 3: nobody can tell how '!?' is pronounced" in told
    assert told.endswith("names.tsv: 3 lines left out (sound 2, weight 1)\n")


def test_a_list_of_which_nothing_is_left_is_one_sentence(tmp_path, database):
    for lines in ([], [("!", "", "", "")]):
        with pytest.raises(UsageError, match=r"names\.tsv has no name that can be used; write one a line"):
            make(tmp_path / "db", lines)
    assert Database.open(tmp_path / "db").version == database.version
    with pytest.raises(UsageError, match="cannot read the names"):
        build(tmp_path / "none.tsv", tmp_path / "nowhere", INVENTORY)
    assert not (tmp_path / "nowhere").exists()


def test_characters_have_no_database(tmp_path):
    with pytest.raises(KitError, match="hotwords are found by their phonemes"):
        build(write(tmp_path / "names.tsv", [("外滩",)]), tmp_path / "db", CharacterInventory.of(["外滩"]))


def test_an_interrupted_build_leaves_the_database_as_it_was(tmp_path, monkeypatch, database):
    before = contents(database)

    def stop(*_):
        raise KeyboardInterrupt

    for place in ("_write", "_members", "build_automaton", "_files"):
        with monkeypatch.context() as patch:
            patch.setattr(building, place, stop)
            with pytest.raises(KeyboardInterrupt):
                build(write(tmp_path / "names.tsv", rows(80, 7)), tmp_path / "db", INVENTORY)
        assert contents(Database.open(tmp_path / "db")) == before
        assert sorted(path.name for path in (tmp_path / "db").iterdir()) == [database.version, "manifest.json"]


def _build_and_die(folder, place):
    setattr(building, place, lambda *_: os._exit(9))
    make(folder, rows(80, 7))


@pytest.mark.parametrize("place", ["_arrays", "build_automaton", "_remove_older"])
def test_a_killed_build_leaves_a_database_and_the_next_one_clears_up(tmp_path, database, place):
    child = multiprocessing.get_context("fork").Process(target=_build_and_die, args=(tmp_path / "db", place))
    child.start()
    child.join(60)
    assert child.exitcode == 9
    assert len(list((tmp_path / "db").iterdir())) == 3  # something was left behind
    expected = by_hand(rows(80, 7)) if place == "_remove_older" else contents(database)
    assert contents(Database.open(tmp_path / "db")) == expected
    again = make(tmp_path / "db", rows(70, 8))
    assert sorted(path.name for path in (tmp_path / "db").iterdir()) == [again.version, "manifest.json"]


def test_two_builds_never_meet(tmp_path, database):
    with held(tmp_path / "db"):
        with pytest.raises(KitError, match="another process is building .*db; wait for it or stop it"):
            make(tmp_path / "db", rows(10, 0))
    make(tmp_path / "db", rows(10, 0))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(UsageError, match="is not the manifest of a hotword database; name another folder"):
        make(tmp_path / "db", rows(10, 0))
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match="a file stands where a folder is wanted"):
        make(tmp_path / "file", rows(10, 0))


@pytest.mark.parametrize("name", [*(f"{name}.npy" for name in ARRAYS), "automaton.bin", "kinds.txt", "phonemes.json"])
def test_a_file_that_is_not_whole_is_named(tmp_path, database, name):
    path = database.folder / name
    whole = path.read_bytes()
    for content, what in ((whole[:-1], "is torn"), (whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:], "is damaged")):
        path.write_bytes(content)
        with pytest.raises(KitError, match=f"{name} {what}.*; build it again with python -m kit hotwords build"):
            Database.open(tmp_path / "db")
    path.unlink()
    with pytest.raises(KitError, match=f"cannot read .*{name}: No such file"):
        Database.open(tmp_path / "db")
    make(tmp_path / "db", rows(60, 0))  # a damaged one is no obstacle


def past_all_sums(starts):
    """Differences of these numbers are above 0, as a machine subtracts."""
    most = np.iinfo(np.int64).max
    return np.concatenate([[0, most, -most - 1, -1], starts[4:]])


WRONG = {
    "starts": [
        lambda a: a[::-1],
        lambda a: a + 1,
        lambda a: a[:-1],
        lambda a: a[:0],
        lambda a: a.astype(np.int32),
        lambda a: a[None],
        past_all_sums,
    ],
    "text_starts": [lambda a: a[::-1], lambda a: np.append(a, a[-1])],
    "member_starts": [lambda a: a * 2, lambda a: np.where(a == a[1], a[2], a)],
    "strings": [lambda a: a * 0, lambda a: a * 0 + 255, lambda a: a[:-1], lambda a: a[:0]],
    "members": [lambda a: a + len(a), lambda a: a[:-1], lambda a: a[:0]],
    "kinds": [lambda a: a + 3, lambda a: a[:-1], lambda a: a[:0]],
    "own": [lambda a: a[:-1], lambda a: a.astype(np.uint8)],
    "weights": [lambda a: a * np.nan, lambda a: a[:-1], lambda a: a[:0]],
}


@pytest.mark.parametrize("name", WRONG)
def test_numbers_that_lead_astray_are_refused_even_with_right_checksums(tmp_path, database, name):
    path = database.folder / f"{name}.npy"
    right = np.load(path)  # a copy: the database maps the file that is overwritten
    for spoil in WRONG[name]:
        np.save(path, spoil(right))
        database.seal(path.name)
        with pytest.raises(KitError, match=r"db/.*\.npy is damaged; build it again"):
            Database.open(tmp_path / "db")


def test_kinds_that_are_no_text_are_refused(tmp_path, database):
    (database.folder / "kinds.txt").write_bytes(b"poi\n\xff")
    database.seal("kinds.txt")
    with pytest.raises(KitError, match=r"kinds\.txt is damaged; build it again"):
        Database.open(tmp_path / "db")


def test_an_automaton_of_other_names_is_refused(tmp_path, database):
    other = make(tmp_path / "other", rows(60, 9))
    for content in ((other.folder / "automaton.bin").read_bytes(), b"nonsense", b""):
        (database.folder / "automaton.bin").write_bytes(content)
        database.seal("automaton.bin")
        with pytest.raises(KitError, match=r"automaton\.bin is damaged"):
            Database.open(tmp_path / "db")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 2}, "is of format version 2, this kit knows 1; update the kit, or build it again"),
        ({"format": "else"}, "is not the manifest of a hotword database"),
        ({"keys": 0}, "manifest.json is damaged: a value is missing or wrong"),
        ({"keys": True}, "a value is missing or wrong"),
        ({"build": "../db"}, "a value is missing or wrong"),
        ({"build": 3}, "a value is missing or wrong"),
        ({"files": {"../x": {"size": 1, "crc32": ""}}}, "a value is missing or wrong"),
        ({"files": {"x": {"size": "1", "crc32": ""}}}, "a value is missing or wrong"),
        ({"files": []}, "a value is missing or wrong"),
        ({"files": {}}, "has no phonemes.json"),
        ({"inventory": {}}, "a value is missing or wrong"),
        ({"build": "nowhere"}, "cannot read .*nowhere/phonemes.json: No such file"),
        ({"keys": 10**12}, "starts.npy is damaged"),
        ({"names": 1}, "weights.npy is damaged"),
    ],
)
def test_a_manifest_that_is_wrong_is_one_sentence(tmp_path, database, change, sentence):
    path = tmp_path / "db" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(KitError, match=sentence):
        Database.open(tmp_path / "db")


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", '{"format": "nim4-kit hotwords", "version": 1}'])
def test_a_manifest_that_is_damaged_is_one_sentence(tmp_path, database, content):
    (tmp_path / "db" / "manifest.json").write_text(content)
    with pytest.raises(KitError, match=r"manifest\.json is (damaged|not the manifest)"):
        Database.open(tmp_path / "db")


def test_a_folder_without_a_database_is_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(UsageError, match=r"is no hotword database: manifest\.json cannot be read"):
            Database.open(folder)


def test_a_foreign_inventory_is_refused(tmp_path, database):
    other = PhonemeInventory([INVENTORY.symbols[0], *INVENTORY.symbols[:0:-1]])
    with pytest.raises(KitError, match=r"was built with another phoneme inventory \(241 symbols\)"):
        Database.open(tmp_path / "db", other)
    assert Database.open(tmp_path / "db", INVENTORY).inventory == INVENTORY


def test_files_can_be_added_to_a_version(tmp_path, database):
    (database.folder / "more.json").write_text("{}")
    with pytest.raises(KitError, match="has no more.json"):
        database.verified("more.json")
    database.seal("more.json")
    assert database.verified("more.json").read_text() == "{}"
    assert Database.open(tmp_path / "db").verified("more.json")
    (database.folder / "more.json").write_text("[]")
    with pytest.raises(KitError, match=r"more\.json is damaged"):
        database.verified("more.json")
    make(tmp_path / "db", rows(10, 1))
    with pytest.raises(KitError, match="was built anew meanwhile"):
        database.seal("more.json")


def test_who_has_a_version_open_keeps_it(tmp_path, database):
    before = contents(database)
    make(tmp_path / "db", rows(50, 11))
    assert not database.folder.exists()
    assert contents(database) == before and database.automaton.find_overlapping(database.phonemes(0))


def test_a_version_that_is_replaced_between_two_looks_is_looked_for_again(tmp_path, database, monkeypatch):
    real, first = Manifest.read, database.manifest
    make(tmp_path / "db", rows(50, 11))
    looks = iter([lambda _: first])
    monkeypatch.setattr(Manifest, "read", lambda folder: next(looks, real)(folder))
    assert contents(Database.open(tmp_path / "db")) == by_hand(rows(50, 11))


def test_a_shared_database_goes_over_to_the_new_version(tmp_path, database):
    shared = Shared.of(tmp_path / "db", INVENTORY)
    assert shared is Shared.of(str(tmp_path / "db"), INVENTORY)
    old = shared.current()
    assert old.version == database.version and shared.current() is old
    again = make(tmp_path / "db", rows(50, 12))
    wait_for(lambda: shared.current().version == again.version)
    assert contents(shared.current()) == contents(again)


def test_a_shared_database_stays_with_what_it_has_where_the_new_one_is_damaged(tmp_path, database, capsys):
    shared = Shared.of(tmp_path / "db", INVENTORY)
    expected = contents(shared.current())
    again = make(tmp_path / "db", rows(50, 13))
    (again.folder / "starts.npy").write_bytes(b"")
    capsys.readouterr()
    told = []
    wait_for(lambda: shared.current() and told.append(capsys.readouterr().err) is None and any(told))
    for _ in range(20):
        assert contents(shared.current()) == expected
    assert "starts.npy is torn" in "".join(told) and "; the version before stays in use" in "".join(told)
    assert capsys.readouterr().err == ""
    shutil.rmtree(tmp_path / "db")
    assert contents(shared.current()) == expected
