"""Strings as vectors, against a description symbol by symbol and the generalized eigenvectors of SciPy."""

import math
import random

import numpy as np
import pytest
import scipy.linalg
from rapidfuzz.distance import Levenshtein
from strings import INVENTORY, SYMBOLS, made_up, one_wrong, said

from kit.retrieval import embedding as embeddings
from kit.retrieval.embedding import BUCKETS, DIM, FEATURES, GROUP, LENGTH, WAVES, WIDTH, Embedding
from kit.retrieval.phonetics import costs, vectors
from kit.text.phonemes import PhonemeInventory
from kit.text.similar import toneless

EXAMPLES = 3000


@pytest.fixture(scope="module", autouse=True)
def fewer_examples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "EXAMPLES", EXAMPLES)
        yield


@pytest.fixture(scope="module")
def embedding(fewer_examples):
    return Embedding.learn(made_up(1000, 0), INVENTORY)


def mixed(value):
    """SplitMix64's finalizer on Python's whole numbers."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def group_codes():
    names = [toneless(symbol) for symbol in INVENTORY.symbols]
    different = sorted(set(names), key=names.index)
    return [mixed(different.index(name) + 1) for name in names]


def described(string):
    """A description, a symbol, a wave and a group at a time."""
    table, codes, size = vectors(INVENTORY).astype(float), group_codes(), len(string)
    course = np.zeros((WAVES, FEATURES))
    for wave in range(WAVES):
        for place, symbol in enumerate(string):
            course[wave] += math.cos(math.pi * wave * (place + 0.5) / size) / math.sqrt(size) * table[symbol]
    groups, count = np.zeros(BUCKETS), 0
    for length in range(1, GROUP + 1):
        for begin in range(size - length + 1):
            state = 0
            for symbol in string[begin : begin + length]:
                state = mixed((state + codes[symbol]) % 2**64)
            groups[(state >> 40) % BUCKETS] += 1 if state >> 63 else -1
        count += size - length + 1
    return np.concatenate([course.ravel(), groups / math.sqrt(max(count, 1)), [LENGTH * math.sqrt(size)]])


def test_a_description_is_what_it_says(embedding):
    strings = [*made_up(60, 1, shortest=1, longest=20), *made_up(1, 2, shortest=255, longest=255)]
    expected = np.array([described(string) for string in strings])
    np.testing.assert_allclose(embedding.describe(strings), expected, rtol=0, atol=2e-5)
    np.testing.assert_allclose(embedding(strings), expected @ embedding.projection, rtol=1e-3, atol=1e-3)


def test_company_changes_nothing(embedding, monkeypatch):
    strings = made_up(200, 3, shortest=1, longest=40)
    alone = np.concatenate([embedding([string]) for string in strings])
    np.testing.assert_allclose(embedding(strings), alone, rtol=0, atol=1e-4)
    np.testing.assert_allclose(embedding(strings[::-1]), alone[::-1], rtol=0, atol=1e-4)
    monkeypatch.setattr(embeddings, "_BLOCK", 7)
    np.testing.assert_allclose(embedding(strings), alone, rtol=0, atol=1e-4)


def test_the_same_string_has_the_same_vector(embedding):
    strings = made_up(40, 4, shortest=1, longest=40)
    found = embedding([*strings, *strings])
    np.testing.assert_allclose(found[:40], found[40:], rtol=0, atol=1e-4)
    assert embedding([]).shape == (0, DIM) and found.dtype == np.float32


def test_the_order_of_sounds_and_their_tones_can_be_heard(embedding):
    one = said("n an2 j ing1 d ong1")
    tones = said("n an4 j ing2 d ong3")
    first, tonal, reverse = embedding([one, tones, one[::-1]])
    assert ((first - reverse) ** 2).sum() > ((first - tonal) ** 2).sum() > 0.5
    groups = slice(WAVES * FEATURES, WAVES * FEATURES + BUCKETS)
    first, tonal, reverse = embedding.describe([one, tones, one[::-1]])[:, groups]
    assert (first == tonal).all() and (first != reverse).any()


def test_one_wrong_phoneme_is_nearer_than_another_name(embedding):
    rng, strings = random.Random(5), made_up(3000, 5)
    heard = [one_wrong(string, rng) for string in strings[:300]]
    names, asked = embedding(strings).astype(float), embedding(heard).astype(float)
    far = (names**2).sum(1) - 2 * asked @ names.T + (asked**2).sum(1)[:, None]
    nearest = far.argsort(1)[:, :6]
    assert (nearest[:, 0] == np.arange(300)).mean() > 0.93
    assert (nearest == np.arange(300)[:, None]).any(1).mean() > 0.96


def test_a_confusable_phoneme_is_nearer_than_any_other(embedding):
    rng, table, closer = random.Random(6), costs(INVENTORY), 0
    for string in made_up(200, 6):
        place = rng.randrange(len(string))
        order = table[string[place], 1:].argsort() + 1
        likely, unlikely = (string[:place] + bytes([int(order[at])]) + string[place + 1 :] for at in (1, -1))
        one, near, far = embedding([string, likely, unlikely])
        closer += ((one - near) ** 2).sum() < ((one - far) ** 2).sum()
    assert closer > 195


def test_the_map_is_that_of_discriminant_analysis():
    """Measured by errors all directions have the size one, and the scatter is largest in those that are kept."""
    draw = np.random.default_rng(7)
    right = (draw.standard_normal((2000, WIDTH)) @ draw.standard_normal((WIDTH, WIDTH))).astype(np.float32)
    wrong = right + draw.standard_normal((2000, WIDTH)).astype(np.float32) * draw.random(WIDTH).astype(np.float32)
    found = embeddings._discriminants(right, wrong).astype(float)
    apart = (right - wrong).astype(float)
    errors = apart.T @ apart / len(apart)
    errors += np.eye(WIDTH) * embeddings._FLOOR * np.trace(errors) / WIDTH
    expected = scipy.linalg.eigh(np.cov(right.astype(float).T), errors)[1][:, : -DIM - 1 : -1]
    np.testing.assert_allclose(found.T @ errors @ found, np.eye(DIM), atol=1e-4)
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-3 * np.abs(expected).max())


def test_the_same_strings_give_the_same_map():
    strings = made_up(500, 8)
    first = Embedding.learn(strings, INVENTORY)
    np.random.seed(9)
    random.seed(9)
    assert (Embedding.learn(strings, INVENTORY).projection == first.projection).all()
    assert (Embedding.learn(strings[1:], INVENTORY).projection != first.projection).any()


@pytest.mark.parametrize("count", [0, 1, EXAMPLES + 5])
def test_few_strings_or_too_many_will_do(count):
    strings = made_up(count, 10, shortest=1, longest=3) if count < EXAMPLES else made_up(count, 10)
    found = Embedding.learn(strings, INVENTORY)
    assert found.projection.shape == (WIDTH, DIM) and np.isfinite(found.projection).all()
    if count > EXAMPLES:
        assert (Embedding.learn(strings[:EXAMPLES], INVENTORY).projection == found.projection).all()


def test_strings_of_a_foreign_inventory():
    inventory = PhonemeInventory(["<blank>", *(f"<{number}>" for number in range(20))])
    strings = made_up(300, 11, symbols=len(inventory))
    found = Embedding.learn(strings, inventory)(strings)
    assert np.isfinite(found).all() and len(np.unique(found.round(3), axis=0)) == 300


def test_what_is_misheard_is_still_a_string():
    errors = embeddings._Errors(vectors(INVENTORY), np.random.default_rng(12))
    costly, replaced = costs(INVENTORY), []
    for string in made_up(800, 12, shortest=1, longest=10):
        heard = errors.misheard(string)
        assert heard and 0 not in heard and max(heard) < SYMBOLS
        assert Levenshtein.distance(string, heard) <= embeddings._MOST_ERRORS
        if len(heard) == len(string):
            replaced += [costly[pair] for pair in zip(string, heard, strict=True) if pair[0] != pair[1]]
    assert np.median(replaced) < 0.6 * np.median(costly[1:, 1:])
