import random
import struct

import numpy as np
import pytest

from kit.audio.kaldi import read_cmvn, read_matrix
from kit.errors import KitError

RNG = np.random.default_rng(0)


def binary(matrix, kind=b"FM "):
    numbers = matrix.astype("<f4" if kind == b"FM " else "<f8").tobytes()
    return b"\0B" + kind + b"\4" + struct.pack("<i", len(matrix)) + b"\4" + struct.pack("<i", matrix.shape[1]) + numbers


def text(matrix):
    return (" [\n" + "\n".join("  " + " ".join(map(repr, row.tolist())) for row in matrix) + " ]\n").encode()


@pytest.mark.parametrize("name", [b"", b"global ", b"utt-1 "])
@pytest.mark.parametrize("shape", [(2, 81), (1, 1), (5, 3)])
@pytest.mark.parametrize("write", [binary, lambda matrix: binary(matrix, b"DM "), text])
def test_matrices_come_back(tmp_path, name, shape, write):
    matrix = RNG.normal(size=shape).astype("f4").astype("f8")
    (tmp_path / "m").write_bytes(name + write(matrix))
    assert np.array_equal(read_matrix(tmp_path / "m"), matrix)


def test_the_first_of_an_archive_is_taken(tmp_path):
    one, two = RNG.normal(size=(2, 2, 3)).astype("f4")
    (tmp_path / "m").write_bytes(b"a " + binary(one) + b"b " + binary(two))
    assert np.array_equal(read_matrix(tmp_path / "m"), one.astype("f8"))


def test_mean_and_deviation_of_statistics(tmp_path):
    frames = RNG.normal(size=(500, 7)) * 3 + 2
    stats = np.zeros((2, 8))
    stats[0, :7], stats[1, :7], stats[0, 7] = frames.sum(0), (frames**2).sum(0), len(frames)
    (tmp_path / "cmvn.ark").write_bytes(b"global " + binary(stats, b"DM "))
    mean, deviation = read_cmvn(tmp_path / "cmvn.ark", 7)
    np.testing.assert_allclose(mean, frames.mean(0), rtol=1e-10)
    np.testing.assert_allclose(deviation, frames.std(0), rtol=1e-9)
    with pytest.raises(KitError, match=r"has \(2, 8\) numbers; the statistics of 80 bins are \(2, 81\)"):
        read_cmvn(tmp_path / "cmvn.ark", 80)
    (tmp_path / "none").write_bytes(binary(np.zeros((2, 8))))
    with pytest.raises(KitError, match="frames last"):
        read_cmvn(tmp_path / "none", 7)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0B", b"\0BCM ", b"\0BFM \4", b"[ 1 2\n 3 ]", b"[ 1 x ]", b"[ 1 nan ]", b"[ 1 2", b"PK\3\4", b"a b [ 1 ]"],
)
def test_what_is_no_matrix_is_one_sentence(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(KitError, match="is no whole Kaldi matrix"):
        read_matrix(tmp_path / "m")


def test_a_header_is_not_believed(tmp_path):
    """Sizes that are negative, or say more than there is, and any torn file."""
    for rows, columns in ((-1, 4), (1 << 30, 1 << 30), (2, 5)):
        content = b"\0BFM \4" + struct.pack("<i", rows) + b"\4" + struct.pack("<i", columns) + b"\0" * 32
        (tmp_path / "m").write_bytes(content)
        with pytest.raises(KitError):
            read_matrix(tmp_path / "m")
    whole = binary(RNG.normal(size=(2, 4)))
    for length in random.Random(0).sample(range(len(whole)), 20):
        (tmp_path / "m").write_bytes(whole[:length])
        with pytest.raises(KitError):
            read_matrix(tmp_path / "m")


def test_a_path_is_never_a_command(tmp_path):
    with pytest.raises(KitError, match="cannot be read: No such file"):
        read_matrix(f"touch {tmp_path / 'made'} |")
    assert not (tmp_path / "made").exists()
