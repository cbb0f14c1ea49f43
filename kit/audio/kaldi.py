"""Matrices in Kaldi's files: a plain one or the first of an archive, in binary or as text.

The format is Kaldi's (https://kaldi-asr.org/doc/io.html, matrix/kaldi-matrix.cc). Nothing in a path is run as a
command, as Kaldi's own tools would.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from kit.errors import KitError

_LARGEST = 1 << 26  # numbers in a matrix; a header that says more is broken
_TYPES: dict[bytes, np.dtype] = {b"FM ": np.dtype("<f4"), b"DM ": np.dtype("<f8")}
_HEADER = 15  # bytes: the mark of binary data, the type, twice a size of 4 bytes with its own length before it


def read_matrix(path: str | Path) -> np.ndarray:
    """(rows, columns) in double precision.

    Raises:
        KitError: the file cannot be read, or has no such matrix.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise KitError(f"{path} cannot be read: {error.strerror}; give a Kaldi matrix such as cmvn.ark") from error
    content = re.sub(rb"\A[^\s\[\0]+ (?=\0B|\s*\[)", b"", content)  # the name of the first matrix of an archive
    found = _binary(content) if content[:2] == b"\0B" else _text(content)
    if found is None or not np.isfinite(found).all():
        raise KitError(f"{path} is no whole Kaldi matrix of numbers, plain (not compressed), in binary or as text")
    return found


def read_cmvn(path: str | Path, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (F,) of features from the statistics that Kaldi's compute-cmvn-stats writes.

    A matrix (2, F + 1): sums of the features and the number of frames, sums of their squares.

    Raises:
        KitError: no such matrix, of another number of bins, or of no frames.
    """
    stats = read_matrix(path)
    if stats.shape != (2, bins + 1) or stats[0, -1] < 1:
        raise KitError(
            f"{path} has {stats.shape} numbers; the statistics of {bins} bins are (2, {bins + 1}), frames last"
        )
    mean, square = stats[:, :-1] / stats[0, -1]
    return mean, np.sqrt(np.maximum(square - mean**2, 1e-20))


def _binary(content: bytes) -> np.ndarray | None:
    kind, sizes = _TYPES.get(content[2:5]), content[5:_HEADER]
    if kind is None or len(sizes) < 10 or sizes[0] != 4 or sizes[5] != 4:
        return None
    rows, columns = (int.from_bytes(sizes[start : start + 4], "little", signed=True) for start in (1, 6))
    if rows < 0 or columns < 0 or rows * columns > _LARGEST:
        return None
    values = content[_HEADER : _HEADER + rows * columns * kind.itemsize]
    if len(values) < rows * columns * kind.itemsize:
        return None
    return np.frombuffer(values, kind).astype(np.float64).reshape(rows, columns)


def _text(content: bytes) -> np.ndarray | None:
    match = re.match(rb"\s*\[([^\[\]]*)\]", content)
    if not match or len(content) > _LARGEST:
        return None
    try:
        rows = [[float(value) for value in line.split()] for line in match[1].decode().splitlines() if line.strip()]
        return np.array(rows, dtype=np.float64).reshape(len(rows), -1)
    except ValueError:
        return None
