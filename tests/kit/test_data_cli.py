"""`python -m kit data`: tables on standard output, warnings beside them, wrong use in one sentence."""

import json

import pytest
from lhotse import CutSet
from trees import TREES, sound, write

from kit.cli import main


def run(capsys, *line):
    code = main(["data", *line])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TREES["aishell"](tmp_path / "root")
    return tmp_path


def cells(out, first):
    line = next(line for line in out.splitlines() if line.split()[:1] == [first])
    return line.split()


def test_what_a_copy_holds_beside_what_is_published(here, capsys):
    (here / "root/aishell/data_aishell/wav/test/S0764/BAC009S0764W0123.wav").unlink()
    code, out, err = run(capsys, "prepare", "corpus=aishell", "root=root")
    assert code == 0 and "prepared: cache/corpora/aishell" in out
    assert cells(out, "test") == ["test", "2", "1", "7,176", "0.00", "?", "99.99", "1"]
    assert "missing audio" in out
    assert "warning: test: missing audio 1; by name in cache/corpora/aishell/test/problems.tsv" in err
    assert "warning: test: the corpus lists 2 utterances, 7176 are published" in err
    assert "BAC009S0764W0123" in (here / "cache/corpora/aishell/test/problems.tsv").read_text()


def test_parts_stay_when_others_are_prepared(here, capsys):
    assert run(capsys, "prepare", "corpus=aishell", "root=root", "parts=train,test")[0] == 0
    before = (here / "cache/corpora/aishell/train/rows.jsonl").read_bytes()
    assert run(capsys, "prepare", "corpus=aishell", "root=root", "parts=[dev]")[0] == 0
    assert sorted(path.name for path in (here / "cache/corpora/aishell").iterdir()) == ["dev", "test", "train"]
    assert (here / "cache/corpora/aishell/train/rows.jsonl").read_bytes() == before


def test_parts_that_are_not_there_are_told(here, capsys):
    import shutil

    shutil.rmtree(here / "root/aishell/data_aishell/wav/dev")
    code, out, err = run(capsys, "prepare", "corpus=aishell", "root=root")
    assert code == 0 and "not there, and passed over: dev" in err
    assert "dev" not in [line.split()[0] for line in out.splitlines() if line.split()]


def test_the_list_knows_what_is_prepared(here, capsys):
    assert cells(run(capsys, "list")[1], "aishell")[:6] == ["aishell", "zh", "178", "3", "-", "Apache"]
    run(capsys, "prepare", "corpus=aishell", "root=root", "parts=test")
    code, out, err = run(capsys, "list")
    assert (code, err) == (0, "") and cells(out, "aishell")[4] == "1"
    assert all(name in out for name in TREES)


def test_export_and_what_lhotse_reads_of_it(here, capsys):
    run(capsys, "prepare", "corpus=aishell", "root=root")
    code, out, _ = run(capsys, "export", "data=aishell", "out=shar", "shards=1")
    assert code == 0
    assert out.splitlines() == [f"shar/{part}\t2 utterances\t2 archives" for part in ("train", "dev", "test")]
    cuts = list(CutSet.from_shar(in_dir=here / "shar" / "test"))
    assert [cut.id for cut in cuts] == ["BAC009S0764W0122", "BAC009S0764W0123"]
    assert cuts[0].load_audio().shape == (1, 8000) and cuts[0].supervisions[0].text == "而对楼市成交"
    about = json.loads((here / "shar/test.shards.json").read_text())
    assert [shard["utterances"] for shard in about["shards"]] == [1, 1]


def test_export_says_what_it_has_not(here, capsys):
    run(capsys, "prepare", "corpus=aishell", "root=root", "parts=test")
    code, out, err = run(capsys, "export", "data=aishell", "out=shar")
    assert code == 0 and out == "shar/test\t2 utterances\t1 archives\n"
    assert "without train: train of AISHELL-1 is not prepared" in err


@pytest.mark.parametrize(
    ("line", "code", "answer"),
    [
        ([], 2, "data: one of list, prepare, export"),
        (["prepar"], 2, "data prepar: there is no such command; did you mean prepare?"),
        (["list", "x"], 2, "data list takes no files, got x"),
        (["prepare", "corpus=aishel", "root=root"], 2, "unknown corpus aishel; did you mean aishell?"),
        (["prepare", "root=root"], 2, "unknown corpus (none); known: librispeech"),
        (["prepare", "corpus=aishell"], 2, "data prepare needs root=FOLDER"),
        (
            ["prepare", "corpus=aishell", "root=nowhere"],
            2,
            "root=nowhere is no folder; give the one to which AISHELL-1",
        ),
        (
            ["prepare", "corpus=librispeech", "root=root"],
            2,
            "found aishell; it looks like corpus=aishell",
        ),
        (
            ["prepare", "corpus=aishell", "root=empty"],
            2,
            "root=empty is no copy of AISHELL-1: looked for data_aishell/",
        ),
        (["prepare", "corpus=aishell", "root=root", "parts=tset"], 2, "AISHELL-1 has no part tset; did you mean test?"),
        (["prepare", "corpus=aishell", "root=bare"], 1, "bare has nothing of AISHELL-1's train, dev, test"),
        (["prepare", "corpus=aishell", "rot=root"], 2, "unknown option rot of data prepare; did you mean root?"),
        (["export", "data=aishell"], 2, "data export needs a folder that is not there yet: out=FOLDER"),
        (["export", "data=aishell", "out=x", "shards=0"], 2, "shards=0 must be a whole number from 1 up"),
        (
            ["export", "data=aishell", "out=x"],
            2,
            "test of AISHELL-1 is not prepared in cache/corpora/aishell; run python",
        ),
    ],
)
def test_wrong_use_is_one_sentence(here, capsys, line, code, answer):
    (here / "empty").mkdir()
    write(here / "bare/data_aishell/transcript/aishell_transcript_v0.8.txt", "BAC009S0002W0122 而 对")
    found, out, err = run(capsys, *line)
    assert (found, out) == (code, "") and answer in err
    assert len(err.splitlines()) == 1 and err.startswith("kit: ")


def test_an_export_never_overwrites(here, capsys):
    run(capsys, "prepare", "corpus=aishell", "root=root")
    (here / "shar").mkdir()
    code, _, err = run(capsys, "export", "data=aishell", "out=shar", "split=test")
    assert code == 1 and "shar exists already; remove it or choose another place" in err


def test_a_recording_that_broke_since_leaves_no_export(here, capsys):
    run(capsys, "prepare", "corpus=aishell", "root=root")
    broken = here / "root/aishell/data_aishell/wav/test/S0764/BAC009S0764W0123.wav"
    broken.write_text("hello")
    code, _, err = run(capsys, "export", "data=aishell", "out=shar", "split=test")
    assert code == 1 and "BAC009S0764W0123.wav cannot be read as audio" in err
    assert not (here / "shar").exists() and sound(broken)
