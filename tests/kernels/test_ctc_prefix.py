"""The recurrences against sums over all paths, the fast path against the recurrences, strings against torch's CTC."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from cases import collapse, prefix_states, random_log_probs, random_strings, said_best

from kernels import ctc_prefix
from kernels.ctc_prefix import reference, vectorized

NOTHING = reference.NOTHING


def all_paths(log_probs):
    """(collapsed string, last frame's symbol, probability) of every path; log_probs (T, V)."""
    frames, symbols = log_probs.shape
    probabilities = log_probs.exp().tolist()
    for path in itertools.product(range(symbols), repeat=frames):
        yield collapse(path), path[-1], math.prod(probabilities[t][s] for t, s in enumerate(path))


@pytest.mark.parametrize("module", [reference, vectorized, ctc_prefix], ids=lambda m: m.__name__)
@pytest.mark.parametrize("prefix", [(), (1,), (1, 2), (1, 1), (2, 2, 1)], ids=str)
def test_prefix_scores_are_sums_over_all_paths(module, prefix):
    log_probs = random_log_probs(1, 5, 3, seed=len(prefix))
    lengths = torch.tensor([5])
    r_n, r_b, last = prefix_states(module, log_probs, lengths, [[prefix]])
    found = module.psi(log_probs, lengths, r_n, r_b, last)[0, 0].exp()
    paths = list(all_paths(log_probs[0]))
    for symbol in (1, 2):
        longer = (*prefix, symbol)
        expected = sum(p for string, _, p in paths if string[: len(longer)] == longer)
        assert found[symbol].item() == pytest.approx(expected, abs=1e-12)
    assert found[0] == 0
    ends = {True: 0.0, False: 0.0}
    for string, final, p in paths:
        if string == prefix:
            ends[final == 0] += p
    assert r_n[0, 0, -1].exp().item() == pytest.approx(ends[False], abs=1e-12)
    assert r_b[0, 0, -1].exp().item() == pytest.approx(ends[True], abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_the_fast_path_is_the_reference(seed):
    draw = torch.Generator().manual_seed(seed)
    batch, width, frames, symbols = (int(torch.randint(1, n, (), generator=draw)) for n in (4, 6, 90, 30))
    symbols += 2
    sharp = (1.0, 8.0, 300.0)[seed % 3]
    log_probs = random_log_probs(batch, frames, symbols, seed, sharp)
    lengths = torch.randint(0, frames + 1, (batch,), generator=draw)
    size = int(torch.randint(0, 4, (), generator=draw))
    prefixes = torch.randint(1, symbols, (batch, width, size), generator=draw).tolist()
    states = prefix_states(reference, log_probs, lengths, prefixes)
    for found, expected in zip(prefix_states(vectorized, log_probs, lengths, prefixes), states, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    arguments = (log_probs, lengths, *states)
    torch.testing.assert_close(vectorized.psi(*arguments), reference.psi(*arguments), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("free_start", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_the_fast_path_for_strings_is_the_reference(seed, free_start):
    draw = torch.Generator().manual_seed(seed)
    batch, count, longest, symbols, frames = (
        int(torch.randint(low, high, (), generator=draw)) for low, high in ((1, 4), (1, 6), (1, 9), (3, 20), (0, 40))
    )
    log_probs = random_log_probs(batch, frames, symbols, seed, sharp=(1.0, 8.0, 300.0)[seed % 3])
    strings, sizes = random_strings(batch, count, longest, symbols, seed)
    sizes[-1, -1] = 0
    fresh = torch.randint(0, frames + 1, (batch,), generator=draw)
    alphas = ctc_prefix.begin_strings(sizes, longest, log_probs)
    arguments = (log_probs, fresh, strings, sizes, alphas, free_start)
    for found, expected in zip(vectorized.forward_chunk(*arguments), reference.forward_chunk(*arguments), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_probabilities_of_zero_stay_finite():
    log_probs = torch.full((1, 6, 4), -math.inf)
    log_probs[0, torch.arange(6), torch.tensor([0, 1, 0, 2, 2, 0])] = 0.0
    lengths = torch.tensor([6])
    for module in (reference, ctc_prefix):
        states = prefix_states(module, log_probs, lengths, [[(1,), (3,)]])
        scores = module.psi(log_probs, lengths, *states)
        assert torch.isfinite(scores).all()
        assert scores[0, 0, 2].item() == pytest.approx(0.0, abs=1e-6)
        assert scores[0, 0, 3] < -9000
        assert scores[0, 1].max() < -9000


def by_ctc_loss(log_probs, lengths, strings, sizes):
    batch, count, _ = strings.shape
    expanded = log_probs.repeat_interleave(count, 0).transpose(0, 1)
    loss = F.ctc_loss(
        expanded, strings.flatten(0, 1), lengths.repeat_interleave(count), sizes.flatten(), reduction="none"
    )
    return -loss.view(batch, count)


@pytest.mark.parametrize("seed", range(8))
def test_whole_strings_in_random_pieces_are_torchs_ctc(seed):
    draw = torch.Generator().manual_seed(seed)
    log_probs = random_log_probs(2, 40, 9, seed)
    lengths = torch.tensor([40, 31])
    strings, sizes = random_strings(2, 5, 6, 9, seed)
    alphas = ctc_prefix.begin_strings(sizes, 6, log_probs)
    begun = 0
    while begun < 40:
        size = int(torch.randint(0, 12, (), generator=draw))
        piece = log_probs[:, begun : begun + size]
        fresh = (lengths - begun).clamp(0, piece.shape[1])
        alphas, _, _ = ctc_prefix.forward_chunk(piece, fresh, strings, sizes, alphas)
        begun += piece.shape[1]
    expected = by_ctc_loss(log_probs, lengths, strings, sizes)
    torch.testing.assert_close(ctc_prefix.total(alphas, sizes), expected, rtol=1e-9, atol=1e-9)


def test_the_traces_of_strings_are_the_states_of_prefixes():
    log_probs, lengths = random_log_probs(1, 25, 6, seed=3), torch.tensor([25])
    string = torch.tensor([[[2, 2, 5]]])
    sizes = torch.tensor([[3]])
    _, r_n, r_b = ctc_prefix.forward_chunk(
        log_probs, lengths, string, sizes, ctc_prefix.begin_strings(sizes, 3, log_probs)
    )
    wanted_n, wanted_b, _ = prefix_states(reference, log_probs, lengths, string.tolist())
    for found, wanted in ((r_n, wanted_n), (r_b, wanted_b)):
        torch.testing.assert_close(found.exp(), wanted.exp())


def test_an_empty_string_is_all_blank():
    log_probs, sizes = random_log_probs(1, 7, 4, seed=1), torch.tensor([[0]])
    strings = torch.zeros(1, 1, 2, dtype=torch.long)
    alphas = ctc_prefix.begin_strings(sizes, 2, log_probs)
    alphas, r_n, _ = ctc_prefix.forward_chunk(log_probs, torch.tensor([7]), strings, sizes, alphas)
    assert ctc_prefix.total(alphas, sizes).item() == pytest.approx(log_probs[0, :, 0].sum().item())
    assert (r_n == NOTHING).all()


def test_a_free_start_finds_the_string_anywhere():
    log_probs = random_log_probs(1, 6, 3, seed=5)
    string, sizes = torch.tensor([[[1, 2]]]), torch.tensor([[2]])
    alphas = ctc_prefix.begin_strings(sizes, 2, log_probs)
    _, r_n, _ = ctc_prefix.forward_chunk(log_probs, torch.tensor([6]), string, sizes, alphas, free_start=True)
    probabilities = log_probs[0].exp()
    for end in range(6):
        expected = 0.0
        for begin in range(end + 1):
            for path in itertools.product(range(3), repeat=end - begin + 1):
                if path[0] == 1 and path[-1] == 2 and collapse(path) == (1, 2):
                    expected += math.prod(probabilities[begin + i, s].item() for i, s in enumerate(path))
        assert r_n[0, 0, end].exp().item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("module", [reference, vectorized, ctc_prefix], ids=lambda m: m.__name__)
def test_spotting_is_a_sum_over_all_starts_and_paths_up_to_the_best_end(module):
    log_probs = random_log_probs(1, 9, 4, seed=5)[0]
    asked = [((1, 2), 0, 6), ((1, 2), 2, 5), ((3,), 4, 1), ((2, 2), 1, 6), ((3, 1, 2), 3, 6)]
    strings = torch.tensor([[*string, *[0] * (3 - len(string))] for string, _, _ in asked])
    first, count = (torch.tensor(column) for column in list(zip(*asked, strict=True))[1:])
    sizes = torch.tensor([len(string) for string, _, _ in asked])
    score, end = module.spot(log_probs, first, count, strings, sizes)
    for row, (string, begin, length) in enumerate(asked):
        expected, behind = said_best(log_probs, string, begin, length)
        assert score[row].exp().item() == pytest.approx(expected, abs=1e-12)
        assert end[row] == behind


def spot_arguments(seed, frames=70):
    draw = torch.Generator().manual_seed(seed)
    count, longest, symbols = (int(torch.randint(*ends, (), generator=draw)) for ends in ((1, 9), (1, 9), (3, 20)))
    log_probs = random_log_probs(1, frames, symbols, seed, sharp=(1.0, 8.0, 300.0)[seed % 3])[0]
    strings, sizes = random_strings(1, count, longest, symbols, seed)
    sizes[0, -1] = seed % 2
    first = torch.randint(0, frames, (count,), generator=draw)
    size = (torch.rand(count, generator=draw) * (frames - first + 1)).long()
    return log_probs, first, size, strings[0], sizes[0]


@pytest.mark.parametrize("seed", range(12))
def test_fast_spotting_is_the_reference(seed):
    arguments = spot_arguments(seed)
    expected = reference.spot(*arguments)
    torch.testing.assert_close(vectorized.spot(*arguments), expected, rtol=1e-9, atol=1e-9)
    single = ctc_prefix.spot(arguments[0].float(), *arguments[1:])
    torch.testing.assert_close(single[0], expected[0].float())


def test_nothing_is_spotted_where_there_is_nothing():
    log_probs, nothing = random_log_probs(1, 4, 5, seed=1)[0], torch.zeros(0, dtype=torch.long)
    for module in (reference, ctc_prefix):
        score, end = module.spot(log_probs, nothing, nothing, nothing[:, None].expand(0, 3), nothing)
        assert score.shape == end.shape == (0,)
        one = torch.ones(1, dtype=torch.long)
        score, end = module.spot(log_probs, one, 0 * one, one[:, None], one)
        assert (score.item(), end.item()) == (reference.FAINT, 0)


def test_a_string_is_spotted_alike_in_any_company():
    """A row at a time, in another order, among frames that are not its own, and with anything behind its symbols."""
    log_probs, first, count, strings, sizes = spot_arguments(4)
    expected = vectorized.spot(log_probs, first, count, strings, sizes)
    beyond = torch.arange(strings.shape[1]) >= sizes[:, None]
    around = torch.full((5, log_probs.shape[1]), -0.5, dtype=torch.float64)
    for module in (reference, vectorized, ctc_prefix):
        for row in range(len(sizes)):
            one = [x[row : row + 1] for x in (first, count, strings, sizes)]
            score, end = module.spot(log_probs, *one)
            assert score.item() == pytest.approx(expected[0][row].item(), abs=1e-9) and end == expected[1][row]
        back = [x.flip(0) for x in (first + 5, count, strings, sizes)]
        score, end = module.spot(torch.cat([around, log_probs, around]), *back)
        torch.testing.assert_close(score.flip(0), expected[0], rtol=1e-9, atol=1e-9)
        assert torch.equal(end.flip(0), torch.where(expected[1] > 0, expected[1] + 5, 0))
        for padding in (-1, 1000):
            score, end = module.spot(log_probs, first, count, strings.masked_fill(beyond, padding), sizes)
            torch.testing.assert_close(score, expected[0], rtol=1e-9, atol=1e-9)
            assert end.tolist() == expected[1].tolist()


def test_what_cannot_be_heard_is_faint_and_more_than_certain_is_certain():
    """Log-probabilities of 40 nats against each of 12 frames come to -480, of 50 to less than is told."""
    for module in (reference, vectorized, ctc_prefix):
        for against, expected in ((40.0, -480.0), (50.0, reference.FAINT)):
            log_probs = torch.full((12, 14), -against, dtype=torch.float64)
            row = torch.arange(1, 13)[None]
            score, end = module.spot(log_probs, row[:, 0] * 0, row[:, -1], row, row[:, -1])
            assert score.item() == pytest.approx(expected) and end.item() == (12 if expected > reference.FAINT else 0)
        certain = torch.tensor([[0.3, -9.0], [-9.0, 0.2], [0.1, -9.0]], dtype=torch.float64)
        one = torch.ones(1, dtype=torch.long)
        score, end = module.spot(certain, 0 * one, 3 * one, one[:, None], one)
        assert (score.item(), end.item()) == (pytest.approx(math.log1p(math.exp(-9.0)), abs=1e-9), 2)


def test_spotting_counts_frames_with_any_whole_numbers_and_any_blank():
    log_probs, first, count, strings, sizes = spot_arguments(5)
    expected = ctc_prefix.spot(log_probs, first, count, strings, sizes)
    small = ctc_prefix.spot(log_probs, first.int(), count.int(), strings.int(), sizes.int())
    torch.testing.assert_close(small[0], expected[0])
    assert small[1].tolist() == expected[1].tolist()
    last = log_probs.shape[1] - 1  # the blank's number
    for module in (reference, vectorized, ctc_prefix):
        score, end = module.spot(log_probs.roll(-1, 1), first, count, strings - 1, sizes, blank=last)
        torch.testing.assert_close(score, expected[0], rtol=1e-9, atol=1e-9)
        assert end.tolist() == expected[1].tolist()
    wide = torch.stack([log_probs, log_probs], 2)[:, :, 0]
    assert not wide.is_contiguous()
    torch.testing.assert_close(ctc_prefix.spot(wide, first, count, strings, sizes), expected)


def test_what_was_given_stays_as_it_was():
    log_probs, sizes = random_log_probs(1, 4, 5, seed=1, dtype=torch.float32), torch.tensor([[2]])
    strings = torch.tensor([[[1, 2]]])
    alphas = ctc_prefix.begin_strings(sizes, 2, log_probs)
    kept = alphas.clone()
    ctc_prefix.forward_chunk(log_probs, torch.tensor([4]), strings, sizes, alphas)
    assert torch.equal(alphas, kept)
    arguments = spot_arguments(3)
    kept = [x.clone() for x in arguments]
    ctc_prefix.spot(*arguments)
    assert all(map(torch.equal, arguments, kept))


def operator_arguments():
    log_probs, lengths = random_log_probs(2, 12, 7, seed=1, dtype=torch.float32), torch.tensor([12, 9])
    states = prefix_states(reference, log_probs, lengths, [[(1,), (2,)], [(3,), (3,)]])
    whole = [x.to(torch.int32) if not x.is_floating_point() else x for x in (lengths, *states)]
    pick = torch.tensor([[0, 1, 1], [1, 0, 0]], dtype=torch.int32)
    strings, sizes = random_strings(2, 3, 4, 7, seed=2)
    alphas = ctc_prefix.begin_strings(sizes, 4, log_probs)
    integers = [x.to(torch.int32) for x in (lengths, strings, sizes)]
    return {
        "ctc_prefix_psi": (log_probs, *whole, 0),
        "ctc_prefix_extend": (log_probs, *whole, pick, pick + 2, 0),
        "ctc_forward_chunk": (log_probs, *integers, alphas, False, 0),
        "ctc_spot": (log_probs[0], integers[2][0], integers[2][0] + 5, integers[1][0], integers[2][0], 0),
    }


@pytest.mark.parametrize("name", ["ctc_prefix_psi", "ctc_prefix_extend", "ctc_forward_chunk", "ctc_spot"])
def test_operator_checks(name):
    torch.library.opcheck(getattr(torch.ops.kit_kernels, name).default, operator_arguments()[name])


def test_compiles_whole_and_exports():
    log_probs, lengths, r_n, r_b, last, _ = operator_arguments()["ctc_prefix_psi"]

    class Score(torch.nn.Module):
        def forward(self, *tensors):
            return ctc_prefix.psi(*tensors)

    arguments = (log_probs, lengths, r_n, r_b, last)
    expected = ctc_prefix.psi(*arguments)
    compiled = torch.compile(Score(), backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(*arguments), expected)
    torch.testing.assert_close(torch.export.export(Score(), arguments).module()(*arguments), expected)


def test_wrong_arguments_are_named():
    log_probs, lengths, r_n, r_b, last, _ = operator_arguments()["ctc_prefix_psi"]
    with pytest.raises(ValueError, match=r"log_probs must be \(B, T, V\) of float32 or float64"):
        ctc_prefix.psi(log_probs.half(), lengths, r_n, r_b, last)
    with pytest.raises(ValueError, match=r"r_b must be \(2, 2, 12\) of torch.float32"):
        ctc_prefix.psi(log_probs, lengths, r_n, r_b[:, :, :5], last)
    with pytest.raises(ValueError, match=r"last must be \(2, 2\) of whole numbers"):
        ctc_prefix.psi(log_probs, lengths, r_n, r_b, last.float())
    with pytest.raises(ValueError, match="blank=9 is none of the 7 symbols"):
        ctc_prefix.psi(log_probs, lengths, r_n, r_b, last, blank=9)
    with pytest.raises(ValueError, match="lengths is on meta"):
        ctc_prefix.psi(log_probs, lengths.to("meta"), r_n, r_b, last)
    with pytest.raises(ValueError, match=r"tokens must be \(2, 2\)"):
        ctc_prefix.extend(log_probs, lengths, r_n, r_b, last, last, last[:, :1])
    with pytest.raises(ValueError, match=r"alphas must be \(2, 2, 3\)"):
        ctc_prefix.forward_chunk(log_probs, lengths, last[..., None], last, r_n)
    rows = torch.tensor([2, 9])
    with pytest.raises(ValueError, match="first and count lead out of the 12 frames"):
        ctc_prefix.spot(log_probs[0], rows, rows, rows[:, None], rows)
    with pytest.raises(ValueError, match=r"count must be \(2,\) of whole numbers"):
        ctc_prefix.spot(log_probs[0], rows, rows[:1], rows[:, None], rows)
