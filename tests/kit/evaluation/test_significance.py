import kaldialign
import numpy as np
import pytest
from scipy import stats

from kit.evaluation.significance import compare, interval


def made(draw, count, rate=0.1, spread=4.0):
    """Lengths, and errors whose rate differs from utterance to utterance."""
    lengths = draw.integers(3, 25, count)
    own = draw.beta(rate * spread, (1 - rate) * spread, count)
    return draw.binomial(lengths, own), lengths


def test_the_interval_covers_the_true_rate():
    draw, inside = np.random.default_rng(1), 0
    for number in range(300):
        errors, lengths = made(draw, 150)
        low, high = interval(errors, lengths, seed=number, rounds=400)
        inside += low <= 0.1 <= high
    assert 0.90 <= inside / 300 <= 0.98


def test_the_interval_against_scipy_and_kaldialign():
    errors, lengths = made(np.random.default_rng(2), 200)
    low, high = interval(errors, lengths, rounds=5000)
    other = stats.bootstrap(
        (errors, lengths), lambda e, n, axis: e.sum(axis) / n.sum(axis), paired=True, vectorized=True, axis=-1,
        method="percentile", n_resamples=5000, rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    assert (low, high) == pytest.approx((other.low, other.high), rel=0.05)
    pairs = [(["x"] * n, ["y"] * e + ["x"] * (n - e)) for e, n in zip(errors.tolist(), lengths.tolist(), strict=True)]
    found = kaldialign.bootstrap_wer_ci([one for one, _ in pairs], [two for _, two in pairs], replications=5000)
    assert (low, high) == pytest.approx((found["ci95min"], found["ci95max"]), rel=0.08)


def test_order_changes_nothing_and_seeds_little():
    errors, lengths = made(np.random.default_rng(4), 100)
    turned = errors[::-1].tolist(), lengths[::-1].tolist()
    assert interval(errors, lengths) == interval(*turned)
    assert interval(errors, lengths) == pytest.approx(interval(errors, lengths, seed=5), rel=0.05)
    assert interval([1], [4]) == (0.25, 0.25)
    assert all(np.isnan(interval([], [])))
    assert all(np.isnan(interval([2, 0], [0, 0])))


def test_few_pairs_give_the_exact_p_of_scipy():
    draw = np.random.default_rng(6)
    for count in range(2, 11):
        first, second, lengths = draw.integers(0, 4, count), draw.integers(0, 4, count), np.full(count, 5)
        exact = stats.permutation_test(
            (second - first,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        )
        found = compare(first, second, lengths, rounds=10)
        assert found.p == pytest.approx(exact.pvalue)


def test_many_pairs_give_the_p_of_a_matched_pairs_z_test():
    draw = np.random.default_rng(7)
    for shift in (0.0, 0.02, 0.04):
        first, lengths = made(draw, 800)
        second = draw.binomial(lengths, np.clip(first / lengths * 0.8 + 0.02 + shift, 0, 1))
        gaps = second - first
        z = gaps.mean() / (gaps.std(ddof=1) / np.sqrt(len(gaps)))
        assert compare(first, second, lengths, rounds=10).p == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.03)


def test_equal_systems_are_told_apart_one_time_in_twenty():
    draw, wrong = np.random.default_rng(8), 0
    for number in range(400):
        lengths = draw.integers(3, 25, 60)
        own = draw.beta(0.4, 3.6, 60)
        first, second = draw.binomial(lengths, own), draw.binomial(lengths, own)
        wrong += compare(first, second, lengths, seed=number, rounds=2).p < 0.05
    assert 0.025 <= wrong / 400 <= 0.08


def test_a_real_difference_is_found():
    draw = np.random.default_rng(9)
    first, lengths = made(draw, 300, rate=0.1)
    second = draw.binomial(lengths, 0.3)
    found = compare(first, second, lengths)
    assert found.p < 0.001 and found.verdict == "the first is better"
    assert found.low < found.difference < found.high and found.low > 0
    assert found.difference == pytest.approx(found.rates[1] - found.rates[0])
    turned = compare(second, first, lengths)
    assert turned.verdict == "the second is better" and turned.p < 0.001
    assert (turned.wins, turned.losses, turned.ties) == (found.losses, found.wins, found.ties)
    assert found.wins + found.losses + found.ties == found.utterances == 300


def test_a_system_does_not_differ_from_itself():
    found = compare([1, 0, 3], [1, 0, 3], [4, 4, 4])
    assert (found.p, found.difference, found.low, found.high, found.ties) == (1.0, 0.0, 0.0, 0.0, 3)
    assert found.verdict == "not decided"
    assert compare([], [], []).utterances == 0
