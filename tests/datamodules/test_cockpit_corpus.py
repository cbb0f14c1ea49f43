"""The built corpus: the same every time, parts apart, alignments true, and nothing lost when things go wrong."""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.cockpit import build
from datamodules.cockpit.grammar import unseen_names
from datamodules.cockpit.plan import SPLITS, Plan, plan, voices
from datamodules.cockpit.shards import SHARDS
from kit.errors import KitError
from kit.text.phonemes import phonemize

HOURS = 0.01
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cockpit") / "corpus"
    build(folder, HOURS, workers=2)
    return folder


def read_cuts(folder: Path, split: str) -> list[dict[str, Any]]:
    with gzip.open(folder / f"cuts_{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def all_cuts(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {split: read_cuts(folder, split) for split in SPLITS}


def texts_of(cuts: list[dict[str, Any]]) -> list[str]:
    return [cut["supervisions"][0]["text"] for cut in cuts]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a corpus that does not name the folder itself."""
    named = [
        *folder.glob("audio/*/*.flac"),
        *folder.glob("shards/*.json"),
        folder / "texts.txt",
        folder / "entities.json",
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in named}


def checksums(folder: Path) -> dict[str, str]:
    return dict(json.loads((folder / "corpus.json").read_text(encoding="utf-8"))["sha256"])


def test_two_builds_are_the_same_whatever_the_number_of_workers(corpus: Path, tmp_path: Path) -> None:
    build(tmp_path / "again", HOURS, workers=1)
    assert contents(tmp_path / "again") == contents(corpus)
    assert checksums(tmp_path / "again") == checksums(corpus)


def test_checksums_are_of_the_samples_and_texts(corpus: Path) -> None:
    """Computed here from the files alone."""
    cuts = all_cuts(corpus)
    for number in range(SHARDS):
        digest = hashlib.sha256()
        for split in SPLITS:
            for cut in cuts[split][number::SHARDS]:
                samples, rate = soundfile.read(cut["recording"]["sources"][0]["source"], dtype="int16")
                assert rate == 16000
                text = cut["supervisions"][0]["text"]
                digest.update(hashlib.sha256(samples.astype("<i2").tobytes() + text.encode()).digest())
        assert checksums(corpus)[f"shard-{number}"] == digest.hexdigest()


def test_lhotse_reads_the_cuts_as_it_would_write_them(corpus: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    for split in SPLITS:
        cuts = lhotse.CutSet.from_file(corpus / f"cuts_{split}.jsonl.gz").to_eager()
        assert [json.loads(json.dumps(cut.to_dict())) for cut in cuts] == read_cuts(corpus, split)
        lhotse.qa.validate(cuts, read_data=True)


def test_parts_share_neither_sentences_nor_voices(corpus: Path) -> None:
    cuts = all_cuts(corpus)
    said = {split: set(texts_of(cuts[split])) for split in SPLITS}
    heard = {split: {cut["supervisions"][0]["speaker"] for cut in cuts[split]} for split in SPLITS}
    for one, other in (("train", "dev"), ("train", "test"), ("train", "unseen"), ("dev", "test"), ("dev", "unseen")):
        assert not said[one] & said[other]
        assert not heard[one] & heard[other]
    assert not said["test"] & said["unseen"]
    assert len(said["train"]) == len(cuts["train"])


def test_text_for_training_has_trainings_sentences_and_none_held_out(corpus: Path) -> None:
    texts = (corpus / "texts.txt").read_text(encoding="utf-8").splitlines()
    cuts = all_cuts(corpus)
    assert len(set(texts)) == len(texts) >= 1000
    assert set(texts_of(cuts["train"])) <= set(texts)
    assert not set(texts) & {text for split in ("dev", "test", "unseen") for text in texts_of(cuts[split])}


def test_unseen_names_occur_in_the_unseen_part_only(corpus: Path) -> None:
    entities = json.loads((corpus / "entities.json").read_text(encoding="utf-8"))
    names = [name for kinds in entities["unseen"].values() for listed in kinds.values() for name in listed]
    assert sorted(names) == sorted(name for _, _, name in unseen_names())
    cuts = all_cuts(corpus)
    others = (corpus / "texts.txt").read_text(encoding="utf-8").splitlines()
    others += [text for split in ("train", "dev", "test") for text in texts_of(cuts[split])]
    for name in names:
        assert not [text for text in others if f" {name} " in f" {text} " or (name in text and not name.isascii())]
    for cut in cuts["unseen"]:
        assert set(cut["supervisions"][0]["custom"]["entities"]) & set(names)
        assert [name for name in names if name in cut["supervisions"][0]["text"]]


def test_alignments_are_the_phonemes_in_order_inside_the_audio(corpus: Path) -> None:
    for cut in [cut for cuts in all_cuts(corpus).values() for cut in cuts]:
        items = cut["supervisions"][0]["alignment"]["phoneme"]
        assert [symbol for symbol, *_ in items] == phonemize(cut["supervisions"][0]["text"])
        edges = [start for _, start, *_ in items] + [items[-1][1] + items[-1][2]]
        assert edges[0] >= 0 and edges[-1] <= cut["duration"]
        assert all(duration >= 0 for _, _, duration, _ in items)
        np.testing.assert_allclose(np.diff(edges), [duration for _, _, duration, _ in items], atol=1e-6)


def test_speech_is_where_the_alignment_says(corpus: Path) -> None:
    """Loud inside, quiet outside; vowels louder than stops; hissing consonants cross zero more often than vowels."""
    inside, outside = [], []
    levels: dict[str, list[float]] = {"vowel": [], "stop": []}
    crossings: dict[str, list[float]] = {"vowel": [], "hiss": []}
    kinds = {"vowel": ("a1", "a4", "ao3", "ang4", "AA", "AE", "AO", "EY", "OW"), "stop": ("d", "b", "T", "P", "D", "B")}
    kinds["hiss"] = ("s", "x", "S", "SH", "sh")
    for cut in read_cuts(corpus, "train") + read_cuts(corpus, "test"):
        samples, _ = soundfile.read(cut["recording"]["sources"][0]["source"])
        items = cut["supervisions"][0]["alignment"]["phoneme"]
        first, last = int(items[0][1] * 16000), int((items[-1][1] + items[-1][2]) * 16000)
        inside.append(np.sqrt(np.mean(samples[first:last] ** 2)))
        outside.append(np.sqrt(np.mean(samples[: max(first - 160, 1)] ** 2)))
        for symbol, start, duration, _ in items:
            part = samples[int(start * 16000) : int((start + duration) * 16000)]
            for kind, symbols in kinds.items():
                if symbol in symbols and len(part) > 160:
                    if kind in levels:
                        levels[kind].append(float(np.sqrt(np.mean(part**2)) / inside[-1]))
                    if kind in crossings:
                        crossings[kind].append(float(np.mean(np.diff(np.sign(part)) != 0)))
    assert np.median(np.array(outside) / np.array(inside)) < 0.03
    assert np.median(levels["vowel"]) > 3 * np.median(levels["stop"])
    assert np.median(crossings["hiss"]) > 2.5 * np.median(crossings["vowel"])


def test_sound_has_sensible_levels_and_no_digital_silence(corpus: Path) -> None:
    for cut in read_cuts(corpus, "train"):
        samples, _ = soundfile.read(cut["recording"]["sources"][0]["source"], dtype="int16")
        assert 0.19 < np.abs(samples / 32768).max() < 0.93
        assert len(samples) == cut["recording"]["num_samples"]
        zeros = samples == 0
        assert max(len(run) for run in "".join("01"[int(zero)] for zero in zeros).split("0")) < 16


@pytest.fixture(scope="module")
def default() -> Plan:
    return plan(1.5, 1)


def test_voices_are_many_and_of_both_kinds(default: Plan) -> None:
    train, dev, test = (set(voices(split)) for split in ("train", "dev", "test"))
    assert len(train) >= 30 and len(dev) >= 3 and len(test) >= 6
    assert not train & dev and not train & test and not dev & test
    assert voices("unseen") == voices("test")
    spoken = [utterance for utterances in default.utterances.values() for utterance in utterances]
    assert {utterance.variant for utterance in spoken} == train | dev | test
    assert len({utterance.rate for utterance in spoken}) > 100
    assert len({utterance.voice.split("+")[0] for utterance in spoken if utterance.split == "train"}) == 5


def test_the_default_plan_is_as_large_as_promised_and_tests_known_names(default: Plan) -> None:
    counts = {split: len(utterances) for split, utterances in default.utterances.items()}
    assert counts["train"] > 2400
    assert (counts["dev"], counts["test"], counts["unseen"]) == (100, 300, 100)
    assert len(default.texts) == 30_000
    named = {name for utterance in default.utterances["train"] for name in utterance.sentence.names}
    lists_of_names = ("poi", "song", "singer", "artist", "contact", "city")
    for split in ("dev", "test"):
        for utterance in default.utterances[split]:
            assert {name for name in utterance.sentence.names if name[1] in lists_of_names} <= named


def test_a_finished_corpus_is_left_alone(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be made")

    monkeypatch.setattr("datamodules.cockpit.corpus.plan", never)
    build(corpus, HOURS)


def test_a_lost_shard_or_file_is_made_again_and_the_others_are_not(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    shutil.copytree(corpus, folder)
    before, sums = contents(folder), checksums(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("shards/*.json")}
    (folder / "shards" / "3.json").unlink()
    (folder / "corpus.json").unlink()
    next((folder / "audio" / "train").glob("train-00005.flac")).write_bytes(b"")  # of shard 5, lost in a power cut
    (folder / "audio" / "train" / ".train-00001.flac.77.part").write_bytes(b"half")
    build(folder, HOURS)
    assert contents(folder) == before
    assert checksums(folder) == sums
    made_again = {path.name for path, made in times.items() if path.stat().st_mtime_ns != made}
    assert made_again == {"3.json", "5.json"}
    assert not list(folder.rglob("*.part"))


def test_a_moved_corpus_gets_new_paths_and_keeps_its_sound(corpus: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    shutil.copytree(corpus, there)
    build(there, HOURS)
    assert contents(there) == contents(corpus)
    for cut in read_cuts(there, "dev"):
        source = Path(cut["recording"]["sources"][0]["source"])
        assert source.is_file() and source.is_relative_to(there)


def test_killed_and_started_again_by_two_processes_at_once(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    code = f"from datamodules.cockpit import build; build({str(folder)!r}, {HOURS}, workers=1)"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)

    first = start()
    deadline = time.monotonic() + 60
    while not list(folder.glob("shards/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    first.kill()
    first.wait()
    assert not (folder / "corpus.json").exists()
    second = start()
    while second.poll() is None and not _is_locked(folder):
        time.sleep(0.01)
    build(folder, HOURS)
    assert second.wait(timeout=60) == 0
    assert contents(folder) == contents(corpus)


def _is_locked(folder: Path) -> bool:
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan"), float("inf"), 1e6])
def test_impossible_hours_are_refused(tmp_path: Path, hours: float) -> None:
    with pytest.raises(KitError, match="hours="):
        build(tmp_path / "corpus", hours)
    assert not (tmp_path / "corpus").exists()


def test_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="workers=0"):
        build(tmp_path / "corpus", HOURS, workers=0)


@pytest.mark.parametrize(("change", "said"), [({"hours": 0.02}, "hours=0.01 and not 0.02"), ({"seed": 2}, "seed=1")])
def test_a_folder_with_another_corpus_is_refused(corpus: Path, change: dict[str, Any], said: str) -> None:
    before = contents(corpus)
    with pytest.raises(KitError, match=said):
        build(corpus, **{"hours": HOURS, **change})
    assert contents(corpus) == before


def test_a_part_with_made_up_names_stands_apart(corpus: Path, tmp_path: Path) -> None:
    build(tmp_path / "made", HOURS, made=True)
    (cuts,) = (path.name for path in (tmp_path / "made").glob("cuts_*"))
    assert cuts == "cuts_made.jsonl.gz"
    assert all(cut["supervisions"][0]["custom"]["entities"] for cut in read_cuts(tmp_path / "made", "made"))
    before = contents(tmp_path / "made")
    build(tmp_path / "made", HOURS, made=True)
    assert contents(tmp_path / "made") == before
    for folder, made in ((corpus, True), (tmp_path / "made", False)):
        with pytest.raises(KitError, match="holds a cockpit corpus made with made="):
            build(folder, HOURS, made=made)


def test_a_corpus_of_another_version_is_refused(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.cockpit.corpus.RECIPE", -1)
    with pytest.raises(KitError, match="another version of the kit"):
        build(corpus, HOURS)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(KitError, match="choose a folder you may write to"):
        build(tmp_path / "file" / "corpus", HOURS)


def test_a_full_disk_keeps_the_finished_shards(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "corpus"
    write = Path.write_bytes

    def full_after_two_shards(path: Path, data: bytes) -> int:
        if len(list(folder.glob("shards/*.json"))) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_after_two_shards)
        with pytest.raises(KitError, match="No space left on device; free some space"):
            build(folder, HOURS, workers=1)
    assert len(list(folder.glob("shards/*.json"))) == 2
    assert not (folder / "corpus.json").exists()
    build(folder, HOURS)
    assert contents(folder) == contents(corpus)


def test_damage_on_the_way_to_the_disk_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = soundfile.write

    def flips(file: Any, samples: np.ndarray, *rest: Any, **options: Any) -> None:
        real(file, samples ^ 1, *rest, **options)

    monkeypatch.setattr(soundfile, "write", flips)
    with pytest.raises(KitError, match="does not hold what was written"):
        build(tmp_path / "corpus", HOURS, workers=1)
