import random

import jiwer
import kaldialign
import pytest

from kit.evaluation.alignment import Edits, align, counted, edits


def pairs(seed, count=400, longest=15):
    draw = random.Random(seed)
    for _ in range(count):
        letters = "abcdefgh"[: draw.randint(1, 8)]
        yield tuple(draw.choices(letters, k=draw.randint(0, longest)) for _ in range(2))


@pytest.mark.parametrize("seed", range(3))
def test_errors_against_kaldialign_and_jiwer(seed):
    for said, heard in pairs(seed):
        found, other = edits(said, heard), kaldialign.edit_distance(said, heard)
        assert found.errors == other["total"]
        assert found.insertions - found.deletions == len(heard) - len(said) == other["ins"] - other["del"]
        if said:
            words = jiwer.process_words(" ".join(said), " ".join(heard))
            assert found.errors == words.substitutions + words.deletions + words.insertions


def test_no_alignment_with_as_few_errors_has_more_units_right():
    """Weights that make one right unit count a little: kaldialign's and jiwer's are never better."""
    for said, heard in pairs(7):
        right = len(said) - edits(said, heard).substitutions - edits(said, heard).deletions
        other = kaldialign.edit_distance(said, heard)
        assert right >= len(said) - other["sub"] - other["del"]
        if said:
            assert right >= jiwer.process_words(" ".join(said), " ".join(heard)).hits


def least(said, heard):
    """(fewest errors, most right units below zero) by trying everything."""
    if not said or not heard:
        return (len(said) + len(heard), 0)
    same = said[0] == heard[0]
    across, down, along = least(said[1:], heard[1:]), least(said[1:], heard), least(said, heard[1:])
    return min(
        (across[0] + (not same), across[1] - same),
        (down[0] + 1, down[1]),
        (along[0] + 1, along[1]),
    )


def test_against_trying_everything():
    for said, heard in pairs(11, count=120, longest=5):
        found = edits(said, heard)
        right = sum(one == other for one, other in align(said, heard))
        assert (found.errors, -right) == least(said, heard)


def test_the_pairs_are_both_texts_in_order():
    for said, heard in pairs(13):
        found = align(said, heard)
        assert [one for one, _ in found if one is not None] == said
        assert [other for _, other in found if other is not None] == heard
        assert (None, None) not in found


def test_counts_add_up():
    one, other = edits("abc", "abd"), edits("ab", "")
    assert one == Edits(1, 0, 0, 3) and other == Edits(0, 2, 0, 2)
    assert one + other == Edits(1, 2, 0, 5) and (one + other).errors == 3
    assert counted(align("abc", "abd") + align("ab", "")) == one + other


def test_long_texts_of_which_most_is_right():
    said = [str(number) for number in range(50000)]
    heard = [*said[:24000], "x", *said[24001:24500], *said[24502:]]
    assert edits(said, heard) == Edits(1, 2, 0, 50000)
