"""Alignment against all paths, text scores against the forward recursion, the heard part against its definition."""

import itertools

import pytest
import torch

from kernels.ctc_prefix import reference
from kit.decoding.alignment import align, align_text, excess, heard_part, spell
from kit.text.phonemes import PhonemeInventory

INVENTORY = PhonemeInventory.default()
TEXTS = ["打开天窗", "turn on the radio", "播放hello", "去外滩"]


def random_log_probs(frames, symbols, seed):
    draw = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(frames, symbols, generator=draw)).log_softmax(-1)


@pytest.mark.parametrize("seed", range(20))
def test_the_alignment_is_the_best_of_all_paths(seed):
    draw = torch.Generator().manual_seed(seed)
    frames, count = int(torch.randint(1, 7, (), generator=draw)), int(torch.randint(1, 4, (), generator=draw))
    symbols = torch.randint(1, 4, (count,), generator=draw).tolist()
    log_probs = random_log_probs(frames, 4, seed)
    best, score = None, -1e9
    for path in itertools.product(range(4), repeat=frames):
        if [s for s, _ in itertools.groupby(path) if s] == symbols:
            total = sum(float(log_probs[t, s]) for t, s in enumerate(path))
            best, score = (path, total) if total > score else (best, score)
    found = align(log_probs, symbols)
    if best is None:
        assert found is None
        return
    runs, at = [], 0
    for symbol, group in itertools.groupby(best):
        size = len(list(group))
        runs += [(at, at + size)] if symbol else []
        at += size
    assert found == runs


def test_a_long_text_is_aligned():
    """More states than a byte can count."""
    symbols = [1 + index % 5 for index in range(200)]
    log_probs = torch.full((400, 6), -5.0)
    for index, symbol in enumerate(symbols):
        log_probs[2 * index + 1, symbol] = 0.0
        log_probs[2 * index, 0] = 0.0
    assert align(log_probs, symbols) == [(2 * index + 1, 2 * index + 2) for index in range(200)]


def test_words_are_placed_in_order():
    units, ids, _ = spell("播放hello", INVENTORY)
    log_probs = torch.full((2 * len(ids), len(INVENTORY)), -9.0)
    for index, phoneme in enumerate(ids):
        log_probs[2 * index : 2 * index + 2, phoneme] = 0.0
    placed = align_text(log_probs, "播放hello", INVENTORY)
    assert [unit for unit, _, _ in placed] == units == ["播", "放", "hello"]
    assert [first for _, first, _ in placed] == [0, 4, 8]
    assert placed[-1][2] == len(log_probs)
    assert align_text(log_probs[:3], "播放hello", INVENTORY) is None


def test_excess_against_the_forward_recursion():
    log_probs = random_log_probs(60, len(INVENTORY), seed=1)
    for text, value in zip(TEXTS, excess(log_probs, TEXTS, INVENTORY), strict=True):
        ids = torch.tensor([[spell(text, INVENTORY)[1]]])
        sizes, x = torch.tensor([[ids.shape[2]]]), log_probs.double()[None]
        begin = reference.begin_strings(sizes, ids.shape[2], x)
        alphas, _, _ = reference.forward_chunk(x, torch.tensor([60]), ids, sizes, begin)
        expected = (x.amax(-1).sum() - reference.total(alphas, sizes)) / ids.shape[2]
        assert value == pytest.approx(float(expected), rel=1e-4)


def test_excess_of_what_cannot_be_and_of_what_says_nothing():
    log_probs = random_log_probs(5, len(INVENTORY), seed=1)
    assert excess(log_probs, ["turn on the radio", "", "去"], INVENTORY)[:2] == [float("inf"), 0.0]
    assert excess(log_probs[:0], ["去", ""], INVENTORY) == [float("inf"), 0.0]
    assert excess(log_probs, ["去"], PhonemeInventory(("<blank>", "b"))) == [0.0]


@pytest.mark.parametrize("text", TEXTS)
def test_the_heard_part_ends_where_the_phonemes_end(text):
    units, ids, sizes = spell(text, INVENTORY)
    for count in range(len(units) + 1):
        heard = ids[: sum(sizes[:count])]
        part = heard_part(text, heard, INVENTORY)
        assert text.startswith(part)
        assert spell(part, INVENTORY)[0] == units[:count]
        wrong = [*heard[:1], 7, *heard[2:]]  # one phoneme misheard
        if count > 1:
            assert heard_part(text, wrong, INVENTORY) == part
    assert heard_part("打开,天窗。", spell("打开", INVENTORY)[1], INVENTORY) == "打开"
