"""The step of plain operations against the encoder's own stream."""

import pytest
import torch
import torch.nn.functional as F
from small import small_recognizer

from kit.model.encoder import Chunk
from kit.model.stepping import StreamStep

PARTS = ("encoder", "phoneme_head")


@pytest.fixture(scope="module")
def recognizer():
    made = small_recognizer(PARTS)
    draw = torch.Generator().manual_seed(0)
    made.encoder.set_normalization(torch.randn(80, generator=draw) - 8, 1 + torch.rand(80, generator=draw))
    torch.nn.init.normal_(made.phoneme_head.reduce.weight, generator=draw)
    return made


def features(streams, frames, seed=1):
    return 2 * torch.randn(streams, frames, 80, generator=torch.Generator().manual_seed(seed)) - 8


@torch.inference_mode()
def stepped(step, heard, lengths):
    """Log-probabilities and frames of each stream, whose caches go from step to step; anything behind their ends."""
    caches, found = step.start(len(heard)), [[] for _ in heard]
    for begin in range(0, heard.shape[1], 4 * step.chunk):
        piece = heard[:, begin : begin + step.features]
        padded = F.pad(piece, (0, 0, 0, step.features - piece.shape[1]), value=99.0)
        out = step.step(padded, (lengths - begin).clamp(0, step.features), caches)
        for row, fresh in enumerate(out.fresh.tolist()):
            found[row].append((out.log_probs[row, :fresh], out.frames[row, :fresh]))
        caches = out.caches
    return [tuple(torch.cat(parts) for parts in zip(*rows, strict=True)) for rows in found]


@torch.inference_mode()
def streamed(recognizer, heard, chunk):
    frames, _ = recognizer.encoder.stream(heard, recognizer.encoder.start(chunk, len(heard)), final=True)
    return recognizer.phoneme_head(frames).log_softmax(-1), frames


@pytest.mark.parametrize("chunk", [Chunk(4, 2), Chunk(1, 3), Chunk(5, 0), Chunk(16, 4), Chunk(3, 1)])
@pytest.mark.parametrize("frames", [1, 66, 133])
def test_streams_as_the_encoder_does(recognizer, chunk, frames):
    heard = features(2, frames)
    found = stepped(StreamStep(recognizer, chunk), heard, torch.tensor([frames, frames]))
    log_probs, encoded = streamed(recognizer, heard, chunk)
    for row, (scores, own) in enumerate(found):
        torch.testing.assert_close(own, encoded[row], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(scores, log_probs[row], atol=1e-4, rtol=1e-4)


def test_streams_of_different_lengths_beside_each_other(recognizer):
    """One that has ended takes the length 0 and changes nothing for the others."""
    chunk, lengths = Chunk(4, 2), [95, 7, 40]
    heard = features(3, 95, seed=2)
    found = stepped(StreamStep(recognizer, chunk), heard, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        log_probs, encoded = streamed(recognizer, heard[row : row + 1, :length], chunk)
        torch.testing.assert_close(found[row][0], log_probs[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[row][1], encoded[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", [Chunk(0, 4), Chunk(16, -1)])
def test_caches_that_would_grow_are_refused(recognizer, chunk):
    with pytest.raises(ValueError, match="finite chunks"):
        StreamStep(recognizer, chunk)
