import math
import os
import time
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import soundfile
import torch

from kit.audio import features
from kit.audio.features import LogMel, LogMelStream, frame_count

REAL = Path(os.environ.get("KIT_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.fixture(scope="module")
def log_mel() -> LogMel:
    return LogMel()


def noise(samples: int, seed: int = 0, level: float = 0.1) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * level


def chirp(seconds: float) -> torch.Tensor:
    t = torch.arange(int(16000 * seconds)) / 16000
    return 0.5 * torch.sin(2 * math.pi * (50 + 1000 * t) * t) + 0.1 * noise(len(t))


def kaldi(samples: torch.Tensor, scale: float, high: float = -400.0) -> torch.Tensor:
    """Kaldi's features of samples in 16-bit scale, brought back to the scale [-1, 1]."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = 80
    options.mel_opts.low_freq = 20.0
    options.mel_opts.high_freq = high
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(16000, (samples * scale).tolist())
    bank.input_finished()
    frames = [bank.get_frame(index) for index in range(bank.num_frames_ready)]
    return torch.from_numpy(np.stack(frames)) - 2 * math.log(scale)


def assert_same_as_kaldi(log_mel: LogMel, samples: torch.Tensor, scale: float, high: float = -400.0) -> None:
    """Equal wherever float32 can tell: above the floor, log(1.2e-7) = -15.9, and down to 60 dB below a frame's peak."""
    ours, theirs = log_mel(samples), kaldi(samples, scale, high)
    assert ours.shape == theirs.shape
    loud = (ours > -11.0) & (ours > ours.amax(dim=1, keepdim=True) - math.log(1e6))
    assert loud.float().mean() > 0.3
    difference = (ours - theirs)[loud].abs()
    assert difference.max() < 2e-3  # reached beside pure tones, where windows of other rounding leak differently
    assert difference.mean() < 1e-4


@pytest.mark.parametrize("scale", [1.0, 32768.0])
def test_same_numbers_as_kaldi(log_mel, scale):
    for samples in (noise(20000), chirp(3.0), noise(5000, level=0.9).clamp(-1, 1) + 0.05):
        assert_same_as_kaldi(log_mel, samples, scale)


def test_kaldis_defaults_with_16_bit_samples_digital_silence_included():
    """Filters up to half the sample rate, and a floor that is as far below as these samples are larger."""
    log_mel = LogMel(high=8000, floor=2.0**-53)
    assert_same_as_kaldi(log_mel, chirp(2.0), 32768.0, high=0.0)
    silence = torch.zeros(2000)
    torch.testing.assert_close(log_mel(silence), kaldi(silence, 32768.0, high=0.0), atol=1e-4, rtol=0)
    assert log_mel(silence).max() < LogMel()(silence).min() - 20


def test_other_numbers_of_filters():
    log_mel = LogMel(bins=40)
    assert log_mel(noise(4000)).shape == (frame_count(4000), 40) and log_mel(noise(10)).shape == (0, 40)


def test_same_numbers_as_kaldi_on_real_speech(log_mel):
    files = sorted((REAL / "zh_read" / "audio").glob("*.flac"))[:5]
    if not files:
        pytest.skip(f"no real recordings in {REAL}")
    for file in files:
        samples = torch.from_numpy(soundfile.read(file, dtype="float32")[0])
        assert_same_as_kaldi(log_mel, samples, 32768.0)


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 401, 559, 560, 561, 16000])
def test_frames_are_whole_windows(log_mel, samples):
    expected = len(range(0, samples - 399, 160))
    assert frame_count(samples) == expected
    assert log_mel(torch.zeros(samples)).shape == (expected, 80)
    assert log_mel(torch.zeros(3, samples)).shape == (3, expected, 80)


def test_a_frame_depends_on_its_own_window_only(log_mel):
    samples = noise(4000)
    expected = log_mel(samples)[5]
    others = torch.full_like(samples, 0.7)
    others[800:1200] = samples[800:1200]
    assert torch.equal(log_mel(others)[5], expected)
    others[800] += 0.1
    assert not torch.equal(log_mel(others)[5], expected)


def test_batch_is_its_rows(log_mel):
    batch = torch.stack([noise(9000, seed) for seed in range(4)])
    torch.testing.assert_close(log_mel(batch), torch.stack([log_mel(row) for row in batch]), rtol=0, atol=1e-5)


def test_long_audio_in_blocks_gives_the_same(log_mel, monkeypatch):
    samples = noise(30000).reshape(2, -1)
    expected = log_mel(samples)
    for block in (1, 7, 91, 92):
        monkeypatch.setattr(features, "_BLOCK", block)
        torch.testing.assert_close(log_mel(samples), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("level, offset", [(0.1, 0.0), (1e-4, 0.0), (1e-4, 0.5), (0.0, 0.0), (0.1, -0.9)])
def test_stream_equals_the_whole_however_it_is_cut(log_mel, level, offset):
    rng = np.random.default_rng(int(level * 1e4))
    samples = noise(24000, level=level) + offset
    whole = log_mel(samples)
    stream = LogMelStream(log_mel)
    for longest in (1, 3, 160, 401, 5000):
        limit = 1000 if longest < 100 else len(samples)
        pieces, at = [], 0
        while at < limit:
            size = int(rng.integers(0, longest + 1))
            pieces.append(stream.push(samples[at : min(at + size, limit)]))
            at += size
        parts = torch.cat(pieces)
        assert len(parts) == frame_count(limit)
        torch.testing.assert_close(parts, whole[: len(parts)], rtol=0, atol=1e-5)
        stream.reset()


def test_reset_forgets_the_last_utterance(log_mel):
    stream = LogMelStream(log_mel)
    stream.push(torch.ones(399))
    stream.reset()
    samples = noise(400)
    assert len(stream.push(samples[:399])) == 0
    torch.testing.assert_close(stream.push(samples[399:]), log_mel(samples), rtol=0, atol=1e-5)


def test_stream_does_not_share_memory_with_its_source(log_mel):
    samples = noise(800)
    expected = log_mel(samples)
    stream, piece = LogMelStream(log_mel), samples[:300].clone()
    first = stream.push(piece)
    piece.zero_()
    torch.testing.assert_close(torch.cat((first, stream.push(samples[300:]))), expected, rtol=0, atol=1e-5)


def test_module_is_no_part_of_a_model_s_weights():
    log_mel = LogMel()
    assert not list(log_mel.parameters())
    assert not log_mel.state_dict()


def test_half_precision_models_keep_their_features():
    samples = noise(8000)
    expected = LogMel()(samples)
    assert torch.equal(LogMel().half()(samples), expected)
    assert torch.equal(LogMel().bfloat16().double()(samples.double()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(LogMel()(samples), expected)


def test_silence_has_the_value_of_the_floor(log_mel):
    floor = math.log(torch.finfo(torch.float32).eps)
    torch.testing.assert_close(log_mel(torch.full((800,), 0.3)), torch.full((3, 80), floor))


def test_faster_than_real_time_by_far(log_mel):
    samples = noise(16000 * 60)
    log_mel(samples)
    start = time.process_time()
    log_mel(samples)
    speed = 60 / (time.process_time() - start)
    print(f"\nlog-mel at {speed:.0f} x real time on one thread's time")
    assert speed > 100
