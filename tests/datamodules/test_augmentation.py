"""Augmentation of the audio: what it does to the sound, and that supervisions, alignments and features follow."""

import numpy as np
import pytest
import soundfile
import torch
from lhotse import MonoCut, SupervisionSegment
from lhotse.supervision import AlignmentItem
from small import small_config

from datamodules import synthesis
from datamodules.augmentation import Noise, Reverberation, Silence, Speed, alignment, noises_for, speech_start
from datamodules.base import FRAME_MIDDLE, FRAME_SECONDS
from datamodules.noise import Noises
from datamodules.recordings import cut_of, recording_of
from kit import runs
from kit.config import compose
from kit.errors import KitError, UsageError

RATE = 16000
NAMES = ("speed", "reverberation", "silence", "noise")


def seeded(number=0):
    return np.random.default_rng(number)


def clicks(places, seconds=2.0):
    """An utterance that is silent but for a short burst at each place (in seconds), with those as its alignment."""
    samples = seeded(7).integers(-3, 4, int(seconds * RATE)).astype(np.int16)
    for number, place in enumerate(places):
        start = round(place * RATE)
        samples[start : start + 160] = 8000 * np.sin(np.arange(160) * (0.3 + 0.2 * number))
    items = [AlignmentItem(str(number), place, 0.01) for number, place in enumerate(places)]
    return spoken(samples, items)


def spoken(samples, items=()):
    length = len(samples) / RATE
    said = SupervisionSegment("u", "u", 0.0, length, text="x", language="en", alignment={"phoneme": list(items)})
    return MonoCut("u", 0.0, length, 0, recording=recording_of("u", samples), supervisions=[said])


def speech(seconds=2.0, seed=0, level=3000):
    return spoken((level * seeded(seed).standard_normal(int(seconds * RATE))).clip(-32768, 32767).astype(np.int16))


class Store(dict):
    """Samples by name, as in an AudioStore."""


def noise(mean=10.0, deviation=0.0, share=1.0):
    transform = Noise(share, mean, deviation)
    hiss = (2000 * seeded(3).standard_normal(5 * RATE)).astype(np.int16)
    transform.noises = Noises(Store(hiss=hiss), ["hiss"])
    return transform


def reverberation(*responses):
    transform = Reverberation(1.0)
    transform.rooms = [recording_of("room", (20000 * one).astype(np.int16)) for one in responses]
    return transform


def onsets(cut):
    """The seconds at which bursts begin."""
    loud = np.abs(cut.load_audio()[0]) > 0.02
    starts = np.flatnonzero(
        loud
        & ~np.concatenate(
            [np.zeros(800, bool), np.lib.stride_tricks.sliding_window_view(loud, 800)[: len(loud) - 800].any(1)]
        )
    )
    return starts / RATE


PLACES = [0.3, 0.9, 1.7]


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("order", [("speed",), ("silence",), ("speed", "silence"), ("silence", "speed")])
def test_alignments_move_with_the_sound(factor, order):
    cut = clicks(PLACES)
    for name in order:
        cut = {"speed": Speed(1.0, [factor]), "silence": Silence(1.0, 1.0, 1.0, 3.0)}[name](cut, seeded(5))
    times = [item.start + speech_start(cut) for item in alignment(cut)]
    assert onsets(cut) == pytest.approx(times, abs=0.002)
    if "speed" in order:
        assert np.diff(times) == pytest.approx(np.diff(PLACES) / factor, abs=1e-3)


def test_alignments_stay_under_reverberation_and_noise():
    response = np.zeros(3000)
    response[[500, 900, 2000]] = 1.0, 0.4, 0.1  # 31 ms before the direct sound
    for transform in (reverberation(response), noise(30.0)):
        cut = transform(clicks(PLACES), seeded(1))
        assert [item.start + speech_start(cut) for item in alignment(cut)] == PLACES
        assert onsets(cut)[0] == pytest.approx(PLACES[0], abs=0.002)


def test_speed_changes_tempo_and_pitch():
    tone = (8000 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)).astype(np.int16)
    for factor in (0.9, 1.1):
        cut = Speed(1.0, [factor])(spoken(tone), seeded())
        samples = cut.load_audio()[0]
        assert len(samples) == cut.num_samples == round(2 * RATE / factor)
        assert np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples) == pytest.approx(1000 * factor, abs=2)
        assert cut.supervisions[0].duration == pytest.approx(2 / factor, abs=1e-3)


