"""What manifests of all kinds list, and that a bad line costs nothing but itself."""

import gzip
import json

import pytest
import torch
from lhotse import CutSet, Recording
from lhotse.audio import AudioSource
from small import small_config
from trees import sound

from datamodules.listing import Clip, Fault, list_clips
from datamodules.rows import RowWriter
from datamodules.shar import export
from datamodules.sources import read_samples, shelf_of
from kit.errors import KitError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("listing")
    for number in range(3):
        sound(folder / "audio" / f"u{number}.wav", 0.5 + 0.1 * number, 200 + 100 * number)
    return folder


def listed(name, folder):
    return list(list_clips(str(name), small_config(cache=folder / "cache")))


def write(path, *rows):
    path.write_text("".join(f"{json.dumps(row) if isinstance(row, dict) else row}\n" for row in rows))
    return path


def test_a_jsonl_needs_nothing_but_audio(folder):
    path = write(
        folder / "all.jsonl",
        {"audio": "audio/u0.wav"},
        {"id": 7, "audio": "audio/u1.wav", "text": "打开天窗", "language": "zh", "start": 0.1, "duration": 0.25},
        {"id": None, "audio": str(folder / "audio" / "u2.wav"), "duration": 0.7},
    )
    clips = listed(path, folder)
    audio = folder / "audio"
    assert clips == [
        Clip("u0", str(audio / "u0.wav")),
        Clip("7", str(audio / "u1.wav"), 0.1, 0.25, language="zh"),
        Clip("u2", str(audio / "u2.wav"), 0.0, 0.7),
    ]
    assert [len(clip.samples()) for clip in clips] == [8000, 4000, 11200]
    assert torch.equal(clips[1].samples(), Clip("", str(audio / "u1.wav")).samples()[1600:5600])


def test_bad_lines_are_faults_by_number_and_the_others_stay(folder):
    bad = ["{", "[1]", {"text": "no audio"}, {"audio": "a.wav", "start": "soon"}, {"audio": "a.wav", "duration": -1}]
    rows = [row for one in bad for row in (one, {"audio": "audio/u0.wav", "id": f"good{len(str(one))}"})]
    found = listed(write(folder / "bad.jsonl", *rows), folder)
    assert [type(one) for one in found] == [Fault, Clip] * len(bad)
    assert [one.id for one in found[::2]] == [f"line {2 * number + 1}" for number in range(len(bad))]
    assert all("bad.jsonl line" in one.reason and "mend or remove it" in one.reason for one in found[::2])
    assert all(len(one.reason.splitlines()) == 1 for one in found[::2])


def test_what_cannot_be_read_is_told_when_it_is_read(folder):
    path = write(folder / "late.jsonl", {"audio": "none.wav"}, {"id": "x", "audio": "audio/u0.wav", "duration": 3})
    missing, short = listed(path, folder)
    with pytest.raises(KitError, match=r"none\.wav does not exist"):
        missing.samples()
    with pytest.raises(KitError, match=r"u0\.wav ends 0\.50 s after its beginning, not 3\.00 s; mend the times of x"):
        short.samples()


def cuts_of(folder):
    recordings = [Recording.from_file(folder / "audio" / f"u{number}.wav") for number in range(3)]
    cuts = [recording.to_cut() for recording in recordings]
    return [cuts[0], cuts[1].truncate(offset=0.2, duration=0.3), cuts[2]]


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts_test.jsonl.gz", "cuts.json"])
def test_lhotse_manifests_need_no_supervisions(folder, name):
    cuts = cuts_of(folder)
    CutSet.from_cuts(cuts).to_file(folder / name)
    clips = listed(folder / name, folder)
    assert [clip.id for clip in clips] == [cut.id for cut in cuts]
    for clip, cut in zip(clips, cuts, strict=True):
        assert torch.equal(clip.samples(), read_samples(cut))


def test_cuts_that_are_no_plain_recording_are_faults(folder):
    plain, part, other = cuts_of(folder)
    run = Recording("run", [AudioSource("command", [0], f"touch {folder}/was-run")], 16000, 8000, 0.5).to_cut()
    path = folder / "cuts_odd.jsonl"
    rows = [plain.to_dict(), plain.mix(part).to_dict(), run.to_dict(), plain.append(other).to_dict(), {"id": "x"}]
    write(path, *rows)
    found = listed(path, folder)
    assert [type(one) for one in found] == [Clip, Fault, Fault, Fault, Fault]
    assert "is a command, which is not run" in found[2].reason
    assert "no cut of one recording" in found[1].reason and "line 5" in found[4].id
    assert not (folder / "was-run").exists()


def test_shar_folders_and_prepared_parts(folder):
    texts = {"text": "打开天窗", "language": "zh"}
    rows = [
        {"id": f"r{number}", "audio": str(folder / "audio" / f"u{number}.wav"), "rate": 16000, "samples": size, **texts}
        for number, size in enumerate((8000, 9600, 11200))
    ]
    prepared = folder / "prepared"
    prepared.mkdir()
    writer = RowWriter(prepared)
    for row in rows:
        writer.write(row, row["samples"] / 16000)
    writer.close()
    clips = listed(prepared, folder)
    assert [(clip.id, clip.language, clip.seconds) for clip in clips] == [(f"r{n}", "zh", None) for n in range(3)]

    config = small_config(cache=folder / "cache")
    from datamodules.rows import Rows

    export({"test": CutSet.from_cuts(Rows(prepared))}, folder / "shar", 2)
    packed = listed(folder / "shar" / "test", folder)
    assert [clip.id for clip in packed] == ["r0", "r1", "r2"]
    assert packed[0].path.endswith("recording.000000.tar") and packed[0].member == "r0"
    for one, other in zip(clips, packed, strict=True):
        assert torch.allclose(one.samples(), other.samples(shelf_of(config)), atol=1 / 32768)


def test_what_is_no_manifest_is_told(folder):
    with pytest.raises(UsageError, match=r"manifest=.*none does not exist; give a jsonl"):
        listed(folder / "none", folder)
    broken = folder / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"audio": "audio/u0.wav"}\n' * 5000)[:-20])
    with pytest.raises(KitError, match="broken.jsonl.gz cannot be read"):
        listed(broken, folder)
    (folder / "cuts_broken.json").write_text("{")
    with pytest.raises(KitError, match=r"cuts_broken.json is no list of Lhotse cuts"):
        listed(folder / "cuts_broken.json", folder)
