"""RL: one encoding a step, rewards that rise, exact resumption, the reference, keywords, the guard and the table."""

import json
import math
import sys
from itertools import islice
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small import SIZES, make_stage, small_config, small_recognizer

from kit.config import compose
from kit.errors import UsageError
from kit.fit import fit
from kit.model.export import save_export
from kit.model.lora import is_adapter
from kit.plan import needed
from kit.rl.policy import Prompts, score
from kit.rl.reference import Reference
from kit.rl.rewards import Reward
from kit.runs import Run
from stages.guard import RunawayGuard
from stages.rl import RL

SMALL = ["stage.batch_seconds=6", "stage.group=4", "stage.max_tokens=8"]


@pytest.fixture
def made(corpus):
    return make_stage("rl", corpus, None, *SMALL)


def first_batch(data):
    return next(iter(data.train_dataloader()))


class Han(Reward):
    """Likes Han characters."""

    def __call__(self, texts, case):
        return [sum(not letter.isascii() for letter in text) / max(1, len(text)) for text in texts]


def test_an_utterance_is_encoded_once_and_read_by_everyone(made, monkeypatch):
    stage, data = made
    encoded, adapted = [], []
    encoder, adaptor = stage.recognizer.encoder.forward, stage.recognizer.adaptor.forward
    monkeypatch.setattr(stage.recognizer.encoder, "forward", lambda *a, **k: encoded.append(1) or encoder(*a, **k))
    monkeypatch.setattr(stage.recognizer.adaptor, "forward", lambda *a, **k: adapted.append(1) or adaptor(*a, **k))
    stage.training_step(first_batch(data), 0)
    assert (len(encoded), len(adapted)) == (1, 1)


def test_nothing_is_in_training_mode(made):
    stage, _ = made
    stage.train()
    assert not any(part.training for part in stage.recognizer.modules())


def test_the_first_step_is_on_policy(made):
    stage, data = made
    stage.training_step(first_batch(data), 0)
    told = stage.told
    assert told["mismatch_worst"] < 1e-4
    assert told["kl"] == pytest.approx(0, abs=1e-6) and told["clipped"] == 0
    assert told["policy"] == pytest.approx(0, abs=1e-5), "advantages of a group sum up to nothing"
    assert {"reward", "reward_accuracy", "spread_context", "alike", "entropy", "length", "ended"} <= told.keys()
    assert "reward_acoustic" not in told


def test_rewards_rise(corpus, monkeypatch):
    """With a plugin that likes Han characters: the gradient has the right sign, and no part of the chain is missing."""
    plugins = ModuleType("plugins")
    plugins.Han = Han
    monkeypatch.setitem(sys.modules, "plugins", plugins)
    alone = [f"stage.rewards.{name}.weight=0" for name in ("accuracy", "hallucination", "context")]
    alone += ["+stage.rewards.han={_target_: plugins.Han, weight: 1.0}", "stage.loss.ctc=0"]
    alone += ["stage.augment=null", "stage.kl=0.04", "stage.loss.text=0", "stage.optimizer.muon=null"]
    rates = ["stage.group=8", "stage.optimizer.lr=3e-2", "stage.optimizer.scale.llm=1.0", "trainer.max_steps=20"]
    stage, data = make_stage("rl", corpus, None, *SMALL, *alone, *rates)
    optimizer = stage.configure_optimizers()["optimizer"]
    rewards = []
    for step, batch in enumerate(islice(data.train_dataloader(), 16)):
        optimizer.zero_grad()
        stage.training_step(batch, step).backward()
        optimizer.step()
        rewards.append(stage.told["reward"])
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.15
    assert stage.told["kl"] > 0


def test_the_acoustic_reward_listens(corpus):
    stage, data = make_stage("rl", corpus, None, *SMALL, "stage.rewards.acoustic.weight=0.5")
    stage.training_step(first_batch(data), 0)
    assert 0 <= stage.told["reward_acoustic"] <= 1


def test_the_temperature_falls_on_a_cosine(made, monkeypatch):
    stage, _ = made
    for done, wanted in {0.0: 1.0, 0.5: 0.85, 1.0: 0.7, 0.25: 0.85 + 0.15 * math.cos(math.pi / 4)}.items():
        monkeypatch.setattr(type(stage), "progress", lambda self, done=done: done)
        assert stage.temperature() == pytest.approx(wanted)


