"""What stages tell of themselves to several processes: which parameters a step may leave without a gradient."""

import importlib

import pytest
import torch
from small import small_config


@pytest.mark.parametrize(
    ("overrides", "skips"),
    [
        (["stage=language_model"], True),
        (["stage=pretrain"], False),
        (["stage=align"], False),
        (["stage=ia_sft"], False),
        (["stage=ia_sft", "stage.lora.rank=2"], False),
        (["stage=sft"], False),
        (["stage=sft", "stage.loss.ctc=0"], True),
        (["stage=rl", "stage.group=2", "stage.max_tokens=4"], False),
    ],
)
def test_a_stage_says_whether_a_step_may_skip_parameters(corpus, overrides, skips):
    """Compared with the gradients that some steps leave."""
    size = "stage.batch_texts=4" if "stage=language_model" in overrides else "stage.batch_seconds=6"
    config = small_config(*overrides, size, "trainer.max_steps=6", cache=corpus.cache)
    module, name = config.stage._target_.rsplit(".", 1)
    kind, data = getattr(importlib.import_module(module), name), corpus.data(config)
    torch.manual_seed(0)
    stage = kind(kind.build(config, data, {}), config)
    stage.log = stage.log_dict = lambda *args, **options: None
    stage.train()
    skipped = set()
    for step, batch in zip(range(4), data.train_dataloader(), strict=False):
        if "echo" in config.stage:
            config.stage.echo.share = step % 2
        stage.zero_grad()
        stage.training_step(batch, step).backward()
        skipped |= {one for one, value in stage.named_parameters() if value.requires_grad and value.grad is None}
    assert stage.skips_parameters is skips is bool(skipped), skipped
