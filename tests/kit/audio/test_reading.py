import math
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

from kit.audio import reading
from kit.audio.reading import AudioError, read_audio
from kit.errors import KitError

RATES = [8000, 11025, 12345, 16000, 22050, 32000, 44099, 44100, 48000, 96000]


def tone(rate: int, seconds: float = 1.0, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 16000, subtype: str | None = None) -> Path:
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(path, "w", rate, channels, subtype) as file:
        for start in range(0, len(samples), 1000):  # libsndfile crashes on long writes of ogg
            file.write(samples[start : start + 1000])
    return path


def at_16k(samples: np.ndarray, rate: int) -> np.ndarray:
    common = math.gcd(rate, 16000)
    return resample_poly(samples, 16000 // common, rate // common) if rate != 16000 else samples


@pytest.mark.parametrize(
    "name, subtype", [("a.wav", "PCM_16"), ("a.wav", "PCM_24"), ("a.wav", "FLOAT"), ("a.flac", None)]
)
def test_lossless_formats_give_the_samples_exactly(tmp_path, name, subtype):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 5000).astype(np.float32) / 2**15
    result = read_audio(write(tmp_path / name, samples, subtype=subtype))
    assert result.dtype == torch.float32
    assert torch.equal(result, torch.from_numpy(samples))


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.OGG"])
def test_lossy_formats_give_nearly_the_samples(tmp_path, name):
    samples = tone(16000, 2.0)
    result = read_audio(write(tmp_path / name, samples)).numpy()
    assert abs(len(result) - len(samples)) < 2500  # mp3 pads
    spectrum = np.abs(np.fft.rfft(result[: len(samples)]))
    assert abs(np.argmax(spectrum) * 16000 / len(result[: len(samples)]) - 440) < 2
    assert abs(np.sqrt(np.mean(result[4000:20000] ** 2)) - 0.5 / math.sqrt(2)) < 0.02


def test_channels_are_averaged(tmp_path):
    channels = np.random.default_rng(1).uniform(-1, 1, (3000, 5)).astype(np.float32)
    result = read_audio(write(tmp_path / "a.wav", channels, subtype="FLOAT"))
    np.testing.assert_allclose(result.numpy(), channels.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
def test_resampling_in_blocks_equals_resampling_at_once(tmp_path, monkeypatch, rate):
    rng = np.random.default_rng(rate)
    samples = rng.uniform(-0.7, 0.7, int(rate * 1.3) + 7).astype(np.float32)
    expected = np.clip(at_16k(samples, rate), -1, 1)
    path = write(tmp_path / "a.wav", samples, rate, "FLOAT")
    for block in (1 << 20, 997, 20_000):
        monkeypatch.setattr(reading, "_BLOCK", block)
        result = read_audio(path).numpy()
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_a_tone_stays_the_same_tone(tmp_path, rate):
    result = read_audio(write(tmp_path / "a.wav", tone(rate), rate, "FLOAT")).numpy()
    inner = slice(200, -200)
    np.testing.assert_allclose(result[inner], tone(16000)[inner], atol=2e-3)


def test_other_sample_rates_can_be_asked_for(tmp_path):
    path = write(tmp_path / "a.wav", tone(16000), 16000, "FLOAT")
    np.testing.assert_allclose(read_audio(path, sample_rate=8000).numpy(), resample_poly(tone(16000), 1, 2), atol=1e-6)


@pytest.mark.parametrize("samples", [1, 2, 10])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_tiny_recordings(tmp_path, samples, rate):
    result = read_audio(write(tmp_path / "a.wav", np.full(samples, 0.25, np.float32), rate))
    assert len(result) == math.ceil(samples * 16000 / rate)


def test_overshoot_is_clipped(tmp_path):
    result = read_audio(write(tmp_path / "a.wav", np.array([0.0, 1.5, -2.0], np.float32), subtype="FLOAT"))
    assert result.tolist() == [0.0, 1.0, -1.0]


def long_wav(path: Path, seconds: float, rate: int) -> Path:
    """A recording of silence whose samples take no space on the disk."""
    size = int(seconds * rate) * 2
    header = (
        b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    )
    with path.open("wb") as file:
        file.write(header + b"data" + struct.pack("<I", size))
        file.truncate(44 + size)
    return path


def test_too_long_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = long_wav(tmp_path / "a.wav", 7201, 16000)
    monkeypatch.setattr(reading, "_mono_blocks", lambda *_: pytest.fail("it was read"))
    with pytest.raises(AudioError, match=r"a\.wav is longer than the limit of 7200 s"):
        read_audio(path)


def test_the_limit_counts_what_comes_when_the_header_is_wrong():
    class Endless:
        samplerate, channels, frames = 16000, 1, 100

        def blocks(self, size, **_):
            while True:
                yield np.zeros((size, 1), np.float32)

    with pytest.raises(AudioError, match="longer than the limit of 60 s"):
        list(reading._mono_blocks(Path("a.mp3"), Endless(), 60.0))


def test_as_long_as_the_limit_is_accepted(tmp_path):
    path = write(tmp_path / "a.wav", tone(16000))
    assert len(read_audio(path, max_seconds=1.0)) == 16000
    with pytest.raises(AudioError, match="limit of 0.99 s"):
        read_audio(path, max_seconds=0.99)


def faulty(folder: Path, fault: str) -> Path:
    path = folder / "a.wav"
    if fault == "folder":
        path.mkdir()
    elif fault == "empty":
        path.touch()
    elif fault == "text":
        path.write_text("turn left at the next corner\n" * 50)
    elif fault == "no samples":
        write(path, np.zeros(0, np.float32))
    elif fault in ("nan", "inf", "scale"):
        value = {"nan": np.nan, "inf": -np.inf, "scale": 30000.0}[fault]
        write(path, np.array([0.0, value, 0.5], np.float32), subtype="FLOAT")
    elif fault == "torn header":
        path.write_bytes(write(folder / "whole.wav", tone(16000)).read_bytes()[:30])
    elif fault == "torn flac":
        path.write_bytes(write(folder / "whole.flac", tone(16000)).read_bytes()[:5000])
    elif fault == "rate":
        long_wav(path, 0.001, 2_000_000)
    return path


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("empty", "is empty"),
        ("text", "cannot be read as audio"),
        ("no samples", "has no samples"),
        ("nan", "NaN or infinite"),
        ("inf", "NaN or infinite"),
        ("scale", "as large as 30000"),
        ("torn header", "cannot be read as audio"),
        ("torn flac", "cannot be read as audio"),
        ("rate", "sample rate of 2000000 Hz"),
    ],
)
def test_faults_have_one_sentence_that_names_the_file_and_the_mend(tmp_path, fault, words):
    path = faulty(tmp_path, fault)
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    message = str(caught.value)
    assert isinstance(caught.value, KitError)
    assert message.startswith(str(path)) and words in message and "; " in message and "\n" not in message


def test_odd_names(tmp_path):
    assert len(read_audio(write(tmp_path / "播放 ‘a’.wav", tone(16000)))) == 16000
    with pytest.raises(AudioError, match="cannot be opened"):
        read_audio("a\0.wav")
