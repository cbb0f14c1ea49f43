import gzip
import json

import numpy as np
import pytest
import soundfile
from lhotse import CutSet
from small import small_config

from datamodules.manifests import ManifestData
from kit.errors import KitError, UsageError

SAID = ["打开天窗", "turn on the radio", "播放hello", "导航到外滩", "take me home"]


@pytest.fixture
def folder(tmp_path):
    rows = []
    for index in range(20):
        name = f"u{index:02d}.wav"
        tone = 0.1 * np.sin(np.arange(8000 + 500 * index) / 20)
        soundfile.write(tmp_path / name, tone, 8000 if index % 2 else 16000)
        rows.append({"id": f"u{index:02d}", "audio": name, "text": SAID[index % 5]})
    (tmp_path / "utterances.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return tmp_path


def manifest(folder, *overrides):
    where = f"data.train={folder / 'utterances.jsonl'}"
    return ManifestData(small_config("stage=pretrain", "data=manifest", where, *overrides, cache=folder / "cache"))


def names(data, split):
    return {cut.id for cut in data.cuts(split)}


def test_parts_are_held_back_by_id(folder):
    data = manifest(folder, "data.test_share=0.2", "data.dev_share=0.1")
    parts = [names(data, split) for split in ("train", "dev", "test")]
    assert [len(part) for part in parts] == [14, 2, 4]
    assert len(set().union(*parts)) == 20
    lines = (folder / "utterances.jsonl").read_text().splitlines()
    (folder / "utterances.jsonl").write_text("\n".join(reversed(lines)))
    again = manifest(folder, "data.test_share=0.2", "data.dev_share=0.1")
    assert [names(again, split) for split in ("train", "dev", "test")] == parts


def test_less_to_train_on_is_part_of_more(folder):
    whole = manifest(folder, "data.test_share=0.2")
    seconds = sum(cut.duration for cut in whole.cuts("train"))
    before = set()
    for share in (0.2, 0.5, 0.8, 1.0):
        data = manifest(folder, "data.test_share=0.2", f"data.train_hours={share * seconds / 3600 + 1e-9}")
        assert names(data, "test") == names(whole, "test")
        found = names(data, "train")
        used = sum(cut.duration for cut in data.cuts("train"))
        assert before < found and share * seconds - 3 < used <= share * seconds + 1e-3
        before = found
    assert before == names(whole, "train")
    with pytest.raises(KitError, match="train part of data=manifest is empty"):
        manifest(folder, "data.train_hours=0.0001").cuts("train")
    with pytest.raises(UsageError, match=r"data\.train_hours"):
        manifest(folder, "data.train_hours=much")


def test_more_text_for_the_language_model(folder):
    path = folder / "more.txt.gz"
    path.write_bytes(gzip.compress("Take Me Home!\n\n...\n我爱北京\n".encode()))
    alone, data = manifest(folder), manifest(folder, f"data.texts={path}")
    assert data.texts() == [*alone.texts(), "take me home", "我爱北京"]
    path.write_bytes(gzip.compress(b"...\n"))
    with pytest.raises(KitError, match="has no sentence in it"):
        data.texts()
    path.write_bytes(b"no gzip")
    with pytest.raises(KitError, match="cannot be read.*one sentence a line"):
        data.texts()


def test_batches_of_any_sampling_rate(folder):
    data = manifest(folder)
    batch = next(iter(data.train_dataloader()))
    seconds = [cut.duration for cut in batch.cuts]
    assert [round(size / 100, 1) for size in batch.lengths.tolist()] == pytest.approx(seconds, abs=0.1)
    assert batch.frame_labels is None
    assert set(batch.languages) <= {"zh", "en", "mixed"}


def test_own_files_for_the_parts(folder):
    data = manifest(folder, f"data.test={folder / 'utterances.jsonl'}")
    assert len(data.cuts("test")) == len(data.cuts("train")) == 20


def test_a_lhotse_manifest(folder):
    data = manifest(folder)
    CutSet.from_cuts(data.cuts("train")).to_file(folder / "cuts_all.jsonl.gz")
    other = manifest(folder, "data.test_share=0.0", f"data.train={folder / 'cuts_all.jsonl.gz'}")
    assert names(other, "train") == names(data, "train")


def test_no_dev_part_means_no_validation(folder):
    assert manifest(folder).val_dataloader() == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 2 is not"),
        ('{"audio": "u00.wav"}', "line 2 is not .*'text'"),
        ('{"audio": "u00.wav", "text": null}', "line 2 is not .*must be texts"),
        ('{"audio": "nowhere.wav", "text": "a"}', "nowhere.wav .* cannot be read"),
        ('{"audio": "utterances.jsonl", "text": "a"}', "utterances.jsonl .* cannot be read"),
    ],
)
def test_a_bad_row_is_named(folder, line, message):
    (folder / "utterances.jsonl").write_text('{"audio": "u00.wav", "text": "hello"}\n' + line)
    with pytest.raises(KitError, match=message):
        manifest(folder).cuts("train")


