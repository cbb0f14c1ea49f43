"""Audio as clients send it, held against independent decoders."""

import io
import random

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from kit.audio.reading import AudioError
from kit.errors import KitError
from kit.serving import intake as module
from kit.serving.intake import Packets, Pages, Pcm, intake

opus = pytest.importorskip("opuslib_next", reason="needs nim4-kit[opus]")


def tone(rate, seconds=1.3):
    at = np.arange(round(rate * seconds)) / rate
    return (0.4 * np.sin(2 * np.pi * 440 * at) + 0.2 * np.sin(2 * np.pi * 1230 * at)).astype(np.float32)


def pcm(samples):
    return (samples * 32767).astype("<i2").tobytes()


def taken(source, message, seed=0, most=1000):
    """All samples of bytes that were cut at random."""
    draw, at, found = random.Random(seed), 0, []
    while at < len(message):
        size = draw.choice([1, 2, 33, 1000, 4097])
        source.put(message[at : at + size])
        at += size
        while len(samples := source.take(most)):
            found.append(samples)
    return np.concatenate([*found, source.finish()])


def packets(samples, rate=16000, milliseconds=20):
    encoder = opus.Encoder(rate, 1, "audio")
    size = rate * milliseconds // 1000
    whole = len(samples) // size * size
    return [encoder.encode(pcm(samples[at : at + size]), size) for at in range(0, whole, size)]


def ogg(samples, rate=16000):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="OGG", subtype="OPUS")
    return file.getvalue()


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_pcm_is_resampled_as_if_it_were_there_at_once(rate):
    samples = tone(rate)
    exact = np.frombuffer(pcm(samples), "<i2").astype(np.float32) / 32768
    divisor = np.gcd(rate, 16000)
    wanted = exact if rate == 16000 else resample_poly(exact, 16000 // divisor, rate // divisor)
    for seed in range(3):
        found = taken(Pcm(rate), pcm(samples), seed)
        assert len(found) == len(wanted) and np.abs(found - wanted).max() < 1e-5


def test_half_a_sample_at_the_end_is_no_fault():
    assert len(taken(Pcm(16000), pcm(tone(16000))[:-1])) == len(tone(16000)) - 1


def correlation(one, other):
    size = min(len(one), len(other))
    return np.corrcoef(one[:size], other[:size])[0, 1]


def test_ogg_is_decoded_as_libsndfile_does_it():
    """libsndfile decodes at 48 kHz; the sound is the same, at the same place."""
    samples = tone(16000, 3)
    content = ogg(samples)
    wanted, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    assert rate == 16000
    for seed in range(3):
        found = taken(Pages(), content, seed)
        assert abs(len(found) - len(wanted)) < 0.1 * rate
        assert correlation(found, wanted) > 0.99


def test_packets_one_a_message():
    source, found = Packets(), []
    samples = tone(16000, 2)
    for packet in packets(samples):
        source.put(packet)
        found.append(source.take(10000))
    delay = 104  # of the codec, at 16 kHz
    assert correlation(np.concatenate(found)[delay:], samples) > 0.97


def ogg_page(sizes, body, flags=0):
    return b"OggS\0" + bytes([flags]) + bytes(20) + bytes([len(sizes), *sizes]) + body


HEAD = ogg_page([19], b"OpusHead\x01\x01" + bytes(9), flags=2) + ogg_page([8], b"OpusTags")


def test_much_in_little_is_decoded_a_piece_at_a_time():
    """A page of 255 packets of a byte is 15 s of silence, and a message may have hundreds of pages."""
    source = Pages()
    source.put(HEAD + 400 * ogg_page([1] * 255, b"\x18" * 255))
    for _ in range(20):
        assert 10000 <= len(source.take(10000)) < 10000 + 1920
    assert len(source._packets._packets) <= 255


@pytest.mark.parametrize(
    ("kind", "message", "says"),
    [
        ("opus", b"", "no Opus packet"),
        ("opus", bytes(70000), "no Opus packet"),
        ("opus", b"\xff\xff\xff\xff", "cannot be decoded as Opus"),
        ("ogg", b"RIFF....WAVE", "no Ogg stream"),
        ("ogg", b"x", "no Ogg stream"),
        ("ogg", bytes(100), "no Ogg stream"),
        ("ogg", b"OggS\0" + bytes(21) + b"\x01\x08" + b"notOpus!", "does not begin with an Opus header"),
    ],
)
def test_what_is_no_audio_is_refused(kind, message, says):
    source = intake(kind, 16000)
    with pytest.raises(AudioError, match=says):
        source.put(message)
        source.take(1000)


def test_random_bytes_end_in_an_answer_or_an_audio_error():
    draw = random.Random(1)
    real = ogg(tone(16000))
    for _ in range(300):
        torn = bytearray(real)
        for _ in range(draw.randrange(1, 20)):
            torn[draw.randrange(len(torn))] = draw.randrange(256)
        source = Pages()
        try:
            source.put(bytes(torn))
            while len(samples := source.take(16000)):
                assert np.isfinite(samples).all()
        except AudioError:
            pass


def test_a_picture_in_the_comments_is_no_packet_and_no_end_of_the_memory():
    head, endless = HEAD[:47], ogg_page([255] * 255, bytes(255 * 255))
    source = Pages()
    with pytest.raises(AudioError, match="larger than any"):
        for message in [head, *[endless] * 100]:
            source.put(message)
            source.take(1000)


def test_without_libopus_only_opus_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opuslib_next", None)
    assert not module.has_opus()
    assert len(taken(intake("pcm16", 16000), pcm(tone(16000))))
    for kind in ("opus", "ogg"):
        with pytest.raises(KitError, match="nim4-kit\\[opus\\]"):
            intake(kind, 16000)