def test_silence_is_digital_and_around_the_same_samples():
    before = speech()
    cut = Silence(1.0, 1.0, 1.0, 3.0)(before, seeded(2))
    samples, offset = cut.load_audio()[0], round(speech_start(cut) * RATE)
    assert len(samples) == cut.num_samples > before.num_samples
    assert np.array_equal(samples[offset : offset + before.num_samples], before.load_audio()[0])
    assert not samples[:offset].any() and not samples[offset + before.num_samples :].any()
    assert cut.id == before.id and cut.supervisions[0].text == "x"


def test_lengths_of_silence_are_as_the_paper_draws_them():
    """Beta(1, 3): mean 1/4, variance 3/80."""
    draw, silence = seeded(), Silence(1.0, 1.0, 1.0, 3.0)
    cuts = [silence(speech(0.5), draw) for _ in range(400)]
    before = np.array([speech_start(cut) for cut in cuts])
    after = np.array([cut.duration - 0.5 for cut in cuts]) - before
    for lengths in (before, after):
        assert lengths.mean() == pytest.approx(0.25, abs=0.03)
        assert lengths.var() == pytest.approx(3 / 80, abs=0.01)
    assert abs(np.corrcoef(before, after)[0, 1]) < 0.15


@pytest.mark.parametrize("ratio", [-5.0, 0.0, 10.0, 25.0])
@pytest.mark.parametrize("silence", [False, True])
def test_noise_is_at_the_ratio_that_was_asked_for(ratio, silence):
    cut = speech()
    if silence:
        cut = Silence(1.0, 1.0, 1.0, 3.0)(cut, seeded(4))
    added = noise(ratio)(cut, seeded(9)).load_audio()[0] - cut.load_audio()[0]
    signal = speech().load_audio()[0]
    assert 10 * np.log10(np.mean(signal**2) / np.mean(added**2)) == pytest.approx(ratio, abs=0.05)


def test_noise_covers_the_silence_and_nothing_more():
    quiet = Silence(1.0, 1.0, 1.0, 3.0)(speech(), seeded(4))
    cut = noise()(quiet, seeded(9))
    samples, offset = cut.load_audio()[0], round(speech_start(cut) * RATE)
    assert len(samples) == quiet.num_samples
    assert (np.abs(samples[:offset]) > 0).mean() > 0.99
    assert (np.abs(samples[offset + 2 * RATE :]) > 0).mean() > 0.99


def test_ratios_are_normal():
    draw, transform, cut = seeded(), noise(10.0, 5.0), speech(0.5)
    clean = cut.load_audio()[0]
    ratios = [
        10 * np.log10(np.mean(clean**2) / np.mean((transform(cut, draw).load_audio()[0] - clean) ** 2))
        for _ in range(300)
    ]
    assert np.mean(ratios) == pytest.approx(10, abs=1)
    assert np.std(ratios) == pytest.approx(5, abs=0.7)


def test_reverberation_against_numpy():
    """The convolution, from the direct sound on, at the power of before."""
    response, cut = np.zeros(2000), speech()
    response[[300, 700, 1500]] = 1.0, 0.5, -0.25
    clean = cut.load_audio()[0]
    found = reverberation(response)(cut, seeded()).load_audio()[0]
    wanted = np.convolve(clean, response)[300 : 300 + len(clean)]
    wanted *= np.sqrt(np.mean(clean**2) / np.mean(wanted**2))
    assert found == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
def test_shares(share):
    draw, transform, cut = seeded(), Silence(share, 1.0, 1.0, 3.0), speech(0.5)
    touched = np.mean([transform(cut, draw) is not cut for _ in range(1000)])
    assert touched == pytest.approx(share, abs=0.05)