def test_wrong_use_is_one_sentence(folder):
    with pytest.raises(UsageError, match="does not exist"):
        manifest(folder, "data.train=nowhere.jsonl").cuts("train")
    with pytest.raises(UsageError, match="needs data.train=FILE"):
        manifest(folder, "data.train=null").cuts("train")
    with pytest.raises(UsageError, match="no part 'tset'"):
        manifest(folder).cuts("tset")


def test_text_that_cannot_be_pronounced_is_left_out_and_counted(folder, capsys):
    with (folder / "utterances.jsonl").open("a") as file:
        file.write('\n{"id": "odd", "audio": "u00.wav", "text": "!!"}')
    data = manifest(folder, "data.test_share=0")
    assert "odd" not in names(data, "train")
    assert "left out 1 of 21" in capsys.readouterr().err
    assert data.left_out == {"train": ["odd"]}, "for reports"


def annotate(folder, entities):
    lines = [json.loads(line) for line in (folder / "utterances.jsonl").read_text("utf-8").splitlines()]
    rows = [{**row, "entities": entities} if row["text"] == "导航到外滩" else row for row in lines]
    (folder / "utterances.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")


def test_names_as_annotated(folder):
    annotate(folder, ["外滩", "?"])
    data = manifest(folder, "data.test_share=0")
    assert data.keywords(["train"]) == ["外滩"]
    assert {tuple(data.entities(cut) or ()) for cut in data.cuts("train")} == {(), ("外滩",)}


def test_names_that_are_no_list_are_named(folder):
    annotate(folder, "外滩")
    data = manifest(folder, "data.test_share=0")
    with pytest.raises(KitError, match=r"the entities of utterance u\d\d are '外滩'; write a list of names"):
        data.keywords(["train"])


def test_rare_words_where_nobody_annotated_names(folder):
    texts = ["hello radio", *["hello"] * 29]
    rows = [{"audio": "u00.wav", "id": f"v{index}", "text": text} for index, text in enumerate(texts)]
    (folder / "utterances.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    assert manifest(folder, "data.test_share=0").keywords(["train"]) == ["radio"]


def rewrite(folder, *rows):
    (folder / "utterances.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")


def test_utterances_inside_a_recording(folder):
    said = {"audio": "u00.wav", "text": "hello", "language": "en"}
    rewrite(
        folder,
        {**said, "id": "a", "start": 0.1, "duration": 0.2},
        {**said, "id": "b", "start": 0.3},
        {**said, "id": "c"},
    )
    data = manifest(folder, "data.test_share=0")
    times = {cut.id: (cut.start, round(cut.duration, 3)) for cut in data.cuts("train")}
    assert times == {"a": (0.1, 0.2), "b": (0.3, 0.2), "c": (0.0, 0.5)}
    assert {name: len(data.audio("train")[name]) for name in "abc"} == {"a": 3200, "b": 3200, "c": 8000}
    np.testing.assert_array_equal(data.audio("train")["a"], data.audio("train")["c"][1600:4800])


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"start": -1}, "x is said to be from second -1 to 0.5 of a recording of 0.50 s"),
        ({"start": 0.2, "duration": 2}, "x is said to be from second 0.2 to 2.2 of a recording of 0.50 s"),
        ({"duration": 0}, "x is said to be from second 0 to 0 of"),
        ({"start": 0.5}, "x is said to be from second 0.5 to 0.5"),
        ({"start": "0.1"}, "start and duration of x are no numbers"),
        ({"duration": True}, "start and duration of x are no numbers"),
    ],
)
def test_times_that_cannot_be(folder, times, message):
    rewrite(folder, {"audio": "u00.wav", "text": "hello", "id": "x", **times})
    with pytest.raises(KitError, match=message):
        manifest(folder, "data.test_share=0").cuts("train")


