"""A model and a corpus small enough for tests: the real classes in sizes that take seconds."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from kit.config import compose
from kit.model.recognizer import PARTS, Recognizer
from kit.text.tokens import train_tokenizer

SIZES = [
    "model.encoder.dim=32",
    "model.encoder.heads=2",
    "model.encoder.layers=2",
    "model.encoder.kernel=5",
    "model.encoder.channels=4",
    "model.adaptor.hidden=32",
    "model.llm.config.vocab_size=600",
    "model.llm.config.hidden_size=32",
    "model.llm.config.intermediate_size=64",
    "model.llm.config.num_hidden_layers=2",
    "model.llm.config.num_attention_heads=2",
    "model.llm.config.num_key_value_heads=1",
    "model.llm.config.head_dim=16",
]
TEXTS = ["打开天窗", "导航到外滩", "turn on the radio", "播放hello", "take me to the airport"]


def small_config(*overrides: str, cache: Path | None = None) -> DictConfig:
    """The default configuration at test size."""
    where = [f"cache={cache}"] if cache else []
    hours = [] if any(one.startswith("data=") for one in overrides) else ["data.hours=0.01"]
    return compose([*SIZES, *hours, *where, *overrides])


LLAMA = "+model.llm.config.model_type=llama"  # another kind of LLM than Qwen3


def small_recognizer(parts: tuple[str, ...] = PARTS, seed: int = 0, *overrides: str) -> Recognizer:
    """A random recognizer with a tokenizer that knows TEXTS."""
    torch.manual_seed(seed)
    config = small_config(*overrides).model
    recognizer = Recognizer(config, parts, train_tokenizer(TEXTS * 3, config.llm.config.vocab_size)).eval()
    for name, parameter in recognizer.named_parameters():
        if "bias_" in name:
            torch.nn.init.normal_(parameter)
    return recognizer


class SmallCorpus:
    """The embedded corpus of some dozen utterances, made once for all tests."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.data(small_config(cache=cache))

    def data(self, config: DictConfig) -> Any:
        """A data module on it."""
        from datamodules.cockpit.data import CockpitData

        data = CockpitData(config)
        data.prepare_data()
        return data


def make_stage(name: str, corpus: SmallCorpus, starts: Any = None, *overrides: str) -> tuple[Any, Any]:
    """A stage of six steps and its data module, as `fit` makes them."""
    from stages.base import TranscriptStage

    config = small_config(f"stage={name}", "trainer.max_steps=6", *overrides, cache=corpus.cache)
    module, kind = config.stage._target_.rsplit(".", 1)
    stage_class = getattr(importlib.import_module(module), kind)
    data = corpus.data(config)
    torch.manual_seed(0)
    recognizer = stage_class.build(config, data, starts or {})
    stage = stage_class(recognizer, config)
    stage.log_dict = lambda *args, **options: None
    if isinstance(stage, TranscriptStage):
        stage.learn_keywords(data)
    return stage, data


class OneBatch:
    """A sampler that gives all cuts in one batch."""

    def __init__(self, cuts: Any) -> None:
        self.cuts = cuts

    def set_epoch(self, epoch: int) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        yield self.cuts