def test_of_its_own_keywords_an_utterance_keeps_some_and_these_count(made, monkeypatch):
    stage, _ = made
    said, others = ["外滩", "春熙路", "晴天"], ["believer", "西湖"]
    monkeypatch.setattr(type(stage), "hints", lambda self, batch: [[*said, *others] for _ in batch.texts])
    batch = SimpleNamespace(texts=["从外滩到春熙路放晴天"] * 40)
    hints, keywords = stage.prompted(batch)
    for row, counted in zip(hints, keywords, strict=True):
        assert len(counted) == 2 and set(counted) <= set(said)
        assert [name for name in row if name in said] == [name for name in said if name in counted]
        assert [name for name in row if name not in said] == others
    assert len({tuple(sorted(counted)) for counted in keywords}) == 3, "by chance"


def test_important_keywords_count_without_a_hint(corpus, tmp_path):
    (tmp_path / "names.txt").write_text("外滩\n", "utf-8")
    where = f"stage.context.important={tmp_path / 'names.txt'}"
    stage, _ = make_stage("rl", corpus, None, *SMALL, where, "stage.context.share=0")
    hints, keywords = stage.prompted(SimpleNamespace(texts=["去外滩", "去西湖"]))
    assert hints is None and keywords == [["外滩"], []]


def test_updates_on_one_rollout_leave_the_ratio_of_one(corpus):
    stage, data = make_stage(
        "rl", corpus, None, *SMALL, "stage.updates=3", "stage.clip=0.001", "stage.optimizer.lr=1e-3"
    )
    optimizer = stage.configure_optimizers()["optimizer"]
    stage.optimizers = lambda use_pl_optimizer: optimizer
    before = [parameter.detach().clone() for parameter in stage.recognizer.parameters()]
    stage.training_step(first_batch(data), 0).backward()
    assert {state["step"].item() for state in optimizer.state.values()} == {2.0}, "the third is the trainer's"
    assert any(not torch.equal(one, two) for one, two in zip(before, stage.recognizer.parameters(), strict=True))
    assert stage.told["clipped"] > 0
    assert stage.told["mismatch_worst"] < 1e-4, "that of the first pass"


def test_all_updates_hear_the_same_masked_audio(corpus, monkeypatch):
    stage, data = make_stage("rl", corpus, None, *SMALL, "stage.updates=2")
    optimizer = stage.configure_optimizers()["optimizer"]
    stage.optimizers = lambda use_pl_optimizer: optimizer
    encode, seen = stage.recognizer.encoder.forward, []
    monkeypatch.setattr(stage.recognizer.encoder, "forward", lambda x, *a, **k: seen.append(x) or encode(x, *a, **k))
    batch = first_batch(data)
    stage.training_step(batch, 0)
    plain = stage.recognizer.encoder.normalize(batch.features)
    assert len(seen) == 2 and torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], plain)


def test_transcripts_are_an_anchor(corpus):
    """Their cross-entropy, with the prompts of the rollout, comes to the policy's loss."""
    stage, data = make_stage(
        "rl",
        corpus,
        None,
        *SMALL,
        "stage.loss.text=0.5",
        "stage.context.share=0",
        "stage.augment=null",
        "stage.chunks=null",
    )
    batch = first_batch(data)
    loss = stage.training_step(batch, 0)
    frames, lengths = stage.recognizer.encode(batch.features, batch.lengths)
    wanted = stage.recognizer.text_loss(*stage.recognizer.adaptor(frames, lengths), batch.texts)
    told = stage.told
    assert told["text"] == pytest.approx(float(wanted), rel=1e-5)
    assert float(loss) == pytest.approx(told["policy"] + 0.5 * told["text"] + 0.3 * told["ctc"], rel=1e-5)


def test_the_reference_stays_behind_and_is_in_no_state(made):
    stage, data = made
    batch = first_batch(data)
    names = set(stage.state_dict())
    assert not any("reference" in name for name in names) and len(names) == len(set(stage.recognizer.state_dict()))
    with torch.no_grad():
        stage.recognizer.llm.model.norm.weight *= 1.5
    stage.training_step(batch, 0)
    assert stage.told["kl"] > 1e-3


