"""Only what NumPy writes for plain numbers is read."""

import io
import random

import numpy as np
import pytest

from kit.errors import KitError
from kit.retrieval.arrays import read_array

KINDS = [np.uint8, np.int32, np.int64, np.uint32, np.uint64, np.float32, np.float64, np.bool_]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (0, 5), (3, 4), (2, 1, 3)])
def test_what_numpy_writes_is_read(tmp_path, kind, shape):
    array = np.random.default_rng(1).integers(0, 2, shape).astype(kind)
    np.save(tmp_path / "a.npy", array)
    found = read_array(tmp_path / "a.npy", kind)
    assert type(found) is np.ndarray and found.dtype == kind and found.shape == shape and (found == array).all()
    for other in KINDS:
        if other is not kind:
            with pytest.raises(KitError, match=r"a\.npy is damaged; build it again"):
                read_array(tmp_path / "a.npy", other)


def written(save, *arguments, **options):
    file = io.BytesIO()
    save(file, *arguments, **options)
    return file.getvalue()


NUMBERS = written(np.save, np.arange(6, dtype=np.int32))
TABLE = np.arange(6, dtype=np.int32).reshape(2, 3)
WRONG = {
    "nothing": b"",
    "text": b"1 2 3\n",
    "archive": written(np.savez, TABLE),
    "pickle": written(np.save, np.array([{}, 1], object)),
    "columns first": written(np.save, np.asfortranarray(TABLE)),
    "another version": written(lambda file: np.lib.format.write_array(file, TABLE, version=(2, 0))),
    "other end first": written(np.save, TABLE.astype(">i4")),
    "several columns": written(np.save, np.zeros(3, [("a", "i4")])),
    "header cut": NUMBERS[:40],
    "no shape": NUMBERS.replace(b"(6,)", b"None"),
    "less than none": NUMBERS.replace(b"(6,)", b"(-6,)"),
    "more than there is": NUMBERS.replace(b"(6,)", b"(7,)"),
    "less than there is": NUMBERS[:-1],
    "terabytes": NUMBERS.replace(b"(6,), }" + b" " * 12, b"(6000000000000,), }"),
    "past all sums": NUMBERS.replace(b"(6,), }" + b" " * 38, b"(4611686018427387904, 4, 0), }" + b" " * 15),
    "none of too many": NUMBERS[:-24].replace(b"(6,), }" + b" " * 29, b"(0, 1000000000000000000000000000), }"),
    "not aligned": NUMBERS.replace(b"  \n", b" \n"),
}


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_refused(tmp_path, name):
    assert WRONG[name] != NUMBERS
    (tmp_path / "a.npy").write_bytes(WRONG[name])
    with pytest.raises(KitError, match=r"a\.npy is damaged; build it again"):
        read_array(tmp_path / "a.npy", np.int32)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path / "none.npy", tmp_path):
        with pytest.raises(KitError, match="is damaged; build it again"):
            read_array(path, np.int32)


def test_changed_bytes_are_refused_or_lead_to_numbers_of_the_file(tmp_path):
    rng, path = random.Random(2), tmp_path / "a.npy"
    for _ in range(300):
        content = bytearray(NUMBERS)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(128)] = rng.choice([rng.randrange(256), *b"(){}[],'0 \n"])
        path.write_bytes(content)
        try:
            found = read_array(path, np.int32)
        except KitError:
            continue
        assert found.size == 6 and found.ravel().tolist() == list(range(6))