def test_any_order_can_be_loaded():
    response = np.exp(-np.arange(800) / 200)
    chain = [noise(), reverberation(response), Silence(1.0, 1.0, 1.0, 3.0), Speed(1.0, [1.1]), noise(5.0)]
    for turn in range(len(chain)):
        cut = clicks(PLACES)
        for transform in chain[turn:] + chain[:turn]:
            cut = transform(cut, seeded(turn))
        samples = cut.load_audio()[0]
        assert len(samples) == cut.num_samples and np.isfinite(samples).all()
        times = [item.start + speech_start(cut) for item in alignment(cut)]
        assert np.diff(times) == pytest.approx(np.diff(PLACES) / 1.1, abs=1e-3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Speed(1.5, [0.9]), "share=1.5"),
        (lambda: Speed(0.5, []), r"factors=\[\]"),
        (lambda: Speed(0.5, [0.0]), r"factors=\[0.0\]"),
        (lambda: Silence(0.5, -1.0, 1.0, 3.0), "seconds=-1.0"),
        (lambda: Silence(0.5, 1.0, 0.0, 3.0), "alpha=0.0"),
        (lambda: Noise(0.5, 10.0, -1.0), "deviation=-1.0"),
    ],
)
def test_wrong_values_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# --- in the data module -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Noise and impulse responses to read, so that none are made here."""
    base = tmp_path_factory.mktemp("sounds")
    (base / "noise").mkdir()
    (base / "rooms").mkdir()
    for number in range(5):
        soundfile.write(base / "noise" / f"{number}.flac", 0.1 * seeded(number).standard_normal(RATE * 4), RATE)
        soundfile.write(base / "rooms" / f"{number}.wav", np.exp(-np.arange(2000) / 300) * 0.9, RATE)
    return [f"noise_from={base / 'noise'}", f"augmentation.transforms.reverberation.folder={base / 'rooms'}"]


@pytest.fixture
def module(corpus, folders):
    def make(*overrides, paper=True):
        extra = ["augmentation=paper", *folders] if paper else [folders[0]]
        return corpus.data(
            small_config("stage=pretrain", "stage.batch_seconds=8", *extra, *overrides, cache=corpus.cache)
        )

    return make


def take(data, count):
    stream = iter(data.train_dataloader())
    return [next(stream) for _ in range(count)]


def same(one, other):
    assert [cut.id for cut in one.cuts] == [cut.id for cut in other.cuts]
    assert torch.equal(one.lengths, other.lengths) and torch.equal(one.features, other.features)
    assert torch.equal(one.frame_labels, other.frame_labels) and torch.equal(one.phonemes, other.phonemes)
    assert one.position == other.position


def test_an_untouched_cut_has_the_cached_features_exactly(module):
    data = module()
    augmentation = data._augmented_train().augmentation
    for cut in data.cuts("train").subset(first=5):
        whole = cut_of(cut.id, data.audio("train")[cut.id])
        assert torch.equal(augmentation.features(whole), data.store("train")[cut.id])


def test_shares_of_zero_are_no_augmentation(module):
    off = [f"augmentation.transforms.{name}.share=0" for name in NAMES]
    for one, other in zip(take(module(*off), 4), take(module(paper=False), 4), strict=True):
        same(one, other)


def test_batches_hold_the_augmented_audio_and_its_labels(module):
    """Features are those of the cuts in the batch, as changed; frame labels are those of the moved alignment."""
    data = module()
    changed = 0
    for batch in take(data, 4):
        for row, cut in enumerate(batch.cuts):
            direct = data._augmented_train().augmentation.features(cut.resample(RATE))
            assert torch.equal(batch.features[row, : batch.lengths[row]], direct)
            changed += direct.shape != data.store("train")[cut.id].shape
            labels, begin = batch.frame_labels[row], speech_start(cut)
            for place, label in enumerate(labels[labels >= 0].tolist()):
                at = place * FRAME_SECONDS + FRAME_MIDDLE - begin
                said = [item.symbol for item in alignment(cut) if item.start <= at < item.end]
                assert data.inventory.decode([label] if label else []) == said[-1:]
    assert changed > 3


def test_the_same_place_in_training_gives_the_same_batch(module):
    whole = take(module(), 6)
    for one, other in zip(whole, take(module(), 6), strict=True):
        same(one, other)
    resumed = module()
    resumed.load_state_dict({"position": list(whole[2].position)})
    for one, other in zip(whole[3:], take(resumed, 3), strict=True):
        same(one, other)


def test_loader_processes_change_nothing(module):
    for one, other in zip(take(module(), 4), take(module("data.workers=2"), 4), strict=True):
        same(one, other)


def test_epochs_and_seeds_differ(module):
    """The comparisons above can fail."""
    data = module()
    augmentation, cut = data._augmented_train().augmentation, data.cuts("train")[0]
    found = [augmentation(cut, (epoch, 1, 0)) for epoch in range(20)]
    lengths = {len(features) for _, features in filter(None, found)}
    assert len(lengths) > 5
    other = module("seed=2")._augmented_train().augmentation
    assert lengths != {len(features) for _, features in filter(None, (other(cut, (n, 1, 0)) for n in range(20)))}


