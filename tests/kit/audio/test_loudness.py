import numpy as np
import pytest

from kit.audio.loudness import signal_to_noise


def speech(draw, seconds=8):
    """Bursts with pauses between, three fifths of the time."""
    voiced = np.repeat(draw.random(seconds * 5) < 0.6, 3200)
    return voiced * draw.standard_normal(len(voiced)), voiced


@pytest.mark.parametrize("ratio", [5, 10, 20, 30])
def test_noise_at_a_known_ratio(ratio):
    draw = np.random.default_rng(ratio)
    clean, voiced = speech(draw)
    noise = draw.standard_normal(len(clean)) * np.sqrt((clean[voiced] ** 2).mean() / 10 ** (ratio / 10))
    assert signal_to_noise(clean + noise) == pytest.approx(ratio, abs=1.0)
    assert signal_to_noise(0.01 * (clean + noise)) == pytest.approx(signal_to_noise(clean + noise))


def test_more_noise_is_a_lower_ratio():
    draw = np.random.default_rng(1)
    clean, _ = speech(draw)
    noise = draw.standard_normal(len(clean))
    found = [signal_to_noise(clean + level * noise) for level in (0.01, 0.03, 0.1, 0.3)]
    assert found == sorted(found, reverse=True) and len(set(found)) == 4


def test_ends_of_the_scale():
    draw = np.random.default_rng(2)
    assert signal_to_noise(speech(draw)[0]) == 60.0
    assert signal_to_noise(draw.standard_normal(16000)) < 3
    assert signal_to_noise(np.zeros(16000)) == signal_to_noise(np.zeros(10)) == 0.0
