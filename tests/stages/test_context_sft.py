"""Context SFT: which hints are drawn, how often, the same again, and that they reach the prompt."""

import random
from itertools import islice

import pytest
import torch
from omegaconf import OmegaConf
from small import small_config

from kit.callbacks import StepSeed
from kit.errors import UsageError
from kit.text.keywords import Keywords
from stages.context_sft import ContextSFT
from stages.hints import HintDraw

NAMES = ["外滩", "外摊", "春熙路", "春溪路", "春西路", "hotel california", "right", "write", "晴天"]
NAMES += [f"{one}{two}山" for one in "东南西北" for two in "金木水火土"]
OPTIONS = {"share": 0.7, "absent": 0.2, "distractors": 0.5, "others": 6, "reach": 0.2, "made": False, "keywords": None}


def drawn(text, count=4000, **changes):
    draw = HintDraw(Keywords(NAMES), OmegaConf.create({**OPTIONS, **changes}))
    random.seed(1)
    return [draw(text) for _ in range(count)]


def share(found):
    return sum(map(bool, found)) / len(found)


def test_hints_are_drawn_with_their_probabilities():
    found = drawn("从外滩到春熙路")
    # Standard deviations are below 0.01. A hinted text may have no hint by chance: all its own absent, no others.
    own = [row for row in found if "外滩" in row]
    assert len(own) / len(found) == pytest.approx(0.7 * 0.8, abs=0.03)
    assert all("春熙路" in row for row in own if row)  # a transcript's keywords come together or not at all
    only = drawn("从外滩到春熙路", others=0)
    assert share(["外摊" in row for row in only]) == pytest.approx(0.7 * 0.5, abs=0.03)
    streets = [{"春溪路", "春西路"} & set(row) for row in only]
    assert max(map(len, streets)) == 1
    assert share(streets) == pytest.approx(0.7 * 0.5, abs=0.03)
    assert share(["春溪路" in row for row in streets]) == pytest.approx(0.7 * 0.25, abs=0.03)


def test_unrelated_hints_are_evenly_many_and_never_said():
    found = drawn("turn right", share=1.0, distractors=0.0, absent=1.0)
    assert not any("right" in row for row in found)
    mean = sum(map(len, found)) / len(found)
    assert 2.5 < mean < 3  # 3 but for those drawn twice and those said
    assert max(map(len, found)) == 6
    assert all(len(set(row)) == len(row) for row in found)


def test_hints_are_in_random_order():
    found = [row for row in drawn("播放hotel california", share=1.0, absent=0.0) if len(row) > 1]
    assert share([row[0] == "hotel california" for row in found]) < 0.6


def test_a_distractor_is_not_said_itself():
    assert not any(drawn("从外滩到外摊", others=0, absent=1.0))


@pytest.mark.parametrize(("changes", "wanted"), [({"share": 0.0}, 0.0), ({"share": 1.0, "absent": 0.0}, 1.0)])
def test_never_and_always(changes, wanted):
    assert share(drawn("去外滩", 300, **changes)) == wanted


def test_a_set_without_names_is_refused():
    with pytest.raises(UsageError, match=r"no keywords, neither annotated nor rare; give stage.context.keywords=FILE"):
        HintDraw(Keywords([]), OmegaConf.create(OPTIONS))


@pytest.fixture(scope="module")
def made(corpus):
    config = small_config("stage=context_sft", "trainer.max_steps=4", "stage.batch_seconds=6", cache=corpus.cache)
    return stage_of(corpus, config)


def stage_of(corpus, config):
    data = corpus.data(config)
    torch.manual_seed(0)
    stage = ContextSFT(ContextSFT.build(config, data, {}), config)
    stage.log_dict = lambda *args, **options: None
    return stage, data


def test_keywords_are_those_of_the_training_transcripts(made):
    stage, data = made
    stage.learn_keywords(data)
    wanted = {name for cut in data.cuts("train+made") for name in cut.supervisions[0].custom["entities"]}
    assert set(stage.draw.keywords.names) == wanted
    assert wanted


