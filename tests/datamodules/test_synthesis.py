import hashlib
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from small import small_config

from datamodules import synthesis
from datamodules.synthesis import babble, engine, music, noise_folder, room, room_folder


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    data = corpus.data(small_config(cache=corpus.cache))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "SECONDS", 4)
        yield noise_folder(tmp_path_factory.mktemp("noise"), data.cuts("train"))


def seeded(number):
    return np.random.default_rng(number)


def sounds(folder, kind):
    return [soundfile.read(path)[0] for path in sorted(folder.glob(f"*/{kind}-*.flac"))]


def spectrum(samples):
    """Power (257,) of the average window, adding up to 1, and (windows,) flatness of each."""
    power = np.abs(np.fft.rfft(samples[: len(samples) // 512 * 512].reshape(-1, 512) * np.hanning(512))) ** 2 + 1e-12
    flatness = np.exp(np.log(power).mean(1)) / power.mean(1)
    return power.mean(0) / power.mean(0).sum(), flatness


def test_six_files_of_each_kind_at_one_level(folder):
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.flac")]
    kinds = ("babble", "engine", "music")
    halves = {"train": 4, "held-out": 2}
    wanted = [f"{half}/{kind}-{i}.flac" for half, count in halves.items() for kind in kinds for i in range(count)]
    assert sorted(names) == sorted(wanted)
    for path in folder.rglob("*.flac"):
        samples, rate = soundfile.read(path)
        assert rate == 16000 and len(samples) == 4 * 16000 and np.abs(samples).max() <= 0.96
        assert 0.03 < np.sqrt(np.mean(samples**2)) < 0.11
        loudness = np.sqrt(np.mean(samples.reshape(-1, 16000) ** 2, axis=1))
        assert loudness.min() > 0.003  # no second without noise


def test_no_two_files_are_alike(folder):
    for kind in ("babble", "engine", "music"):
        found = sounds(folder, kind)
        for index, one in enumerate(found):
            for other in found[:index]:
                lags = np.fft.irfft(np.fft.rfft(one, 1 << 17) * np.conj(np.fft.rfft(other, 1 << 17)))
                assert np.abs(lags).max() / np.sqrt((one**2).sum() * (other**2).sum()) < 0.9


def test_the_same_speech_gives_the_same_noise(folder, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(synthesis, "SECONDS", 4)
    again = noise_folder(tmp_path, corpus.data(small_config(cache=corpus.cache)).cuts("train"))
    assert again.name == folder.name
    for path in folder.rglob("*.flac"):
        other = again / path.relative_to(folder)
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


def test_the_kinds_sound_different(folder):
    """Engines are low, music has sharp lines, babble has the band of speech and neither."""
    low, flat, pauses = {}, {}, {}
    for kind in ("babble", "engine", "music"):
        found = [spectrum(samples) for samples in sounds(folder, kind)]
        low[kind] = np.median([power[:7].sum() for power, _ in found])  # below 200 Hz
        flat[kind] = np.median([np.median(flatness) for _, flatness in found])
        pauses[kind] = np.median([np.std(np.log(samples.reshape(-1, 1600).std(1))) for samples in sounds(folder, kind)])
    assert low["engine"] > 0.5 > low["babble"]
    assert low["engine"] > 2 * low["babble"]
    assert flat["music"] < flat["babble"]
    assert pauses["engine"] < 0.6 * pauses["music"] and pauses["engine"] < 0.6 * pauses["babble"]


def test_music_stands_on_steady_pitches():
    """Its lines stay for as long as a note: neighboring windows are alike, those of an engine's rumble are not."""

    def likeness(samples):
        windows = samples[: len(samples) // 1024 * 1024].reshape(-1, 1024) * np.hanning(1024)
        power = np.log(np.abs(np.fft.rfft(windows))[:, 10:300] + 1e-6)
        power = power - power.mean(0)
        return np.mean([np.corrcoef(one, two)[0, 1] for one, two in pairwise(power)])

    assert likeness(music(seeded(1))) > likeness(engine(seeded(1))) + 0.2


def test_babble_is_several_voices():
    """Of 6 voices with half a second of speech and as much silence each, less is silent than of one."""
    burst = np.concatenate([np.sin(np.arange(8000)), np.zeros(8000)])

    def silent(voices):
        return np.mean(np.abs(babble([[burst]] * voices, seeded(0))) < 1e-6)

    assert silent(6) < 0.5 * silent(1)


@pytest.mark.parametrize("number", range(8))
def test_rooms_begin_with_the_loudest_and_die_away(number):
    response = room(seeded(number))
    energy = np.cumsum(response[::-1] ** 2)[::-1]  # Schroeder's backward integral
    assert np.isfinite(response).all()
    assert np.argmax(np.abs(response)) == 0 and response[0] > 0
    assert energy[len(energy) // 2] < 0.3 * energy[0]
    assert len(response) <= 0.4 * 16000


def test_images_against_the_naive_sum_over_reflections():
    """Every image of the first orders, mirrored wall by wall, is there with its distance."""
    size, listener, speaker = np.array([4.0, 3.0, 2.5]), np.array([1.0, 1.2, 1.1]), np.array([2.7, 2.0, 1.4])
    distance, bounces = synthesis._images(size, listener, speaker, reach=14.0)
    reflected = {(0, tuple(speaker))}
    for _ in range(2):
        reflected |= {
            (count + 1, tuple(np.round(np.where(np.arange(3) == axis, 2 * wall - np.array(at), at), 9)))
            for count, at in reflected
            for axis in range(3)
            for wall in (0.0, size[axis])
        }
    fewest = {}
    for count, at in reflected:
        fewest[at] = min(count, fewest.get(at, 9))
    for at, count in fewest.items():
        wanted = np.linalg.norm(np.array(at) - listener)
        assert np.any((np.abs(distance - wanted) < 1e-4) & (bounces == count)), (at, count)


def test_rooms_are_made_once(tmp_path):
    folder = room_folder(tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*.flac")}
    assert len(stamps) == synthesis.ROOMS
    assert {path: path.stat().st_mtime_ns for path in room_folder(tmp_path).glob("*.flac")} == stamps
