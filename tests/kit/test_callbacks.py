import types

import pytest
import torch

from kit.callbacks import Clock, StepSeed, duration


def trainer(step, accumulate=1):
    return types.SimpleNamespace(global_step=step, accumulate_grad_batches=accumulate, global_rank=0)


def drawn(seed, stage, step, index=0, accumulate=1):
    StepSeed(seed, stage).on_train_batch_start(trainer(step, accumulate), None, None, index)
    return torch.rand(3).tolist()


def test_step_seeds_depend_on_seed_stage_step_and_micro_batch_alone():
    torch.manual_seed(0)
    first = drawn(1, "sft", 5)
    torch.rand(100)
    assert drawn(1, "sft", 5) == first
    others = [drawn(2, "sft", 5), drawn(1, "align", 5), drawn(1, "sft", 6), drawn(1, "sft", 5, index=1, accumulate=2)]
    assert len({tuple(row) for row in [first, *others]}) == 5


def test_the_clock_tells_waiting_from_working():
    times = iter([0.0, 10.0, 13.0, 20.0, 50.0, 51.0, 53.0])
    clock = Clock(log_every=100, now=lambda: next(times))
    clock.on_train_start(None, None)  # at 10
    clock.on_train_batch_start(None, None, None, 0)  # 3 s of waiting
    clock.on_train_batch_end(trainer(1), None, None, None, 0)  # 7 s of work
    clock.skip()  # 30 s for a checkpoint
    clock.on_train_batch_start(None, None, None, 1)  # 1 s of waiting
    clock.on_train_batch_end(trainer(2), None, None, None, 1)  # 2 s of work
    assert clock.seconds == 13 and clock.data_share == pytest.approx(4 / 13)
    later = Clock(log_every=100)
    later.load_state_dict(clock.state_dict())
    assert (later.seconds, later.before, later.data_share) == (13, 13, clock.data_share)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3661, "1:01:01")])
def test_duration(seconds, text):
    assert duration(seconds) == text
