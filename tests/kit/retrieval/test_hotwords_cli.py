import sys
from types import SimpleNamespace

import pytest

from kit import hotwords
from kit.cli import main
from kit.retrieval.database import Database
from kit.retrieval.personal import PersonalList
from kit.text.phonemes import PhonemeInventory, phonemize

NAMES = "新天地\tpoi\t2\n心天地\tpoi\n天地\tpoi\n南京东路\troad\nNIO\tcar\t3\tN IY OW|N AY OW\nbad\tx\ty\n"


def run(capsys, *line):
    code = main(["hotwords", *line])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture
def db(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.tsv").write_text(NAMES)
    code, out, err = run(capsys, "build", "names.tsv", "out=names.db", "threads=2", "dense=false")
    assert (code, out) == (0, "names.db\t5 names\t5 phoneme strings\t1 left out\n")
    assert "names.tsv, line 6: the weight 'y' is no number from 0 up; left out" in err
    assert "1 lines left out (weight 1)" in err
    return "names.db"


def test_search_in_a_text(db, capsys):
    code, out, err = run(capsys, "search", db, "去新天地吃饭!")
    assert code == 0
    assert out.splitlines() == [
        "exact\t0.000\t新天地\tpoi\t2\tx in1 t ian1 d i4",
        "exact\t0.000\t心天地\tpoi\t1\tx in1 t ian1 d i4",
        "exact\t0.000\t天地\tpoi\t1\tt ian1 d i4",
    ]
    assert "looking for q v4 x in1 t ian1 d i4" in err and "built with dense=false" in err


def test_search_in_phonemes(db, capsys):
    assert run(capsys, "search", db, "N AY OW", "shortest=3")[1] == "exact\t0.000\tNIO\tcar\t3\tN AY OW\n"
    assert run(capsys, "search", db, "N AY OW") == (0, "", run(capsys, "search", db, "N AY OW")[2])
    assert run(capsys, "search", db, "N AY OW", "nearest=0")[2] == "looking for N AY OW\n"


def test_search_for_what_sounds_alike(db, capsys, monkeypatch):
    """With an index that finds everything the nearest by distance come first."""
    database = Database.open(db)
    (database.folder / "dense.npy").write_bytes(b"")
    database.seal("dense.npy")

    class Index:
        open = classmethod(lambda cls, database: cls())

        def search(self, strings, nearest):
            assert nearest >= 2
            return [[(key, 0.0) for key in range(database.keys)] for _ in strings]

    monkeypatch.setitem(sys.modules, "kit.retrieval.dense", SimpleNamespace(DenseIndex=Index))
    rows = [line.split("\t") for line in run(capsys, "search", db, "天地", "nearest=2")[1].splitlines()]
    found = [(row[0], row[2]) for row in rows]
    assert found == [("exact", "天地"), ("near", "新天地"), ("near", "心天地")]  # nothing else is anything like it
    assert [row[1] for row in rows] == ["0.000", "0.333", "0.333"]
    string = bytes(PhonemeInventory.default().encode(phonemize("心天地")))
    key = database.automaton.find_overlapping(string)[0][2]
    assert hotwords.alike(database, [string], 9, without=[])[0] == (0.0, key)
    assert key not in [other for _, other in hotwords.alike(database, [string], 9, without=[key])]


def test_build_makes_the_dense_index_if_it_is_wanted(tmp_path, capsys, monkeypatch):
    seen = []

    def build(database, progress):
        seen.append((database.keys, database.folder))
        progress("indexing")
        (database.folder / "dense.codes.npy").write_bytes(b"codes")

    monkeypatch.setitem(sys.modules, "kit.retrieval.dense", SimpleNamespace(DenseIndex=SimpleNamespace(build=build)))
    (tmp_path / "names.tsv").write_text(NAMES)
    assert run(capsys, "build", str(tmp_path / "names.tsv"), f"out={tmp_path}/db")[0] == 0
    database = Database.open(tmp_path / "db")
    assert database.verified("dense.codes.npy").read_bytes() == b"codes"
    assert [keys for keys, _ in seen] == [database.keys] and not seen[0][1].exists()


def test_stats_add_up(db, capsys):
    code, out, _ = run(capsys, "stats", db)
    rows = [line.split("\t") for line in out.splitlines()]
    told = {(topic, item): value for topic, item, value in rows}
    database = Database.open(db)
    assert code == 0 and len(told) == len(rows)
    assert told["database", "build"] == database.version
    assert told["database", "names"] == "5" and told["database", "phoneme strings"] == "5"
    assert told["database", "pronunciations"] == "6"
    assert told["left out", "weight"] == "1"
    assert [told["kind", kind] for kind in ("poi", "road", "car")] == ["3", "1", "1"]
    assert (told["phonemes", "least"], told["phonemes", "median"], told["phonemes", "most"]) == ("3", "4", "8")
    assert told["homophones", "strings of several names"] == "1" and told["homophones", "names under them"] == "2"
    assert told["homophones", "x in1 t ian1 d i4"] == "2: 新天地, 心天地"
    sizes = {item: int(size) for (topic, item), size in told.items() if topic == "bytes"}
    assert sizes.pop("all") == sum(sizes.values()) == sum(path.stat().st_size for path in database.folder.iterdir())


def test_a_personal_list(db, capsys):
    line = ("add", "mine.tsv", "蔚来", "kind=car", "weight=2", "phonemes=uei4 l ai2|N IY OW")
    assert run(capsys, *line) == (0, "", "mine.tsv: 蔚来 will be found by uei4 l ai2 | N IY OW\n")
    assert run(capsys, "add", "mine.tsv", "Blue Moon")[2].endswith("will be found by B L UW M UW N\n")
    assert run(capsys, "add", "mine.tsv", "--", "-1")[0] == 0
    assert run(capsys, "remove", "mine.tsv", "NIO") == (0, "", "mine.tsv: NIO will be no hint\n")
    mine = PersonalList.load("mine.tsv", PhonemeInventory.default())
    assert mine.keys == 4 and mine.hidden == {"nio"}


@pytest.mark.parametrize(
    ("line", "code", "answer"),
    [
        ([], 2, "hotwords: one of build, search, stats, calibrate, add, remove"),
        (["serach"], 2, "hotwords serach: there is no such command; did you mean search?"),
        (["build"], 2, "hotwords build is written: python -m kit hotwords build NAMES out=DB"),
        (["build", "names.tsv"], 2, "hotwords build needs a folder for the database: out=DB"),
        (["build", "none.tsv", "out=x"], 2, "cannot read the names none.tsv: No such file or directory"),
        (["build", "names.tsv", "ot=x"], 2, "unknown option ot of hotwords build; did you mean out?"),
        (["build", "names.tsv", "out=x", "threads=0"], 2, "threads=0 must be a whole number from 1 up"),
        (["build", "names.tsv", "out=x", "dense=maybe"], 2, "dense=maybe must be true or false"),
        (["search", "names.db"], 2, 'python -m kit hotwords search DB "text or phonemes"'),
        (["search", "names.db", "?!"], 2, "nobody can tell how '?!' is pronounced"),
        (["search", "none", "NIO"], 2, "none is no hotword database"),
        (["stats", "names.db", "x=1"], 2, "unknown option x of hotwords stats; it has none"),
        (["stats", "none"], 2, "none is no hotword database: manifest.json cannot be read"),
        (["add", "mine.tsv", "?!"], 1, "nobody can tell how '?!' is pronounced"),
        (["add", "mine.tsv", "NIO", "weight=x"], 1, "the weight 'x' is no number from 0 up"),
        (["remove", "mine.tsv"], 2, 'python -m kit hotwords remove LIST "name"'),
    ],
)
def test_wrong_use_is_one_sentence(db, capsys, line, code, answer):
    found, out, err = run(capsys, *line)
    assert (found, out) == (code, "") and answer in err
    assert len(err.splitlines()) == 1 and err.startswith("kit: ")
