"""The script for a GPU machine: that its checks run and can fail; what they find on a GPU only a GPU tells."""

import pytest
import torch

from kit import on_gpu
from kit.decoding.engine import Engine


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setattr(on_gpu, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(on_gpu, "NAMES", 3000)


def test_the_checks_run():
    assert on_gpu.check_graphs() == "180 tokens"
    assert on_gpu.check_streams() == "8 streams"
    assert on_gpu.check_names().startswith("64 of 3000, ")


def test_streams_that_lose_their_past_together_are_found(monkeypatch):
    step = Engine.step

    @torch.inference_mode()
    def forgetful(self):
        if self._room > 1:
            self._cache.start.zero_()
        return step(self)

    monkeypatch.setattr(Engine, "step", forgetful)
    with pytest.raises(AssertionError):
        on_gpu.check_streams()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert on_gpu.main() == 1
    assert "torch finds no GPU here" in capsys.readouterr().err