def test_without_a_reference_there_is_no_divergence(corpus):
    stage, data = make_stage("rl", corpus, None, *SMALL, "stage.kl=null")
    stage.training_step(first_batch(data), 0)
    assert stage.reference is None and "kl" not in stage.told


def test_with_adapters_the_reference_is_the_llm_without_them(corpus):
    pytest.importorskip("peft")
    stage, _ = make_stage("rl", corpus, None, *SMALL, "stage.lora.rank=2")
    recognizer, plain = stage.recognizer, Reference(small_recognizer().llm)
    assert stage.reference.llm is recognizer.llm
    speech = torch.randn(2, 3, recognizer.llm_width)
    prompts = Prompts.of(recognizer, speech, torch.tensor([3, 2]), None)
    samples = stage.rollouts.sample(prompts, 2, 1.0, [1, 2])
    before = stage.reference.score(prompts, samples, 1.0)
    torch.testing.assert_close(before, score(recognizer.llm, prompts, samples, 1.0)[0].detach())
    moving = {name for name, one in recognizer.llm.named_parameters() if one.requires_grad}
    with torch.no_grad():
        for name, parameter in recognizer.llm.named_parameters():
            if is_adapter(name):
                parameter.normal_()
    torch.testing.assert_close(stage.reference.score(prompts, samples, 1.0), before)
    assert (score(recognizer.llm, prompts, samples, 1.0)[0] - before).abs().max() > 1e-2
    assert {name for name, one in recognizer.llm.named_parameters() if one.requires_grad} == moving != set()
    assert plain.llm is not recognizer.llm


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage.group=1", "stage.group must be at least 2, got 1"),
        ("stage.mean=median", "stage.mean must be one of sequence, token, constant"),
        ("stage.ratio=word", "stage.ratio must be one of token, sequence"),
        ("stage.rollout.engine=tgi", "stage.rollout.engine must be one of local, vllm"),
        ("stage.temperature.end=0", "stage.temperature.end must be at least 0.01"),
        ("stage.updates=0", "stage.updates must be at least 1"),
        ("stage.kl=-1", "stage.kl must be at least 0"),
        ("stage.clip_high=big", "stage.clip_high wants a number, got big"),
        ("stage.rewards.accuracy.sharp=2", "did you mean stage.rewards.accuracy.sharpness"),
    ],
)
def test_values_that_mean_nothing_are_refused(override, message):
    with pytest.raises(UsageError, match=message):
        small_config("stage=rl", override)


def test_rewards_that_mean_nothing_are_refused(corpus):
    off = [f"stage.rewards.{name}.weight=0" for name in ("accuracy", "hallucination", "context")]
    with pytest.raises(UsageError, match=r"stage.rewards has no reward with a weight other than 0"):
        make_stage("rl", corpus, None, *off)
    with pytest.raises(UsageError, match=r"sharpness=-1.0 must be above 0"):
        make_stage("rl", corpus, None, "stage.rewards.accuracy.sharpness=-1")


def test_it_starts_from_context_sft_or_from_sft():
    for name in ("context_sft", "sft"):
        config = small_config("stage=rl", *([f"stage.after={name}"] if name == "sft" else []))
        assert needed(config) == [name] and config.stage.starts_from == {"*": name}


@pytest.fixture
def train(corpus, tmp_path, monkeypatch):
    """Train by `fit` from one export; returns a function from an experiment's name and overrides to its run."""
    monkeypatch.chdir(tmp_path)
    save_export(small_recognizer(), tmp_path / "init", {})
    where = [*SIZES, "data.hours=0.01", f"cache={corpus.cache}", "tracking=false", "threads=1", "init=init"]
    steps = ["trainer.max_steps=5", "trainer.checkpoint_every=2", "trainer.callbacks.representation=null"]
    quick = ["decoding.max_tokens=6", "stage.callbacks.table.utterances=2", "stage.callbacks.table.every=2"]
    common = ["stage=rl", "stage.report=false", *SMALL, *where, *steps, *quick]
    return lambda name, *more: Run(fit(compose([*common, f"experiment={name}", *more])).parent)


def tensors(run):
    return load_file(run.export / "model.safetensors")


