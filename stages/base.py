"""What all stages share: which parts they start from, which parameters move, optimizer, logging, validation.

A stage of one's own is a subclass with a `loss`, and a YAML in configs/stage.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from datamodules.base import SpeechData
from datamodules.batch import SpeechBatch
from kit.audio.augmentation import SpecAugment
from kit.decoding.phonemes import greedy
from kit.distributed import share_parameters
from kit.errors import KitError, UsageError
from kit.evaluation.metrics import PhonemeErrorRate
from kit.model.encoder import WHOLE, Chunk, draw_chunk
from kit.model.export import PHONEMES, load_tensors, read_about
from kit.model.llm import local, shape
from kit.model.lora import adapt, is_adapter
from kit.model.losses import ctc_loss
from kit.model.recognizer import Recognizer
from kit.optimizer import MuonAdamW
from kit.text.phonemes import PhonemeInventory
from kit.text.prompt import TEMPLATE, Prompt
from kit.text.tokens import load_tokenizer, train_tokenizer
from stages.hints import HintDraw


def freeze_except(module: nn.Module, patterns: list[str], kept: Collection[str] = ()) -> list[str]:
    """Let only parameters move whose whole name matches one of the regular expressions; returns those names.

    Args:
        kept: names that stay as they are, whatever the expressions say.

    Raises:
        KitError: a pattern matches no parameter.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            parts = ", ".join(sorted({name.split(".")[0] for name in names}))
            raise KitError(
                f"stage.trains pattern {pattern!r} matches no parameter; the parts of this model are {parts}"
            )
    moved = []
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in kept and any(re.fullmatch(pattern, name) for pattern in patterns))
        if parameter.requires_grad:
            moved.append(name)
    return moved


def cosine(step: int, total: int, warmup: float, floor: float) -> float:
    """Learning rate factor: linear over the first `warmup` share, then a cosine down to `floor`."""
    done = min(1.0, (step + 1) / max(1, total))
    if done < warmup:
        return done / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1e-9, 1 - warmup)))


