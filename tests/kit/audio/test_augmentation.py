import torch

from kit.audio.augmentation import SpecAugment, _warp_frequency

PLAIN = {"frequency_masks": 0, "time_masks": 0, "warp": 0.0, "level": 0.0}


def augmented(seed=0, **options):
    torch.manual_seed(seed)
    features, lengths = torch.randn(64, 200, 80) + 5, torch.randint(100, 201, (64,))
    return features, lengths, SpecAugment(**{**PLAIN, **options})(features, lengths)


def test_nothing_on_changes_nothing():
    features, _, after = augmented()
    assert torch.equal(features, after)


def test_time_masks_stay_within_their_limits():
    _, lengths, after = augmented(time_masks=1, time_width=20, time_share=0.1)
    hidden = (after == 0).all(-1)  # (B, T)
    widest = torch.minimum(lengths * 0.1, torch.tensor(20.0))
    assert (hidden.sum(1) <= widest).all()
    assert all(not row[size:].any() for row, size in zip(hidden, lengths, strict=True))
    runs = (hidden[:, 1:] & ~hidden[:, :-1]).sum(1) + hidden[:, 0]
    assert runs.max() == 1
    assert hidden.sum() > 64 * 3  # 0..width uniformly: several frames on average


def test_frequency_masks_stay_within_their_limits():
    _, _, after = augmented(frequency_masks=2, frequency_width=10)
    hidden = (after == 0).all(1)  # (B, F)
    assert hidden.sum(1).max() <= 20
    assert hidden.any(0).float().mean() > 0.9  # every bin has its turn


def test_the_input_stays_and_the_seed_decides():
    features, _, first = augmented(3, frequency_masks=2, time_masks=2, warp=0.1, level=0.1)
    same, _, second = augmented(3, frequency_masks=2, time_masks=2, warp=0.1, level=0.1)
    assert torch.equal(features, same)
    assert torch.equal(first, second)


def test_warp_interpolates():
    torch.manual_seed(0)
    ramp = torch.arange(80.0).expand(32, 3, 80)
    warped = _warp_frequency(ramp, 0.1)
    factor = warped[:, 0, 40] / 40
    assert factor.min() < 0.95
    assert factor.max() > 1.05
    expected = (torch.arange(80.0) * factor[:, None]).clamp(0, 79)
    torch.testing.assert_close(warped[:, 1], expected, atol=1e-3, rtol=0)