@pytest.mark.parametrize("extra", [(), ("stage.updates=2", "stage.callbacks.guard.every=2", "stage.clip_high=0.28")])
def test_a_run_that_broke_off_goes_on_exactly(train, monkeypatch, extra):
    whole = train("whole", *extra)
    step = RL.training_step

    def breaking(self, batch, index):
        if self.global_step == 3:
            raise RuntimeError("as asked")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(RL, "training_step", breaking)
        with pytest.raises(RuntimeError, match="as asked"):
            train("broken", *extra)
    resumed = train("broken", *extra)
    assert all(torch.equal(tensors(resumed)[name], value) for name, value in tensors(whole).items())
    before = small_recognizer().state_dict()
    moved = {name.split(".")[0] for name, value in tensors(whole).items() if not torch.equal(value, before[name])}
    assert moved == {"encoder", "phoneme_head", "adaptor", "llm"}
    assert (resumed.path / "figures" / "hypotheses.tsv").read_text() == (
        whole.path / "figures" / "hypotheses.tsv"
    ).read_text()
    for run in (whole, resumed):
        rows = [row.split(",") for row in (run.path / "metrics.csv").read_text().splitlines()]
        assert [int(row[0]) for row in rows if row[1] == "train/mismatch_worst"] == [0, 1, 2, 3, 4], "every step"


def test_a_policy_that_runs_away_is_stopped_and_set_back(train, capsys):
    """At a rate that ruins it; what is exported is what it was when all was well."""
    fast = ["stage.optimizer.lr=0.3", "stage.callbacks.guard.every=1", "stage.callbacks.guard.kl=0.01"]
    long = "stage.callbacks.guard.length=1000"
    run = train("runaway", *fast, long, "trainer.max_steps=20")
    notes = run.notes()
    steps = json.loads(run.metrics.read_text())["steps"]
    assert steps < 20 and notes["ran_away"].startswith(f"step {steps}: the divergence from the reference is")
    assert notes["weights_of_step"] < steps
    assert f"ran away: {notes['ran_away']}" in capsys.readouterr().err
    assert all(torch.isfinite(value).all() for value in tensors(run).values())


class Stand:
    """What of a trainer the guard looks at."""

    def __init__(self, folder):
        self.global_step, self.accumulate_grad_batches, self.should_stop = 0, 1, False
        self.is_global_zero, self.default_root_dir = True, folder
        self.strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"kl": 0.6}, "the divergence from the reference is 0.6, above 0.5"),
        ({"length_ratio": 1.6}, "the length is 1.6, above 1.5"),
        ({"mismatch": 0.5}, "the engine's mismatch is 0.5, above 0.05"),
        ({"kl": math.nan}, "the divergence from the reference is nan, above 0.5"),
        ({"kl": 0.4, "length_ratio": 1.0, "mismatch": 0.01}, ""),
    ],
)
def test_what_the_guard_stops(tmp_path, told, why):
    guard, trainer = RunawayGuard(every=2, kl=0.5, length=1.5, mismatch=0.05), Stand(tmp_path)
    layer = torch.nn.Linear(2, 2)
    module = SimpleNamespace(recognizer=layer, told=told, config=small_config("stage=rl"))
    first = layer.weight.detach().clone()
    guard.on_train_start(trainer, module)
    for step in range(1, 5):
        with torch.no_grad():
            layer.weight += 1
        trainer.global_step = step
        guard.on_train_batch_end(trainer, module, None, None, step - 1)
        if trainer.should_stop:
            break
    assert trainer.should_stop == bool(why) and trainer.global_step == (2 if why else 4)
    torch.testing.assert_close(layer.weight.detach(), first if why else first + 4)
    assert guard.why == (f"step 2: {why}" if why else "")
    again, other = RunawayGuard(every=2, kl=0.5, length=1.5, mismatch=0.05), Stand(tmp_path)
    again.load_state_dict(guard.state_dict())
    again.on_train_start(other, module)
    assert other.should_stop == bool(why), "a resumed run stays stopped"


def test_limits_that_mean_nothing_are_refused():
    with pytest.raises(UsageError, match=r"stage.callbacks.guard.kl=0 must be above 0"):
        RunawayGuard(every=1, kl=0, length=1, mismatch=1)


def test_updates_want_a_process_of_their_own(train):
    with pytest.raises(UsageError, match=r"stage.updates=2 wants one process, trainer.accumulate=1"):
        train("refused", "stage.updates=2", "trainer.accumulate=2")