def test_two_of_one_id_are_named(folder):
    rewrite(folder, *({"audio": "u00.wav", "text": text} for text in ("hello", "radio")))
    with pytest.raises(KitError, match="utterances.jsonl: an id comes twice, such as u00; give each utterance an id"):
        manifest(folder).cuts("train")


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "cuts.jsonl.gz"])
def test_a_large_manifest_is_read_once_and_the_same(folder, monkeypatch, capsys, kind):
    import gzip

    small = manifest(folder, "data.test_share=0.2")
    assert len(small.cuts("train")) == 16 and len(small.cuts("test")) == 4
    whole = (folder / "utterances.jsonl").read_text("utf-8") + '\n{"id": "odd", "audio": "u00.wav", "text": "!!"}'
    path = folder / ("cuts_all.jsonl.gz" if kind.startswith("cuts") else f"large.{kind}")
    if kind.startswith("cuts"):
        CutSet.from_cuts([*small.cuts("train"), *small.cuts("test")]).to_file(path)
    else:
        path.write_bytes(gzip.compress(whole.encode()) if kind.endswith("gz") else whole.encode())
    monkeypatch.setattr("datamodules.manifests.LARGE", 1)
    for module in ("datamodules.base", "datamodules.rows", "datamodules.sampling"):
        monkeypatch.setattr(f"{module}.EAGER", 3)
    for _ in range(2):
        large = manifest(folder, "data.test_share=0.2", f"data.train={path}")
        for split in ("train", "test"):
            ours, theirs = ({cut.id: cut for cut in data.cuts(split)} for data in (small, large))
            assert ours.keys() == theirs.keys()
            for name, cut in ours.items():
                other = theirs[name]
                assert (other.duration, other.supervisions[0].text) == (cut.duration, cut.supervisions[0].text)
                assert other.supervisions[0].language == cut.supervisions[0].language
        assert large.cuts("train").is_lazy
        assert ("left out 1 of 21" in capsys.readouterr().err) == (not kind.startswith("cuts"))
    assert len(next(iter(large.train_dataloader())))
    assert len(list((folder / "cache" / "manifests").iterdir())) == 1


def test_a_part_that_was_prepared_may_be_named(folder):
    from trees import TREES

    from datamodules.corpora.prepare import prepare
    from datamodules.corpora.registry import CORPORA

    TREES["m4singer"](folder / "root")
    prepare(CORPORA["m4singer"], folder / "root", [], folder / "out")
    data = manifest(folder, f"data.train={folder / 'out' / 'test'}", "data.test_share=0")
    assert names(data, "train") == {"Alto-1#美错#0000", "Alto-1#美错#0001"}


def test_what_a_manifest_calls_a_command_is_not_run(folder, tmp_path):
    """Lhotse would: audio is read from files alone."""
    source = {"type": "command", "channels": [0], "source": f"touch {tmp_path / 'ran'}"}
    about = {"sampling_rate": 16000, "num_samples": 16000, "duration": 1.0, "channel_ids": [0]}
    said = {"id": "s", "recording_id": "c", "start": 0, "duration": 1.0, "text": "打开天窗", "language": "zh"}
    cut = {"id": "c", "start": 0, "duration": 1.0, "channel": 0, "supervisions": [said], "type": "MonoCut"}
    path = folder / "cuts.jsonl"
    path.write_text(json.dumps({**cut, "recording": {"id": "c", "sources": [source], **about}}), "utf-8")
    data = manifest(folder, f"data.test={path}")
    with pytest.raises(KitError, match="does not exist"):
        data.samples(data.cuts("test")[0])
    assert not (tmp_path / "ran").exists()
