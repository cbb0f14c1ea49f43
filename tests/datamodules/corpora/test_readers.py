"""Every corpus from a miniature copy in its layout: counts, texts, faults by name, parity with Lhotse's recipes."""

import json
import shutil

import pytest
import soundfile
from trees import TREES, sound, write

from datamodules.corpora import prepare as preparing
from datamodules.corpora.base import Embedded, lines
from datamodules.corpora.mandarin import objects
from datamodules.corpora.registry import CORPORA
from datamodules.rows import Rows
from kit.config import CONFIGS
from kit.errors import KitError, UsageError

# part: utterances, one of its texts, its speaker, its domain
EXPECTED = {
    "librispeech": {"train_clean_100": (3, "IT'S LATE", "19", None), "dev_clean": (3,), "test_clean": (3,)},
    "voxpopuli": {"train": (2, "mr president", "281", None), "dev": (2,), "test": (2,)},
    "mls_english": {"train": (2, "oh my dear i must see him", "4800", None), "dev": (2,), "test": (2,)},
    "aishell": {"train": (2, "而对楼市成交", "S0002", None), "dev": (2,), "test": (2,)},
    "aishell2": {
        "train": (2, "听Beat It", "C0001", None),
        "dev": (2,),
        "dev_mic": (2,),
        "test": (2,),
        "test_android": (2,),
    },
    "aishell2021_eval": {"test": (4, "播放音乐", None, "B")},
    "wenetspeech": {
        "train_l": (4, "怎么样啊", None, "youtube"),
        "train_m": (2,),
        "train_s": (2,),
        "dev": (2,),
        "test_net": (2,),
        "test_meeting": (2,),
    },
    "speechio": {"test_00": (2, "各位 观众 晚上 好", "A", None), "test_01": (2,), "test_26": (2,)},
    "wenetspeech_chuan": {"test_easy": (2, "巴适得板", None, None), "test_hard": (2,)},
    "wenetspeech_yue": {"test_short": (2, "唔该晒", None, None), "test_long": (1, "我哋去边度", None, None)},
    "kespeech": {
        "train_phase1": (2, "我家在山东", "1000001", "Ji-Lu"),
        "train_phase2": (2,),
        "dev_phase1": (2,),
        "dev_phase2": (2,),
        "test": (2,),
    },
    "cs_dialogue": {"train": (2, "yeah exactly", "ZH-CN_U0000", None), "dev": (2,), "test": (2,)},
    "ascend": {"train": (2, "我想去 hong kong", "3", "persona"), "dev": (2,), "test": (2,)},
    "m4singer": {"test": (2, "你说要给我", "Alto-1", None)},
}


@pytest.fixture
def copy(tmp_path):
    """Makes a miniature copy; returns its root."""

    def make(name):
        TREES[name](tmp_path / "root")
        return tmp_path / "root"

    return make


def prepare(name, root, tmp_path, parts=()):
    return {part.part: part for part in preparing.prepare(CORPORA[name], root, parts, tmp_path / "out")}


def problems(tmp_path, part):
    rows = [line.split("\t") for line in (tmp_path / "out" / part / "problems.tsv").read_text().splitlines()]
    assert rows[0] == ["kind", "id", "detail"]
    return rows[1:]


def test_every_corpus_has_a_tree_a_configuration_and_expectations():
    assert list(CORPORA) == list(TREES) == list(EXPECTED)
    for name, corpus in CORPORA.items():
        assert corpus.name == name and (CONFIGS / "data" / f"{name}.yaml").is_file()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_copy_is_read(name, copy, tmp_path):
    found = prepare(name, copy(name), tmp_path)
    assert {part: one.usable for part, one in found.items()} == {part: row[0] for part, row in EXPECTED[name].items()}
    for part, row in EXPECTED[name].items():
        rows = Rows(tmp_path / "out" / part)
        assert len(rows) == len(list(rows)) == row[0]
        assert sum(cut.duration for cut in rows) == pytest.approx(found[part].seconds, abs=1e-3)
        for cut in rows:
            about = soundfile.info(cut.recording.sources[0].source)
            assert (cut.recording.sampling_rate, cut.recording.num_samples) == (about.samplerate, about.frames)
            assert cut.supervisions[0].language == CORPORA[name].language
        if len(row) > 1:
            said = rows[-1].supervisions[0]
            assert (said.text, said.speaker, (said.custom or {}).get("domain")) == row[1:]


