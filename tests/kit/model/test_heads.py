import torch

from kit.model.heads import Adaptor, PhonemeHead


def test_adaptor_stacks_and_ignores_padding():
    torch.manual_seed(0)
    adaptor = Adaptor(dim=6, stack=4, hidden=8, output=5)
    frames, lengths = torch.randn(2, 11, 6), torch.tensor([11, 5])
    speech, sizes = adaptor(frames, lengths)
    assert speech.shape == (2, 3, 5)
    assert sizes.tolist() == [3, 2]
    alone, _ = adaptor(frames[1:, :5], lengths[1:])
    torch.testing.assert_close(speech[1:, :2], alone)


def test_adaptor_sees_four_frames_a_token():
    adaptor = Adaptor(dim=6, stack=4, hidden=8, output=5)
    frames = torch.randn(1, 12, 6)
    changed = frames.clone()
    changed[:, 4:8] += 1
    before, _ = adaptor(frames, torch.tensor([12]))
    after, _ = adaptor(changed, torch.tensor([12]))
    assert (before != after).any(-1)[0].tolist() == [False, True, False]


def test_phoneme_head_has_three_layers():
    head = PhonemeHead(dim=6, symbols=9, hidden=7)
    shapes = [tuple(p.shape) for p in head.parameters() if p.ndim == 2]
    assert shapes == [(7, 6), (6, 7), (9, 6)]
    assert head(torch.randn(2, 3, 6)).shape == (2, 3, 9)


def test_phoneme_head_begins_as_a_linear_one_and_learns_to_be_more():
    torch.manual_seed(0)
    head = PhonemeHead(dim=6, symbols=9)
    frames = torch.randn(2, 3, 6)
    torch.testing.assert_close(head(frames), head.out(frames))
    head(frames).square().sum().backward()
    assert head.reduce.weight.grad.abs().sum() > 0
