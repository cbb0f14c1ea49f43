import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from datamodules.noise import CLIPS, TRAINING_CLIPS, TRAINING_LONGEST, Noises, clips_without_speech, open_noises
from datamodules.recordings import audio_files, cut_of, open_files
from kit.errors import KitError, UsageError


def write(folder, name, seconds=1.0, level=0.1, rate=16000, seed=0):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, level * np.random.default_rng(seed).standard_normal(int(seconds * rate)), rate)


def no_speech():
    raise AssertionError("a folder of recordings needs no speech")


def opened(folder, cache, held_out):
    return open_noises(str(folder), cache, no_speech, held_out, "noise_from")


@pytest.fixture
def folder(tmp_path):
    for number in range(20):
        write(tmp_path / "noise", f"{'ab'[number % 2]}/{number}.flac", seed=number)
    (tmp_path / "noise" / "README.txt").write_text("not audio")
    return tmp_path / "noise"


def test_training_and_evaluation_share_no_file(folder, tmp_path):
    train, held_out = (opened(folder, tmp_path / "cache", half) for half in (False, True))
    assert set(train.names) | set(held_out.names) == {
        path.relative_to(folder).as_posix() for path in folder.glob("*/*")
    }
    assert not set(train.names) & set(held_out.names)
    assert 1 <= len(held_out.names) <= 8


def test_more_files_move_none_to_the_other_half(folder, tmp_path):
    before = opened(folder, tmp_path / "cache", True).names
    for number in range(20, 40):
        write(folder, f"c/{number}.wav", seed=number)
    after = opened(folder, tmp_path / "cache", True).names
    assert [name for name in after if not name.startswith("c/")] == before


@pytest.mark.parametrize("count", [2, 3])
def test_few_files_still_give_both_halves(tmp_path, count):
    for number in range(count):
        write(tmp_path / "noise", f"{number}.wav")
    halves = [opened(tmp_path / "noise", tmp_path / "cache", half).names for half in (False, True)]
    assert all(halves) and sum(map(len, halves)) == count


def test_other_rates_are_resampled(tmp_path):
    write(tmp_path / "noise", "a.wav", rate=44100)
    store = open_files(audio_files(tmp_path / "noise", "noise_from"), tmp_path / "cache", "noise")
    assert len(store["a.wav"]) == 16000


def test_pieces_are_as_long_as_asked_and_from_everywhere(folder, tmp_path):
    noises, draw = opened(folder, tmp_path / "cache", False), np.random.default_rng(0)
    drawn = [noises.piece(size, draw) for size in [400, 16000, 40000] * 40]
    assert [len(piece) for _, piece in drawn] == [400, 16000, 40000] * 40
    assert {name for name, _ in drawn} == set(noises.names)
    long = next(piece for _, piece in drawn if len(piece) == 40000)
    assert np.array_equal(long[:16000], long[16000:32000])  # a short recording is repeated


def test_silent_places_are_passed_over(tmp_path):
    write(tmp_path / "noise", "loud.wav")
    write(tmp_path / "noise", "silent.wav", level=0.0)
    store = open_files(audio_files(tmp_path / "noise", "noise_from"), tmp_path / "cache", "noise")
    draw = np.random.default_rng(0)
    assert {Noises(store, ["loud.wav", "silent.wav"]).piece(1000, draw)[0] for _ in range(20)} == {"loud.wav"}
    assert not Noises(store, ["silent.wav"]).piece(1000, draw)[1].any()


def test_a_wrong_folder_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match=r"^noise_from=\S*nowhere: there is no such folder; give"):
        opened(tmp_path / "nowhere", tmp_path / "cache", False)
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "list.txt").write_text("x")
    with pytest.raises(UsageError, match=r"no audio file is in this folder; put wav"):
        opened(tmp_path / "noise", tmp_path / "cache", False)
    write(tmp_path / "noise", "one.wav")
    with pytest.raises(UsageError, match="only one file is in this folder; give two"):
        opened(tmp_path / "noise", tmp_path / "cache", False)
    (tmp_path / "noise" / "two.wav").write_text("text instead of audio")
    with pytest.raises(KitError, match=r"two\.wav cannot be read as audio .*; give a whole wav"):
        opened(tmp_path / "noise", tmp_path / "cache", False)
    assert not list((tmp_path / "cache" / "audio").iterdir())


def test_a_changed_file_is_read_anew(folder, tmp_path):
    first = opened(folder, tmp_path / "cache", False)
    name = first.names[0]
    write(folder, name, seconds=2.0, seed=99)
    assert len(opened(folder, tmp_path / "cache", False).store[name]) == 2 * len(first.store[name])


def test_clips_without_speech(folder, tmp_path):
    noises = opened(folder, tmp_path / "cache", True)
    clips = clips_without_speech(noises, tmp_path / "cache")
    assert len(clips) == CLIPS
    for clip in clips:
        samples, kind = clip.load_audio()[0], clip.supervisions[0].custom["domain"]
        assert 1 <= clip.duration <= 10 and clip.supervisions[0].text == ""
        level = 20 * np.log10(np.sqrt(np.mean(samples**2)) + 1e-9)
        low, high = {"silence": (-181, -179), "white noise": (-76, -44), "noise": (-51, -19)}[kind]
        assert low < level < high, kind
    kinds = [clip.supervisions[0].custom["domain"] for clip in clips]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"silence": 12, "white noise": 12, "noise": 36}
    again = clips_without_speech(opened(folder, tmp_path / "other", True), tmp_path / "other")
    assert all(np.array_equal(one.load_audio(), two.load_audio()) for one, two in zip(clips, again, strict=True)), (
        "every model must hear the same"
    )


def test_samples_in_memory_are_a_recording():
    samples = np.random.default_rng(0).integers(-3000, 3000, 5000).astype(np.int16)
    cut = cut_of("x", samples)
    assert np.array_equal(cut.load_audio()[0] * 32768, samples)
    part = cut.truncate(offset=0.1, duration=0.15)
    assert np.array_equal(part.load_audio()[0] * 32768, samples[1600:4000])
    CutSet.from_cuts([cut]).describe()


def test_clips_for_training_are_others_and_no_longer_than_most_utterances(folder, tmp_path):
    train, held_out = (opened(folder, tmp_path / "cache", half) for half in (False, True))
    clips = clips_without_speech(train, tmp_path / "cache", training=True)
    assert len(clips) == TRAINING_CLIPS
    assert all(1 <= cut.duration <= TRAINING_LONGEST and cut.supervisions[0].text == "" for cut in clips)
    assert {cut.supervisions[0].custom["domain"] for cut in clips} == {"silence", "white noise", "noise"}
    folders = {
        str(cut.recording.sources[0].source).rsplit("/", 1)[0]
        for cut in [*clips, *clips_without_speech(held_out, tmp_path / "cache")]
    }
    assert len(folders) == 2