def test_segments_keep_their_times(copy, tmp_path):
    prepare("wenetspeech", copy("wenetspeech"), tmp_path)
    cuts = list(Rows(tmp_path / "out" / "train_l"))
    assert [(cut.start, cut.duration) for cut in cuts] == [(0.25, 1.0), (1.5, 1.0)] * 2
    assert len({cut.recording.sources[0].source for cut in cuts}) == 2


def test_annotations_are_no_text(copy, tmp_path):
    prepare("kespeech", copy("kespeech"), tmp_path, ["test"])
    assert Rows(tmp_path / "out" / "test")[0].supervisions[0].text == "北京时间"
    shutil.rmtree(tmp_path / "root")
    prepare("cs_dialogue", copy("cs_dialogue"), tmp_path, ["test"])
    assert Rows(tmp_path / "out" / "test")[0].supervisions[0].text == "我在做一个 project"
    shutil.rmtree(tmp_path / "root")
    prepare("wenetspeech_chuan", copy("wenetspeech_chuan"), tmp_path)
    assert Rows(tmp_path / "out" / "test_easy")[0].supervisions[0].text == "你晓得不嘛"


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "ascend"])
def test_a_missing_recording_is_named(name, copy, tmp_path):
    root = copy(name)
    first = prepare(name, root, tmp_path)
    part = list(EXPECTED[name])[-1]
    lost = Rows(tmp_path / "out" / part)[0]
    usable = len(Rows(tmp_path / "out" / part))
    same = [cut.id for cut in Rows(tmp_path / "out" / part) if cut.recording.sources == lost.recording.sources]
    (tmp_path / "root" / lost.recording.sources[0].source).unlink()
    if name == "wenetspeech_yue":
        write(tmp_path / "root/WSYue-ASR-eval/Short/content.txt", "0001.wav\tx\tx\tx\t你")
    found = prepare(name, root, tmp_path)[part]
    assert found.listed == first[part].listed and found.usable == usable - len(same)
    assert found.problems[preparing.MISSING] == len(same)
    assert [row[:2] for row in problems(tmp_path, part)][: len(same)] == [[preparing.MISSING, one] for one in same]


def test_a_recording_that_is_not_in_the_file_is_named(tmp_path):
    import pyarrow
    from pyarrow.parquet import write_table

    row = {"id": "u1", "audio": {"bytes": None, "path": None}, "transcription": "hi", "topic": None}
    (tmp_path / "root" / "main").mkdir(parents=True)
    table = pyarrow.Table.from_pylist([{**row, "original_speaker_id": 1}])
    write_table(table, tmp_path / "root" / "main" / "test-00000-of-00001.parquet")
    found = prepare("ascend", tmp_path / "root", tmp_path)["test"]
    assert found.usable == 0 and problems(tmp_path, "test") == [[preparing.MISSING, "u1", "the corpus lists none"]]


def test_embedded_audio_is_copied_whole(copy, tmp_path):
    prepare("ascend", copy("ascend"), tmp_path)
    cut = Rows(tmp_path / "out" / "dev")[1]
    assert cut.recording.sources[0].source == str(tmp_path / "out" / "dev" / "audio" / "validation00001.wav")
    assert cut.duration == 0.5


