"""RL: group-relative policy optimization of hypotheses, by rewards that look at the text as an evaluation does."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from datamodules.base import SpeechData
from datamodules.batch import SpeechBatch
from kit.errors import UsageError
from kit.model.losses import ctc_loss
from kit.model.recognizer import Recognizer
from kit.plugins import build_named
from kit.rl.objective import Objective, advantages_of, off_policy_weights, share
from kit.rl.policy import Prompts, Samples, score
from kit.rl.reference import Reference
from kit.rl.rewards import Case, Reward
from kit.rl.rollout import engine
from kit.text.keywords import Keywords, occurs, read_keywords
from kit.text.normalize import normalize
from stages.base import TranscriptStage

EVERY_STEP = ("mismatch", "mismatch_worst")  # figures that no step may keep to itself


@dataclass(frozen=True)
class Heard:
    """What a pass over a batch gives: frames (B, T', D) and their lengths, speech (B, S, E) and its sizes."""

    frames: Tensor
    lengths: Tensor
    speech: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class Experience:
    """A rollout and what became of it; nothing in it has a gradient.

    Attributes:
        hints: of each utterance, in the prompt.
        temperature: of sampling, and of all log-probabilities.
        advantages: (B K,).
        mask: (B K, L) the tokens that count.
        reference: (B K, L) log-probabilities; None without a reference.
        old: (B K, L) those of the first training pass; None before it.
        weights: (B K, L) for the mismatch between engine and training; None for none.
    """

    samples: Samples
    hints: Sequence[Sequence[str]] | None
    temperature: float
    advantages: Tensor
    mask: Tensor
    reference: Tensor | None = None
    old: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class Explained:
    """The hypotheses of one utterance.

    Attributes:
        texts: normalized.
        rewards: name -> one a hypothesis, before its weight.
        totals: weighted sums.
        advantages: by how much each is better than its group, in deviations.
    """

    texts: list[str]
    rewards: dict[str, list[float]]
    totals: list[float]
    advantages: list[float]


class RL(TranscriptStage):
    """Everything moves; the phoneme CTC loss stays on, so that the head keeps true to the encoder.

    An utterance is encoded once a step: the rollout, the reference and the policy's own pass share its speech
    embeddings. No part is in training mode, so that the engine's probabilities are those of training.

    Attributes:
        told: figures of the last step, for callbacks.
    """

    def __init__(self, recognizer: Recognizer, config: DictConfig) -> None:
        super().__init__(recognizer, config)
        options = config.stage
        self.objective = Objective(
            options.clip, options.clip_high, options.kl or 0.0, options.mean, options.ratio, options.max_tokens
        )
        self.rewards = _rewards(options.rewards)
        self.reference = None if options.kl is None else Reference(recognizer.llm)
        self.rollouts = engine(options.rollout, recognizer, options.max_tokens)
        self.important: Keywords | None = None
        self.told: dict[str, float] = {}

    def on_fit_start(self) -> None:
        """Lightning has the data module ready."""
        super().on_fit_start()
        trainer, updates = self.trainer, self.config.stage.updates
        alone = trainer.world_size == 1 and trainer.accumulate_grad_batches == 1
        if updates > 1 and not (alone and self.config.trainer.precision != "16-mixed"):
            what = "wants one process, trainer.accumulate=1 and another trainer.precision than 16-mixed"
            raise UsageError(f"stage.updates={updates} {what}; write stage.updates=1")

    def learn_keywords(self, data: SpeechData) -> None:
        """As for other stages, and those of the file `stage.context.important`."""
        super().learn_keywords(data)
        file = self.config.stage.context.important
        self.important = Keywords(read_keywords(file)) if file else None

    def train(self, mode: bool = True) -> RL:
        """No part leaves eval mode: dropout would part the rollout's probabilities from those of training."""
        super().train(mode)
        self.recognizer.eval()
        return self

    def training_step(self, batch: SpeechBatch, index: int) -> Tensor:
        """One step; how far the engine's probabilities are from those of training is told of every one of them."""
        loss = super().training_step(batch, index)
        told = {f"train/{name}": self.told[name] for name in EVERY_STEP}
        if self._trainer is not None:
            for logger in self.loggers:
                logger.log_metrics(told, self.global_step)
        return loss

    def loss(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """The policy's loss on a rollout, plus `stage.loss.ctc` times the phoneme CTC loss.

        With `stage.updates` above 1 all updates but the last are made here, on the same rollout.
        """
        audio = (*self.augmented(batch), self.draw_chunk(batch))
        heard = self._hear(*audio)
        experience, told = self._experience(batch, heard)
        for _ in range(self.config.stage.updates - 1):
            values, experience = self._objective(batch, heard, experience)
            told |= values  # the mismatch is that of the first pass
            self._update(values["loss"])
            heard = self._hear(*audio)
        values, _ = self._objective(batch, heard, experience)
        found = {**told, **values}
        self.told = {name: float(value.detach()) for name, value in found.items()}
        return {name: value for name, value in found.items() if name not in EVERY_STEP}

    def _hear(self, features: Tensor, lengths: Tensor, chunk: Any) -> Heard:
        frames, lengths, _ = self.recognizer.encoder(features, lengths, chunk, normalized=True)
        return Heard(frames, lengths, *self.recognizer.adaptor(frames, lengths))

    @torch.no_grad()
    def _experience(self, batch: SpeechBatch, heard: Heard) -> tuple[Experience, dict[str, Tensor]]:
        """Draw hypotheses, reward them and look at them with the reference."""
        options, temperature = self.config.stage, self.temperature()
        hints, keywords = self.prompted(batch)
        prompts = Prompts.of(self.recognizer, heard.speech, heard.sizes, hints).detached()
        self._synchronize()
        samples = self.rollouts.sample(prompts, options.group, temperature, self._seeds(batch))
        rewards, told = self._rewarded(batch, heard, samples, keywords)
        advantages = advantages_of(rewards, options.normalize).flatten()
        mask = samples.mask if options.unfinished else samples.mask & samples.ended[..., None]
        reference = None
        if self.reference is not None:
            reference = self.reference.score(prompts, samples, temperature).flatten(0, 1)
        told |= _lengths(samples, self._reference_lengths(batch))
        told["temperature"] = torch.tensor(temperature)
        return Experience(samples, hints, temperature, advantages, mask.flatten(0, 1), reference), told

    def _objective(
        self, batch: SpeechBatch, heard: Heard, experience: Experience
    ) -> tuple[dict[str, Tensor], Experience]:
        """The loss with its figures; and the experience, which after its first pass knows where the ratio is 1."""
        samples, options = experience.samples, self.config.stage.loss
        prompts = Prompts.of(self.recognizer, heard.speech, heard.sizes, experience.hints)
        now, entropy = (
            one.flatten(0, 1) for one in score(self.recognizer.llm, prompts, samples, experience.temperature)
        )
        told = {"entropy": share(entropy, samples.mask.flatten(0, 1))}
        if experience.old is None:
            experience, mismatch = self._begun(experience, now.detach())
            told |= mismatch
        assert experience.old is not None
        loss, figures = self.objective(
            now, experience.old, experience.advantages, experience.mask, experience.reference, experience.weights
        )
        told |= {"policy": loss, **figures}
        if options.text:
            told["text"] = self.recognizer.text_loss(heard.speech, heard.sizes, batch.texts, experience.hints)
            loss = loss + options.text * told["text"]
        if options.ctc:
            logits = self.recognizer.phoneme_head(heard.frames)
            told["ctc"] = ctc_loss(logits, heard.lengths, batch.phonemes, batch.phoneme_lengths)
            loss = loss + options.ctc * told["ctc"]
        return {"loss": loss, **told}, experience

    def _begun(self, experience: Experience, now: Tensor) -> tuple[Experience, dict[str, Tensor]]:
        """After the first pass: how far the engine's log-probabilities are from those of training."""
        rollout, mask = experience.samples.log_probs.flatten(0, 1), experience.samples.mask.flatten(0, 1)
        difference = (rollout - now).abs()
        cap = self.config.stage.correction
        weights = None if cap is None else off_policy_weights(rollout, now, cap)
        told = {"mismatch": share(difference, mask), "mismatch_worst": difference.masked_fill(~mask, 0).max()}
        return replace(experience, old=now, weights=weights), told

    def _update(self, loss: Tensor) -> None:
        """A step of the optimizer within a step of training."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        loss.backward()
        if self.config.trainer.gradient_clip:
            moved = [parameter for parameter in self.parameters() if parameter.requires_grad]
            torch.nn.utils.clip_grad_norm_(moved, self.config.trainer.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def explained(self, batch: SpeechBatch) -> list[Explained]:
        """Hypotheses of each utterance, drawn as a step of training does, with their rewards; for people to look at."""
        heard = self._hear(*self.augmented(batch), self.draw_chunk(batch))
        hints, keywords = self.prompted(batch)
        prompts = Prompts.of(self.recognizer, heard.speech, heard.sizes, hints)
        samples = self.rollouts.sample(prompts, self.config.stage.group, self.temperature(), self._seeds(batch))
        texts, found = self._scores(batch, heard, samples, keywords)
        total = self._total(found)
        better = advantages_of(total, self.config.stage.normalize)
        return [
            Explained(row, {name: values[at].tolist() for name, values in found.items()}, *one)
            for at, (row, one) in enumerate(zip(texts, zip(total.tolist(), better.tolist(), strict=True), strict=True))
        ]

    def _rewarded(
        self, batch: SpeechBatch, heard: Heard, samples: Samples, keywords: Sequence[Sequence[str]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum (B, K) of all rewards, and figures of each: its mean, its spread within a group."""
        _, scores = self._scores(batch, heard, samples, keywords)
        total = self._total(scores)
        told: dict[str, Tensor] = {}
        for name, found in scores.items():
            told |= {f"reward_{name}": found.mean(), f"spread_{name}": found.std(1).mean()}
        spread = total.std(1)
        told |= {"reward": total.mean(), "spread": spread.mean(), "alike": (spread < 1e-6).float().mean()}
        return total.to(heard.speech.device), told

    def _scores(
        self, batch: SpeechBatch, heard: Heard, samples: Samples, keywords: Sequence[Sequence[str]]
    ) -> tuple[list[list[str]], dict[str, Tensor]]:
        """The hypotheses as texts, and each reward of them (B, K), before its weight."""
        texts = [[normalize(text) for text in row] for row in samples.texts(self.recognizer)]
        cases = self._cases(batch, heard, keywords)
        return texts, {
            name: torch.tensor([_each(reward, row, case) for row, case in zip(texts, cases, strict=True)])
            for name, reward in self.rewards.items()
        }

    def _total(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum (B, K)."""
        total = torch.zeros_like(next(iter(scores.values())))
        for name, found in scores.items():
            total += self.rewards[name].weight * found
        return total

    def _cases(self, batch: SpeechBatch, heard: Heard, keywords: Sequence[Sequence[str]]) -> list[Case]:
        cases = [Case(text, names) for text, names in zip(batch.texts, keywords, strict=True)]
        if not any(reward.listens for reward in self.rewards.values()):
            return cases
        scores = self.recognizer.phoneme_head(heard.frames).float().log_softmax(-1).cpu()
        rows = zip(cases, scores, heard.lengths.tolist(), strict=True)
        return [replace(case, log_probs=row[:size], inventory=self.recognizer.inventory) for case, row, size in rows]

    def prompted(self, batch: SpeechBatch) -> tuple[list[list[str]] | None, list[list[str]]]:
        """The hints of each utterance, and the keywords that count in its reward.

        Of its own keywords at most `stage.context.most` stay among the hints drawn, and these count; important ones
        count whether they are there or not.
        """
        drawn = self.hints(batch)
        hints, keywords = [], []
        for text, row in zip(batch.texts, drawn or [()] * len(batch.texts), strict=True):
            own = [name for name in row if occurs(name, text)]
            kept = random.sample(own, min(len(own), self.config.stage.context.most))
            hints.append([name for name in row if name in kept or name not in own])
            said = self.important.mentioned(text) if self.important else []
            keywords.append(list(dict.fromkeys([*kept, *said])))
        return (hints if drawn is not None else None), keywords

    def temperature(self) -> float:
        """Of this step's rollout: a cosine from `stage.temperature.start` to `.end`."""
        start, end = self.config.stage.temperature.start, self.config.stage.temperature.end
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress())))

    def _seeds(self, batch: SpeechBatch) -> list[int]:
        """One an utterance, by the seed, the stage, the step and its name alone."""
        place = f"{self.config.seed} {self.config.stage.name} {self.global_step}"
        names = [f"{place} {cut.id}" for cut in batch.cuts]
        return [int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") for name in names]

    def _synchronize(self) -> None:
        """The engine takes the weights as they are; of several processes one gives them to it."""
        if self._trainer is None or self.trainer.is_global_zero:
            self.rollouts.synchronize()
        if self._trainer is not None:
            self.trainer.strategy.barrier()

    def _reference_lengths(self, batch: SpeechBatch) -> float:
        return sum(len(self.recognizer.text_ids(text)) for text in batch.texts) / len(batch.texts)


def _rewards(section: DictConfig) -> dict[str, Reward]:
    """The rewards of a section that have a weight."""
    named = {str(name): options for name, options in section.items() if options is not None}
    built = zip(named, build_named(named, Reward, "stage.rewards"), strict=True)
    found = {name: reward for name, reward in built if reward.weight}
    if not found:
        raise UsageError("stage.rewards has no reward with a weight other than 0; give one, such as accuracy")
    return found


def _each(reward: Reward, texts: Sequence[str], case: Case) -> list[float]:
    """The reward of each text; of those that are the same it is asked once."""
    different = list(dict.fromkeys(texts))
    found = dict(zip(different, reward(different, case), strict=True))
    return [found[text] for text in texts]


def _lengths(samples: Samples, wanted: float) -> dict[str, Tensor]:
    length = samples.lengths.float().mean()
    return {"length": length, "length_ratio": length / wanted, "ended": samples.ended.float().mean()}