class Stage(L.LightningModule):
    """One training stage.

    Args:
        recognizer: with the parts that the stage needs.
        config: the whole configuration; `config.stage` is this stage's.
    """

    def __init__(self, recognizer: Recognizer, config: DictConfig) -> None:
        super().__init__()
        self.recognizer, self.config = recognizer, config
        self.trained = freeze_except(recognizer, list(config.stage.trains), self._adapt())
        # As built: a strategy that shards the parameters flattens them.
        self._dims = {name: parameter.ndim for name, parameter in recognizer.named_parameters()}
        augment = config.stage.get("augment")
        self.augment = SpecAugment(**augment) if augment is not None else None
        self.phoneme_errors = PhonemeErrorRate()

    @classmethod
    def build(cls, config: DictConfig, data: SpeechData, starts: Mapping[str, Path]) -> Recognizer:
        """The recognizer that the stage begins with.

        Args:
            starts: export folder of each upstream stage; under "init", an export that gives all the parts it has.
        """
        parts = list(config.stage.parts)
        sources = {part: folder for part in parts if (folder := _source(part, config, starts))}
        model = config.model.copy()
        weights = None
        if "encoder" in sources:
            _check_features(config, sources["encoder"])
        if "llm" in sources:
            model.llm.config = OmegaConf.create(read_about(sources["llm"])["model"]["llm"]["config"])
        elif "llm" in parts and model.llm.pretrained:
            weights = local(str(model.llm.pretrained), config.cache)
            model.llm.config = OmegaConf.create(shape(weights))
        tokenizer = cls._tokenizer(config, data, sources.get("llm") or weights) if "llm" in parts else None
        if "phoneme_head" in sources:
            data.use_inventory(PhonemeInventory.load(sources["phoneme_head"] / PHONEMES))
        recognizer = Recognizer(model, parts, tokenizer, data.inventory, weights)
        for folder in sorted(set(sources.values())):
            load_tensors(recognizer, folder, [part for part, source in sources.items() if source == folder])
        if "encoder" in parts and ("encoder" not in sources or config.stage.get("normalize_anew")):
            recognizer.encoder.set_normalization(*data.normalization())
        return recognizer

    def _adapt(self) -> set[str]:
        """Give the LLM its adapters where `stage.lora` has a rank; the names that stay as they are because of that."""
        lora = self.config.stage.get("lora")
        if not (lora and lora.rank):
            return set()
        own = {f"llm.{name}" for name in adapt(self.recognizer.llm, lora)}
        adapters = [name for name, _ in self.recognizer.named_parameters() if is_adapter(name)]
        if not any(re.fullmatch(pattern, name) for pattern in self.config.stage.trains for name in adapters):
            where = "stage.lora.rank is set, but stage.trains leaves the LLM out"
            raise KitError(f"{where}; add 'llm\\..*' or drop the rank")
        return own

    @staticmethod
    def _tokenizer(config: DictConfig, data: SpeechData, source: Path | str | None) -> Any:
        if source:
            return load_tokenizer(str(source))
        prompt = Prompt(config.model.prompt.template or TEMPLATE)
        words = re.sub(r"<\|.*?\|>", "\n", prompt.prefix() + prompt.suffix())
        # The prompt is read with every utterance: repeated here, its words become single tokens.
        return train_tokenizer([*[words] * 100, *data.sentences()], config.model.llm.config.vocab_size)

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """The stage's objective under "loss", and whatever else is worth a curve."""
        raise NotImplementedError

    def training_step(self, batch: Any, index: int) -> Tensor:
        """One step; Lightning calls it."""
        values = self.loss(batch)
        loss = values.pop("loss")
        self.log("train/loss", loss.detach(), batch_size=len(batch), sync_dist=True)
        # Which others there are differs from batch to batch, so that several processes cannot take their mean.
        self.log_dict({f"train/{name}": value.detach() for name, value in values.items()}, batch_size=len(batch))
        return loss

    @property
    def skips_parameters(self) -> bool:
        """Whether a step may leave trained parameters without a gradient, which several processes must know."""
        return False

    def configure_model(self) -> None:
        """Lightning calls it before training and before validation: with trainer.strategy=fsdp each process keeps only
        its share of the parameters from here on.
        """
        share_parameters(self)

    def validation_step(self, batch: SpeechBatch, index: int) -> None:
        """Phoneme error rate of the head and, with an LLM, the loss of the transcripts, on the dev part."""
        recognizer, parts = self.recognizer, self.recognizer.parts
        if "encoder" not in parts:
            return
        frames, lengths = recognizer.encode(batch.features, batch.lengths)
        if "phoneme_head" in parts:
            found = greedy(recognizer.phoneme_head(frames), lengths)
            wanted = [row[:size].tolist() for row, size in zip(batch.phonemes, batch.phoneme_lengths, strict=True)]
            self.phoneme_errors.update_strings(found, wanted)
            self.log("dev/phoneme_error_rate", self.phoneme_errors, batch_size=len(batch))
        if "adaptor" in parts and "llm" in parts:
            speech, sizes = recognizer.adaptor(frames, lengths)
            loss = recognizer.text_loss(speech, sizes, batch.texts)
            self.log("dev/text_loss", loss, batch_size=len(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Muon for the hidden matrices and AdamW for the rest, a rate a part, warm-up and cosine over the steps."""
        options, schedule = self.config.stage.optimizer, self.config.stage.schedule
        iterations = options.muon.iterations if options.get("muon") else 1
        optimizer = MuonAdamW(self._parameter_groups(), tuple(options.betas), iterations)
        total = self.config.trainer.max_steps
        factor = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cosine(step, total, schedule.warmup, schedule.floor)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """The trained parameters by rate, by decay (none on vectors) and by whether Muon steps them."""
        options = self.config.stage.optimizer
        muon, scales = options.get("muon"), options.get("scale", {})
        groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                name = name.removeprefix("recognizer.")
                dims = self._dims.get(name, parameter.ndim)
                whole = bool(muon) and dims == 2 and not is_adapter(name)  # an adapter is half a matrix
                matrix = whole and bool(re.fullmatch(muon.matrices, name))
                key = (scales.get(name.split(".")[0], 1.0), dims > 1, matrix)
                groups.setdefault(key, []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": scale * (muon.lr if matrix else options.lr),
                "weight_decay": options.weight_decay if decayed else 0.0,
                **({"momentum": muon.momentum} if matrix else {}),
            }
            for (scale, decayed, matrix), parameters in groups.items()
        ]

    def train(self, mode: bool = True) -> Stage:
        """Parts without a trained parameter stay in eval mode."""
        super().train(mode)
        for part in self.recognizer.children():
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

    def progress(self) -> float:
        """Share of the stage's steps that are done."""
        return self.global_step / max(1, self.config.trainer.max_steps)

    def heard(self, batch: SpeechBatch, middle: bool = False, views: int = 1) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normalize, augment and encode a training batch under a drawn chunk: frames, lengths, the middle's frames.

        With several views all utterances stand one view behind the other: deformed once, masked differently.
        """
        features, lengths = self.augmented(batch, views)
        return self.recognizer.encoder(features, lengths, self.draw_chunk(batch), normalized=True, middle=middle)

    def augmented(self, batch: SpeechBatch, views: int = 1) -> tuple[Tensor, Tensor]:
        """Normalized features of `views` times a batch, augmented where the stage does so, and their lengths."""
        features, lengths = self.recognizer.encoder.normalize(batch.features), batch.lengths.repeat(views)
        if not self.augment:
            return features.repeat(views, 1, 1), lengths
        return self.augment.mask(self.augment.deform(features).repeat(views, 1, 1), lengths), lengths

    def draw_chunk(self, batch: SpeechBatch) -> Chunk:
        """The chunk of this step: drawn where `stage.chunks` is "dynamic", else fixed, or the whole utterance."""
        chunks = self.config.stage.get("chunks")
        if chunks == "dynamic":
            return draw_chunk(int(batch.lengths.max()) // 4)
        return Chunk(**chunks) if chunks else WHOLE


class TranscriptStage(Stage):
    """A stage whose objective is the transcript: what differs is the YAML (which parts start where and which move).

    A section `stage.context` puts hints into the prompts of a share of the utterances.
    """

    draw: HintDraw | None = None

    def on_fit_start(self) -> None:
        """Lightning has the data module ready."""
        self.learn_keywords(self.trainer.datamodule)  # type: ignore[attr-defined]

    def learn_keywords(self, data: SpeechData) -> None:
        """Make ready to draw hints, if there are to be any.

        Raises:
            UsageError: there are no keywords, or their file cannot be used.
        """
        options = self.config.stage.get("context")
        self.draw = HintDraw.of(options, data) if options and options.share else None

    def loss(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """Cross-entropy of the transcripts, plus `stage.loss.ctc` times the phoneme CTC loss."""
        frames, lengths, _ = self.heard(batch)
        speech, sizes = self.recognizer.adaptor(frames, lengths)
        loss = text = self.recognizer.text_loss(speech, sizes, batch.texts, self.hints(batch))
        values = {"text": text}
        weight = self.config.stage.loss.get("ctc", 0.0)
        if weight:
            logits = self.recognizer.phoneme_head(frames)
            values["ctc"] = ctc_loss(logits, lengths, batch.phonemes, batch.phoneme_lengths)
            loss = text + weight * values["ctc"]
        return {"loss": loss, **values}

    @property
    def skips_parameters(self) -> bool:
        """The phoneme head's, where it is trained and its loss has no weight."""
        return not self.config.stage.loss.get("ctc", 0.0) and any(
            name.startswith("phoneme_head.") for name in self.trained
        )

    def hints(self, batch: SpeechBatch) -> Sequence[Sequence[str]] | None:
        """Words for the prompt of each utterance, drawn anew; None for no hints at all."""
        return [self.draw(text) for text in batch.texts] if self.draw else None


def _check_features(config: DictConfig, folder: Path) -> None:
    """An encoder hears nothing in features of another kind, and fits them all the same.

    Raises:
        UsageError: the export was trained on other features than `config` makes.
    """
    for key, value in read_about(folder)["model"].get("features", {}).items():
        if config.model.features.get(key) != value:
            raise UsageError(f"the encoder of {folder} was trained with model.features.{key}={value}; say so here, too")


def _source(part: str, config: DictConfig, starts: Mapping[str, Path]) -> Path | None:
    init = starts.get("init")
    if init and part in read_about(init)["parts"]:
        return init
    stage = config.stage.starts_from.get(part, config.stage.starts_from.get("*"))
    return starts.get(stage) if stage else None