def spoil_librispeech(root):
    """A fault of each kind in test-clean; returns its folder and name."""
    folder = root / "LibriSpeech" / "test-clean" / "61" / "70968"
    texts = ["A", "?!", "ÑANDÚ 你好", "ЖИЗНЬ", "FINE", "AGAIN"]
    names = [f"61-70968-{number:04d}" for number in (0, 1, 2, 3, 4, 4)]
    write(
        folder / "61-70968.trans.txt",
        *map(" ".join, zip(names, texts, strict=True)),
        "61-70968-0009",
        "61-70968-0005 X",
    )
    for name in ("0003", "0004", "0007", "0009"):
        sound(folder / f"61-70968-{name}.flac")
    (folder / "61-70968-0005.flac").write_text("no audio")
    return folder


def test_every_fault_is_counted_and_named(copy, tmp_path):
    root = copy("librispeech")
    spoil_librispeech(root)
    found = prepare("librispeech", root, tmp_path, ["test_clean"])["test_clean"]
    told = {(kind, name[9:]) for kind, name, _ in problems(tmp_path, "test_clean")}
    assert told == {
        (preparing.EMPTY, "0001"),
        (preparing.STRANGE, "0002"),
        (preparing.FOREIGN, "0003"),
        (preparing.AGAIN, "0004"),
        (preparing.EMPTY, "0009"),
        (preparing.BROKEN, "0005"),
        (preparing.BARE, "0007"),
    }
    kept = [cut.id[9:] for cut in Rows(tmp_path / "out" / "test_clean")]
    assert kept == ["0000", "0002", "0004"] and found.usable == 3
    assert found.listed == found.usable + sum(found.problems.values()) - found.problems[preparing.STRANGE] == 9
    assert Rows(tmp_path / "out" / "test_clean")[2].supervisions[0].text == "FINE", "the first of two"


def test_ids_that_only_one_list_has_are_named(copy, tmp_path):
    root = copy("kespeech")
    folder = root / "KeSpeech" / "Tasks" / "ASR" / "test"
    write(folder / "text", "a 你好", "b 你好")
    sound(root / "KeSpeech" / "Audio" / "b.wav")
    sound(root / "KeSpeech" / "Audio" / "c.wav")
    write(folder / "wav.scp", "b Audio/b.wav", "c Audio/c.wav")
    prepare("kespeech", root, tmp_path, ["test"])
    assert [row[:2] for row in problems(tmp_path, "test")] == [[preparing.MISSING, "a"], [preparing.BARE, "c"]]


def test_times_outside_the_recording_are_named(copy, tmp_path):
    root = copy("wenetspeech")
    about = json.loads((root / "WenetSpeech.json").read_text())
    about["audios"][2]["segments"][1].update(begin_time=2.0, end_time=9.0)
    (root / "WenetSpeech.json").write_text(json.dumps(about))
    prepare("wenetspeech", root, tmp_path, ["dev"])
    assert [row[:2] for row in problems(tmp_path, "dev")] == [[preparing.TIMES, "Y0002_S00001"]]


# --- parity with Lhotse -----------------------------------------------------------------------------------------------


def recipe_of(name, root, tmp_path):
    """Part -> (recordings, supervisions) as Lhotse's recipe reads them."""
    if name == "librispeech":
        from lhotse.recipes import prepare_librispeech

        found = prepare_librispeech(root / "LibriSpeech", dataset_parts=["train-clean-100", "dev-clean", "test-clean"])
        return {part.replace("-", "_"): one for part, one in found.items()}
    if name == "mls_english":
        from lhotse.recipes import prepare_mls

        write(root / "mls_english" / "metainfo.txt", "S|G|P|M|B|T|C", "4800|M|test|1|10003|x|y")
        return prepare_mls(root, tmp_path / "manifests", opus=False)["english"]
    if name == "aishell":
        from lhotse.recipes import prepare_aishell

        return prepare_aishell(root / "aishell")
    if name == "aishell2":
        from lhotse.recipes.aishell2 import prepare_aishell2

        return prepare_aishell2(root)
    if name == "wenetspeech":
        from lhotse.recipes import prepare_wenet_speech

        found = prepare_wenet_speech(root)
        parts = {"L": "train_l", "M": "train_m", "S": "train_s"}
        return {parts.get(part, part.lower()): one for part, one in found.items()}
    if name == "speechio":
        from lhotse.recipes.speechio import _prepare_subset

        pairs = {f"test_{n:02d}": _prepare_subset(f"SPEECHIO_ASR_ZH000{n:02d}", root) for n in (0, 1, 26)}
        return {part: {"recordings": one, "supervisions": two} for part, (one, two) in pairs.items()}
    from lhotse.recipes import prepare_kespeech

    return prepare_kespeech(root / "KeSpeech", None)


