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
    assert "odd" not in names(manifest(folder, "data.test_share=0"), "train")
    assert "left out 1 of 21" in capsys.readouterr().err


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