def test_taking_one_out_leaves_the_others_chances(module):
    without = module("augmentation.transforms.noise=null")._augmented_train().augmentation
    full = module("augmentation.transforms.noise.share=0")._augmented_train().augmentation
    assert list(without.transforms) == ["speed", "reverberation", "silence"]
    for number, cut in enumerate(module().cuts("train").subset(first=6)):
        one, other = without(cut, (0, 1, number)), full(cut, (0, 1, number))
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one[1], other[1])


def test_validation_and_its_cache_stay_as_they_are(module):
    plain, data = module(paper=False), module()
    for one, other in zip(plain.val_dataloader(), data.val_dataloader(), strict=True):
        same(one, other)
    assert torch.equal(plain.normalization()[0], data.normalization()[0])


def test_noisy_parts_are_the_same_for_every_model(module):
    one, other = module(paper=False), module("seed=9", "data.evaluation_seconds=20")
    batches = [list(data.part_dataloader("test", noise_at=5.0)) for data in (one, other)]
    heard = [{cut.id: cut.load_audio() for batch in half for cut in batch.cuts} for half in batches]
    assert heard[0].keys() == heard[1].keys() == {cut.id for cut in one.cuts("test")}
    assert all(np.array_equal(samples, heard[1][name]) for name, samples in heard[0].items())
    for cut in one.cuts("test"):
        clean = cut.load_audio()
        added = heard[0][cut.id] - clean
        assert added.shape == clean.shape
        assert 10 * np.log10(np.mean(clean**2) / np.mean(added**2)) == pytest.approx(5.0, abs=0.05)


def test_evaluation_hears_noise_that_training_does_not(module):
    data = module("augmentation.transforms.noise.share=1")
    trained = data._augmented_train().augmentation.transforms["noise"].noises
    held_out = data._noisy("test", 5.0).augmentation.transforms["noise"].noises
    assert not set(trained.names) & set(held_out.names)


def test_every_corpus_has_a_part_without_speech(module):
    data = module(paper=False)
    batches = list(data.part_dataloader("silence", noise_at=5.0))
    assert sum(len(batch) for batch in batches) == 60
    assert all(batch.phonemes.dtype == torch.long and not batch.phoneme_lengths.any() for batch in batches)
    assert {text for batch in batches for text in batch.texts} == {""}


def test_synthesized_noise_of_the_corpus(corpus, tmp_path, monkeypatch):
    """The default, end to end: made in the cache, mixed in, and the clips without speech told by kind."""
    monkeypatch.setattr(synthesis, "SECONDS", 2)
    data = corpus.data(small_config("stage=pretrain", "augmentation=paper", cache=corpus.cache))
    data.cuts("train")  # from the cache that all tests share; what is made goes to another
    data.config.cache = str(tmp_path)
    assert len(take(data, 2)) == 2
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} >= {"noise", "rooms", "audio"}
    halves = [noises_for(data, None, held_out).names for held_out in (False, True)]
    assert [{name.split("/")[0] for name in half} for half in halves] == [{"train"}, {"held-out"}]
    kinds = {cut.supervisions[0].custom["domain"] for cut in data.cuts("silence")}
    assert kinds == {"silence", "white noise", "babble", "engine", "music"}


def test_a_wrong_transform_is_one_sentence(module, tmp_path):
    with pytest.raises(
        UsageError, match=r"augmentation\.transforms\.speed cannot be made: factors=\[9\] is not a list"
    ):
        module("augmentation.transforms.speed.factors=[9]").train_dataloader()
    with pytest.raises(UsageError, match=r"noise_from=\S*nothing: there is no such folder"):
        module(f"noise_from={tmp_path / 'nothing'}").train_dataloader()
    (tmp_path / "rooms").mkdir()
    with pytest.raises(UsageError, match="no audio file is in this folder"):
        module(f"augmentation.transforms.reverberation.folder={tmp_path / 'rooms'}").train_dataloader()
    (tmp_path / "rooms" / "a.wav").write_text("no audio")
    with pytest.raises(KitError, match=r"a\.wav cannot be read as audio"):
        module(f"augmentation.transforms.reverberation.folder={tmp_path / 'rooms'}").train_dataloader()


def test_augmentation_decides_what_a_run_is_and_noise_of_an_evaluation_does_not():
    plain, paper = (runs.material(compose([f"augmentation={name}"])) for name in ("none", "paper"))
    assert plain != paper == runs.material(compose(["augmentation=paper", "noise_at=5"]))
    assert paper != runs.material(compose(["augmentation=paper", "augmentation.transforms.noise=null"]))
    assert paper != runs.material(compose(["augmentation=paper", "noise_from=elsewhere"]))
    assert plain == runs.material(compose(["noise_from=elsewhere"]))