@pytest.mark.parametrize(
    "name", ["librispeech", "mls_english", "aishell", "aishell2", "wenetspeech", "speechio", "kespeech"]
)
def test_a_whole_copy_is_what_lhotse_reads(name, copy, tmp_path):
    """Ids, texts without spaces and case, times, files. VoxPopuli's recipe wants another layout and the network."""
    root = copy(name)
    prepare(name, root, tmp_path)
    for part, found in recipe_of(name, root, tmp_path).items():
        recordings = {one.id: one for one in found["recordings"]}
        theirs = {}
        for said in found["supervisions"]:
            text = said.text.replace(" ", "").lower()
            source = recordings[said.recording_id].sources[0].source
            key = said.recording_id if name == "speechio" else said.id  # there its ids begin with a path
            theirs[key] = (text, round(said.start, 3), round(said.duration, 3), str(source))
        ours = {}
        for cut in Rows(tmp_path / "out" / part):
            text = cut.supervisions[0].text.replace(" ", "").lower()
            ours[cut.id] = (text, round(cut.start, 3), round(cut.duration, 3), cut.recording.sources[0].source)
        assert ours == theirs, part


# --- small things -----------------------------------------------------------------------------------------------------


def test_a_list_in_json_is_read_without_holding_it(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.corpora.mandarin._PIECE", 7)
    listed = [{"n": number, "text": '"audios": [你' * number} for number in range(40)]
    for indent in (None, 2):
        (tmp_path / "a.json").write_text(json.dumps({"before": {"x": [1]}, "audios": listed}, indent=indent))
        assert list(objects(tmp_path / "a.json", "audios")) == listed
    whole = json.dumps({"audios": listed})
    for text in (whole[:-30], "{}", '{"audios": 3}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(KitError, match="a.json has no whole list 'audios'"):
            list(objects(tmp_path / "a.json", "audios"))


def test_text_that_is_none_is_told(tmp_path):
    (tmp_path / "text").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KitError, match="text cannot be read"):
        list(lines(tmp_path / "text"))


def test_headers_of_what_is_no_audio(tmp_path):
    (tmp_path / "a.wav").write_text("hello")
    assert preparing.header(tmp_path / "b.wav") is None and preparing.header(None) is None
    assert "a.wav" in preparing.header(tmp_path / "a.wav")
    assert "x.wav" in preparing.header(Embedded("x.wav", b"hello"))
    soundfile.write(tmp_path / "c.wav", [], 16000)
    assert preparing.header(tmp_path / "c.wav") == "c.wav: no samples"


def test_a_layout_of_another_kind_is_one_sentence(tmp_path):
    write(tmp_path / "root" / "WenetSpeech.json", json.dumps({"audios": [{"path": "x"}]}))
    with pytest.raises(KitError, match=r"is not laid out as WenetSpeech should be \(KeyError: 'segments'\)"):
        prepare("wenetspeech", tmp_path / "root", tmp_path)
    assert not list((tmp_path / "out").iterdir()), "nothing is left of it"


def test_pyarrow_may_be_absent(copy, tmp_path, monkeypatch):
    import sys

    root = copy("ascend")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="reading ASCEND needs pyarrow"):
        prepare("ascend", root, tmp_path)
