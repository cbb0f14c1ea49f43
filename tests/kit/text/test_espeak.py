"""The speech program: repeatable, with times that fit the sound, and clear about what it cannot do."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kit.errors import KitError
from kit.text.espeak import Espeak, Speech

CALLS = [
    ("导航到清华大学", "cmn+f2", 240, 60, 45),
    ("播放 thriller 吧", "cmn+m3", 200, 40, 60),
    ("set the temperature to seventy degrees", "en-us+f2", 170, 50, 50),
    ("导航到清华大学", "cmn+f2", 240, 60, 45),
]


@pytest.fixture(scope="module")
def espeak() -> Iterator[Espeak]:
    with Espeak() as worker:
        yield worker


@pytest.fixture(scope="module")
def spoken() -> list[Speech]:
    with Espeak() as worker:
        return [worker.say(*call) for call in CALLS]


def test_a_fresh_worker_repeats_every_sample(spoken: list[Speech]) -> None:
    with Espeak() as worker:
        again = [worker.say(*call) for call in CALLS]
    for one, other in zip(spoken, again, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)
        assert (one.events, one.words, one.rate) == (other.events, other.words, other.rate)


def test_samples_are_speech_of_a_sensible_length(spoken: list[Speech]) -> None:
    for (text, *_), speech in zip(CALLS, spoken, strict=True):
        assert speech.samples.dtype == np.int16
        assert speech.rate == 22050
        assert 0.05 < len(speech.samples) / speech.rate / len(text) < 0.4
        assert np.abs(speech.samples.astype(int)).max() > 3000


def test_event_times_never_fall_and_stay_inside_the_sound(spoken: list[Speech]) -> None:
    for speech in spoken:
        times = [seconds for seconds, _ in speech.events]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= len(speech.samples) / speech.rate


def test_words_point_into_the_text_and_the_events(spoken: list[Speech]) -> None:
    text, speech = CALLS[1][0], spoken[1]
    assert [text[at : at + length] for _, at, length in speech.words] == [*"播放", "thriller", "吧"]
    indices = [index for index, _, _ in speech.words]
    assert indices == sorted(indices)
    thriller = [name for _, name in speech.events[indices[2] : indices[3]]]
    assert thriller[:2] == ["(en)", "T"]


def test_events_name_the_sounds_at_their_times() -> None:
    """Hissing is where the hiss is: more zero crossings in s than in the vowel after it."""
    with Espeak() as worker:
        speech = worker.say("see", "en-us+m3", 120)
    (hiss, _), (vowel, _), (end, _) = speech.events[:3]
    rates = []
    for start, stop in ((hiss, vowel), (vowel, end)):
        part = speech.samples[int(start * speech.rate) : int(stop * speech.rate)].astype(float)
        rates.append(float(np.mean(np.diff(np.sign(part)) != 0)))
    assert rates[0] > 2 * rates[1]


def test_rate_and_pitch_are_obeyed(espeak: Espeak) -> None:
    slow = espeak.say("good morning everybody", "en-us", 100)
    fast = espeak.say("good morning everybody", "en-us", 300)
    assert len(slow.samples) > 1.5 * len(fast.samples)


def test_pronunciations(espeak: Espeak) -> None:
    assert espeak.ipa(["cat", "shoe"]) == ["kˈæt", "ʃˈuː"]
    assert espeak.ipa([]) == []
    assert espeak.ipa(["tomato"], "en-us") != espeak.ipa(["tomato"], "en-gb-x-rp")


def test_no_text_is_silence(espeak: Espeak) -> None:
    assert not espeak.say("", "cmn").samples.any()
    assert espeak.ipa([""]) == [""]


@pytest.mark.parametrize(
    ("voice", "hint"),
    [("cmn+f22", r"did you mean cmn\+f2\?"), ("en-us+zzzzz", "the variants are"), ("xx+f2", "cmn"), ("", "cmn")],
)
def test_an_unknown_voice_is_named_and_the_worker_lives_on(espeak: Espeak, voice: str, hint: str) -> None:
    with pytest.raises(KitError, match=hint):
        espeak.say("hello", voice)
    with pytest.raises(KitError, match=hint):
        espeak.ipa(["hello"], voice)
    assert espeak.ipa(["cat"]) == ["kˈæt"]


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KitError, match="pip install espeakng-loader"):
        Espeak()


def test_a_dead_worker_is_one_sentence() -> None:
    with Espeak() as worker:
        worker._process.kill()
        with pytest.raises(KitError, match="start it again"):
            worker.say("hello", "en-us")
    with pytest.raises(KitError, match="start it again"):
        worker.say("hello", "en-us")
    worker.close()


def test_the_library_stays_out_of_this_process_and_the_worker_is_light(espeak: Espeak) -> None:
    espeak.say("hello", "en-us")
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert "libespeak" not in maps.read_text()
    heavy = "{'torch', 'numpy', 'scipy', 'lhotse'} & set(sys.modules)"
    code = f"import sys, kit.text.espeak; sys.exit(1 if {heavy} else 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
