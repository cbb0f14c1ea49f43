import itertools

import torch

from kit.decoding.phonemes import greedy


def test_greedy_merges_then_drops_blanks():
    torch.manual_seed(0)
    logits, lengths = torch.randn(20, 30, 4), torch.randint(0, 31, (20,))
    for row, size, found in zip(logits, lengths.tolist(), greedy(logits, lengths), strict=True):
        best = row[:size].argmax(-1).tolist()
        assert found == [symbol for symbol, _ in itertools.groupby(best) if symbol]
