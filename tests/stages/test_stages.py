"""Each stage trains on the embedded corpus for some steps: exactly the named parameters move, and the loss falls."""

import math
import re
from itertools import pairwise

import pytest
import torch
from small import make_stage, small_config, small_recognizer

from kit.errors import KitError, UsageError
from kit.model.export import save_export
from kit.model.recognizer import PARTS
from kit.plan import needed
from stages.base import cosine, freeze_except
from stages.language_model import PseudoSpeech

STAGES = ["language_model", "pretrain", "adapt", "align", "ia_sft", "sft", "context_sft", "rl", "phoneme_head"]
MOVES = {
    "language_model": {"llm"},
    "pretrain": {"encoder", "phoneme_head"},
    "adapt": {"encoder", "phoneme_head"},
    "align": {"adaptor"},
    "ia_sft": {"adaptor", "llm"},
    "sft": set(PARTS),
    "context_sft": set(PARTS),
    "rl": set(PARTS),
    "phoneme_head": {"phoneme_head"},
}


def run(stage, data, steps):
    options = stage.configure_optimizers()
    optimizer, schedule = options["optimizer"], options["lr_scheduler"]["scheduler"]
    stage.train()
    losses = []
    for _, batch in zip(range(steps), data.train_dataloader(), strict=False):
        loss = stage.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", STAGES)
def test_exactly_the_named_parameters_move(name, corpus):
    stage, data = make_stage(name, corpus)
    before = {key: value.clone() for key, value in stage.recognizer.state_dict().items()}
    losses = run(stage, data, 3)
    assert all(map(math.isfinite, losses))
    moved = {key for key, value in stage.recognizer.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".")[0] for key in moved} == MOVES[name]
    patterns = list(stage.config.stage.trains)
    assert all(any(re.fullmatch(pattern, key) for pattern in patterns) for key in moved)
    assert set(stage.trained) == {key for key, p in stage.recognizer.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["language_model", "pretrain"])
def test_a_few_steps_lower_the_loss(name, corpus):
    size = {"pretrain": "stage.batch_seconds=10", "language_model": "stage.batch_texts=8"}[name]
    stage, data = make_stage(name, corpus, None, "trainer.max_steps=30", size)
    losses = run(stage, data, 30)
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.3


def test_frozen_parts_stay_in_eval_mode(corpus):
    stage, _ = make_stage("align", corpus)
    stage.train()
    recognizer = stage.recognizer
    assert recognizer.adaptor.training
    assert not recognizer.encoder.training
    assert not recognizer.llm.training


def test_parts_start_from_the_exports_named(corpus, tmp_path):
    first, second = small_recognizer(("encoder", "phoneme_head"), seed=5), small_recognizer(("llm",), seed=6)
    save_export(first, tmp_path / "pretrain", {})
    save_export(second, tmp_path / "language_model", {})
    starts = {"pretrain": tmp_path / "pretrain", "language_model": tmp_path / "language_model"}
    stage, _ = make_stage("align", corpus, starts)
    built = stage.recognizer.state_dict()
    for source in (first, second):
        for key, value in source.state_dict().items():
            assert torch.equal(built[key], value), key
    assert stage.recognizer.tokenizer.get_vocab() == second.tokenizer.get_vocab()


def test_the_phoneme_head_starts_from_the_stages_that_were_said(corpus, tmp_path):
    first, second = small_recognizer(seed=5), small_recognizer(("encoder", "phoneme_head"), seed=6)
    save_export(first, tmp_path / "sft", {})
    save_export(second, tmp_path / "pretrain", {})
    starts = {"sft": tmp_path / "sft", "pretrain": tmp_path / "pretrain"}
    for head, source in (("pretrain", second), ("sft", first)):
        stage, _ = make_stage("phoneme_head", corpus, starts, "stage.after=sft", f"stage.head={head}")
        assert set(needed(stage.config)) == {"sft", head}
        for key, value in stage.recognizer.state_dict().items():
            wanted = source if key.startswith("phoneme_head") else first
            assert torch.equal(value, wanted.state_dict()[key]), key


@pytest.mark.parametrize(
    ("name", "after", "wanted"),
    [
        ("align", "adapt", ["language_model", "adapt"]),
        ("sft", "align", ["align"]),
        ("context_sft", "align", ["align"]),
        ("rl", "sft", ["sft"]),
    ],
)
def test_a_stage_begins_with_the_one_that_was_said(name, after, wanted):
    config = small_config(f"stage={name}", f"stage.after={after}")
    assert needed(config) == wanted
    assert after in config.stage.starts_from.values()


def test_init_gives_all_the_parts_it_has(corpus, tmp_path):
    whole = small_recognizer(seed=7)
    save_export(whole, tmp_path / "sft", {})
    stage, _ = make_stage("pretrain", corpus, {"init": tmp_path / "sft"})
    for key, value in stage.recognizer.state_dict().items():
        assert torch.equal(value, whole.state_dict()[key]), key


