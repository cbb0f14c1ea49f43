"""Manifests on disk: the same cuts as in memory, at any place, in any process, and small."""

import pickle

import numpy as np
import pytest
import torch
from lhotse import CutSet
from trees import sound

from datamodules import rows as module
from datamodules.rows import (
    Chained,
    Picked,
    Rows,
    RowWriter,
    archives,
    as_cuts,
    cut_of_row,
    durations,
    kept_rows,
    subset,
)
from datamodules.sampling import AT_ONCE, near
from datamodules.sources import read_samples
from kit.audio.reading import AudioError, read_audio
from kit.errors import KitError


def row(number, **more):
    about = {"id": f"u{number}", "audio": f"/x/{number}.wav", "rate": 8000, "samples": 8000 + 80 * number}
    return {**about, "text": f"你好 {number}", "language": "zh", "speaker": "S", **more}


@pytest.fixture
def some_rows(tmp_path):
    items = [row(number) for number in range(20)] + [row(20, start=0.25, duration=0.5, entities=["a"])]
    return items, kept_rows(tmp_path / "m", ((one, cut_of_row(one).duration, None) for one in items))


def test_every_place_has_its_cut(some_rows):
    items, rows = some_rows
    cuts = [cut_of_row(one) for one in items]
    assert len(rows) == 21 and list(rows) == cuts and [rows[place] for place in range(-21, 21)] == cuts * 2
    assert rows[3:7] == cuts[3:7]
    assert torch.allclose(rows.durations, torch.tensor([cut.duration for cut in cuts]))
    last = rows[-1]
    assert (last.start, last.duration, last.recording.duration) == (0.25, 0.5, 1.2)
    assert last.supervisions[0].custom == {"entities": ["a"]}
    with pytest.raises(IndexError):
        rows[21]


def test_rows_travel_to_other_processes(some_rows):
    _, rows = some_rows
    other = pickle.loads(pickle.dumps(rows))
    assert list(other) == list(rows) and other[5] == rows[5]


def test_few_are_held_and_many_are_not(some_rows, monkeypatch):
    _, rows = some_rows
    assert not as_cuts(rows).is_lazy
    monkeypatch.setattr(module, "EAGER", 20)
    cuts = as_cuts(rows)
    assert cuts.is_lazy and len(cuts) == 21 and list(cuts) == list(rows) and cuts[4] == rows[4]


def test_a_selection_of_many_stays_on_disk(some_rows):
    _, rows = some_rows
    held, lazy = CutSet.from_cuts(rows), CutSet(rows)
    for cuts in (held, lazy):
        chosen = subset(cuts, [5, 2, 5])
        assert [cut.id for cut in chosen] == ["u5", "u2", "u5"] and chosen[1].id == "u2"
        assert torch.allclose(durations(chosen), durations(held)[[5, 2, 5]])
    assert subset(lazy, [1]).is_lazy and not subset(held, [1]).is_lazy


def test_several_are_one_and_keep_apart(some_rows):
    _, rows = some_rows
    both = Chained({"a": rows, "b": Picked(rows, np.array([3, 4])), "c": list(rows)[:2]})
    ids = [f"a/{cut.id}" for cut in rows] + ["b/u3", "b/u4", "c/u0", "c/u1"]
    assert [cut.id for cut in both] == [both[place].id for place in range(len(both))] == ids
    assert both[21].supervisions[0].id == "u3"
    assert torch.allclose(durations(CutSet(both)), torch.tensor([cut.duration for cut in both]).double())


def test_archives_of_what_lies_in_some(tmp_path, some_rows):
    _, rows = some_rows
    assert archives(CutSet(rows)) is None
    items = [(row(number), 1.0, number // 2) for number in range(5)]
    stored = kept_rows(tmp_path / "shar", items, about={"archives": ["x", "y", "z"]})
    assert archives(CutSet(stored)).tolist() == [0, 0, 1, 1, 2]
    both = CutSet(Chained({"a": stored, "b": list(rows)[:2], "c": Picked(stored, np.array([4, 0]))}))
    assert archives(both).tolist() == [0, 0, 1, 1, 2, 3, 3, 6, 4]


def test_few_archives_are_needed_at_a_time():
    generator = torch.Generator().manual_seed(1)
    owners = torch.arange(5000) // 50
    drawn = torch.randperm(5000, generator=generator)
    orders = [near(drawn, owners[drawn], torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(5000))
        windows = owners[order].split(50 * AT_ONCE)
        assert all(len(window.unique()) <= AT_ONCE for window in windows), "an archive is done with, then forgotten"
        assert len(owners[order][:100].unique()) > AT_ONCE / 2, "and shuffled with others"


def test_two_of_one_id_are_refused(tmp_path):
    items = [(row(1), 1.0, None), (row(2), 1.0, None), (row(1), 1.0, None)]
    with pytest.raises(KitError, match="a.jsonl: an id comes twice, such as u1; give each utterance an id of its own"):
        kept_rows(tmp_path / "m", items, about={"source": "a.jsonl"})
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", [module.ROWS, module.INDEX, module.ABOUT])
def test_a_damaged_manifest_is_named(some_rows, name):
    _, rows = some_rows
    (rows.folder / name).write_bytes(b"x") if name != module.ROWS else (rows.folder / name).unlink()
    with pytest.raises(KitError, match=r"the manifest .*m is damaged .*; delete it and make it again"):
        Rows(rows.folder)


def test_an_utterance_costs_twelve_bytes(tmp_path):
    (tmp_path / "m").mkdir()
    writer = RowWriter(tmp_path / "m")
    for number in range(1000):
        writer.write(row(number), 1.0)
    writer.close()
    rows = Rows(tmp_path / "m")
    assert rows.offsets.nbytes + rows.durations.numpy().nbytes <= 12 * 1000 + 8


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_a_part_of_a_recording_is_read_alone(tmp_path, kind):
    path = sound(tmp_path / f"a.{kind}", 3.0)
    whole = read_audio(path)
    about = {**row(1), "audio": str(path), "rate": 16000, "samples": 48000, "start": 1.25, "duration": 0.5}
    part = read_samples(cut_of_row(about))
    assert len(part) == 8000
    torch.testing.assert_close(part, whole[20000:28000], atol=1e-3 if kind == "ogg" else 0.0, rtol=0)


def test_a_part_beyond_the_end_is_named(tmp_path):
    path = sound(tmp_path / "a.wav", 1.0)
    with pytest.raises(AudioError, match=r"a.wav ends after 1.00 s, before second 2; check the times"):
        read_audio(path, start=2.0, seconds=1.0)
    assert len(read_audio(path, start=0.5, seconds=9.0)) == 8000, "as much as there is"


def test_a_part_of_a_long_recording_passes_the_limit(tmp_path):
    path = sound(tmp_path / "a.wav", 3.0)
    with pytest.raises(AudioError, match="longer than the limit of 2 s"):
        read_audio(path, max_seconds=2.0)
    assert len(read_audio(path, max_seconds=2.0, start=1.0, seconds=1.0)) == 16000


def test_a_part_at_another_rate(tmp_path):
    import soundfile

    tone = np.sin(2 * np.pi * 200 * np.arange(44100) / 44100) * 0.3
    soundfile.write(tmp_path / "a.wav", tone, 44100)
    whole, part = read_audio(tmp_path / "a.wav"), read_audio(tmp_path / "a.wav", start=0.5, seconds=0.25)
    assert len(part) == 4000
    torch.testing.assert_close(part[100:-100], whole[8100:11900], atol=1e-3, rtol=0)