def test_made_up_names_are_said_and_hinted(made):
    """Beside the sentences of training, which its other stages know."""
    stage, data = made
    stage.learn_keywords(data)
    heard = [cut for batch in islice(data.train_dataloader(), 6) for cut in batch.cuts]
    invented = [cut for cut in heard if cut.id.startswith("made-")]
    assert 0 < len(invented) < len(heard)
    assert {name for cut in invented for name in data.entities(cut)} <= set(stage.draw.keywords.names)
    data.begin(small_config("stage=sft", cache=data.config.cache))
    assert not any(cut.id.startswith("made-") for batch in islice(data.train_dataloader(), 6) for cut in batch.cuts)


def test_keywords_from_a_file(corpus, tmp_path):
    (tmp_path / "names.txt").write_text("外滩\nbelievers\n", "utf-8")
    where = f"stage.context.keywords={tmp_path / 'names.txt'}"
    stage, data = stage_of(corpus, small_config("stage=context_sft", where, cache=corpus.cache))
    stage.learn_keywords(data)
    assert stage.draw.keywords.names == ("believers", "外滩")


def test_a_missing_file_is_named(corpus):
    stage, data = stage_of(
        corpus, small_config("stage=context_sft", "stage.context.keywords=no.txt", cache=corpus.cache)
    )
    with pytest.raises(UsageError, match=r"cannot read the keywords no.txt: No such file .*; give a text file"):
        stage.learn_keywords(data)


@pytest.mark.parametrize("value", ["stage.context.share=1.5", "stage.context.absent=-0.1", "stage.favor_long=-1"])
def test_values_out_of_bounds_are_refused(value):
    with pytest.raises(UsageError, match=r"must be at (least 0|most 1), got"):
        small_config("stage=context_sft", value)


def test_hints_reach_the_prompt(made, monkeypatch):
    stage, data = made
    stage.learn_keywords(data)
    batch = next(iter(data.train_dataloader()))
    given = []
    tail_ids = stage.recognizer.tail_ids
    monkeypatch.setattr(stage.recognizer, "tail_ids", lambda hints=(): given.append(tail_ids(hints)) or given[-1])
    random.seed(3)
    wanted = stage.hints(batch)
    random.seed(3)
    assert stage.loss(batch)["text"].isfinite()
    assert any(wanted)
    for row, ids in zip(wanted, given, strict=True):
        text = stage.recognizer.tokenizer.decode(ids)
        assert f"Contextual hints: {', '.join(row)}." in text


def train(stage, data, steps, first=0):
    """Steps as `fit` takes them: each seeded by its number, the position that of the last batch trained on."""
    stage.learn_keywords(data)
    optimizer = torch.optim.SGD(stage.recognizer.parameters(), lr=0.1)
    seeds = StepSeed(1, "context_sft")
    for step, batch in enumerate(islice(data.train_dataloader(), steps), first):
        trainer = type("Trainer", (), {"global_step": step, "accumulate_grad_batches": 1, "global_rank": 0})
        seeds.on_train_batch_start(trainer, stage, batch, step)
        optimizer.zero_grad()
        stage.training_step(batch, step).backward()
        optimizer.step()
        data.position = batch.position
    return {name: value.clone() for name, value in stage.recognizer.state_dict().items()}


def test_a_resumed_stage_ends_with_the_same_weights(corpus):
    config = small_config("stage=context_sft", "stage.batch_seconds=6", cache=corpus.cache)
    whole = train(*stage_of(corpus, config), 4)
    first, data = stage_of(corpus, config)
    half, kept = train(first, data, 2), data.state_dict()
    random.seed(99)
    torch.manual_seed(99)
    second, data = stage_of(corpus, config)
    second.recognizer.load_state_dict(half)
    data.load_state_dict(kept)
    resumed = train(second, data, 2, first=2)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    assert any(not torch.equal(half[name], value) for name, value in whole.items())