@pytest.mark.parametrize("anew", [False, True])
def test_normalization_comes_from_the_training_features(corpus, tmp_path, anew):
    save_export(small_recognizer(), tmp_path / "init", {})
    starts = {"init": tmp_path / "init"} if anew else {}
    stage, data = make_stage("pretrain", corpus, starts, f"stage.normalize_anew={str(anew).lower()}")
    frames = torch.cat([data.store("train")[cut.id] for cut in data.cuts("train")])
    torch.testing.assert_close(stage.recognizer.encoder.mean, frames.mean(0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(stage.recognizer.encoder.scale, 1 / frames.std(0), atol=1e-3, rtol=1e-3)


def test_an_encoder_of_other_features_is_refused(corpus, tmp_path):
    save_export(small_recognizer(), tmp_path, {})
    with pytest.raises(UsageError, match="was trained with model.features.bins=80; say so here, too"):
        make_stage("pretrain", corpus, {"init": tmp_path}, "model.features.bins=40")


def test_the_kick_start_fades(corpus):
    stage, data = make_stage("pretrain", corpus)
    batch = next(iter(data.train_dataloader()))
    assert "ctc_frames" in stage.loss(batch)
    type(stage).progress, kept = lambda self: 0.5, type(stage).progress
    try:
        assert set(stage.loss(batch)) == {"loss", "ctc", "middle"}
    finally:
        type(stage).progress = kept


def test_two_views_are_one_utterance_masked_twice(corpus):
    stage, data = make_stage("pretrain", corpus, None, "stage.loss.consistency=0.2", "stage.loss.ramp=0.0")
    batch = next(iter(data.train_dataloader()))
    torch.manual_seed(0)
    values = stage.loss(batch)
    rest = {key: value for key, value in values.items() if key not in ("loss", "consistency")}
    assert set(rest) == {"ctc", "ctc_frames", "middle", "middle_frames"}
    assert values["consistency"] > 0
    without = 0.7 * values["ctc_frames"] + 0.3 * values["middle_frames"]  # at the first step of the kick-start
    torch.testing.assert_close(values["loss"], without + 0.2 * values["consistency"])
    stage.augment = stage.config.stage.augment = None  # without masks the two views are the same
    assert stage.loss(batch)["consistency"].item() == pytest.approx(0.0, abs=1e-4)


def test_the_agreement_of_views_is_ramped(corpus):
    stage, data = make_stage("pretrain", corpus, None, "stage.loss.consistency=1e6", "stage.loss.ramp=0.5")
    batch = next(iter(data.train_dataloader()))
    stage.progress = lambda: 0.0
    assert stage.loss(batch)["loss"] < 1e3
    stage.progress = lambda: 0.25
    values = stage.loss(batch)
    assert (values["loss"] / values["consistency"]).item() == pytest.approx(0.5e6, rel=1e-2)


def test_a_pattern_without_a_parameter_is_refused():
    with pytest.raises(KitError, match=r"'encodr.*' matches no parameter"):
        freeze_except(small_recognizer(("encoder",)), ["encodr.*"])


def test_cosine_schedule():
    rates = [cosine(step, 100, warmup=0.1, floor=0.02) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[-1] == pytest.approx(0.02)
    assert all(earlier >= later for earlier, later in pairwise(rates[9:]))


def test_pseudo_speech_says_the_phonemes():
    torch.manual_seed(0)
    config = small_config().model.adaptor
    echo = PseudoSpeech(50, 8, config, 32, errors=0.0)
    phonemes = torch.randint(1, 50, (30,))
    phonemes[5] = phonemes[4]
    spoken = echo.spoken(phonemes)
    heard = torch.unique_consecutive(spoken)
    # Two equal phonemes in a row may merge, for want of a gap, as they may in speech.
    merged = torch.unique_consecutive(heard[heard > 0])
    assert merged.tolist() == torch.unique_consecutive(phonemes).tolist()
    speech, lengths = echo([phonemes.tolist(), [3, 4]])
    assert speech.shape[:2] == (2, int(lengths.max()))


def test_pseudo_speech_errs_as_often_as_told():
    torch.manual_seed(0)
    echo = PseudoSpeech(50, 8, small_config().model.adaptor, 32, errors=0.2)
    counts = [len(torch.unique_consecutive(echo.spoken(torch.arange(1, 50)))) for _ in range(5)]
    dropped = 1 - sum((echo.spoken(torch.arange(1, 50)) > 0).sum().item() for _ in range(200)) / (200 * 49 * 1.25)
    assert dropped == pytest.approx(0.1, abs=0.02)
    assert min(counts) > 0
