"""Arrays in files: only what NumPy writes for plain numbers is read, so that no file can lead its reader astray."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit.retrieval.manifest import damaged

# NumPy would evaluate the header and take many others, among them archives and what asks for terabytes.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([^']*)', 'fortran_order': False, 'shape': \(([0-9, ]*)\), \} *\n", re.DOTALL
)
_LONGEST = 1 << 10  # bytes of a header


def read_array(path: Path, kind: Any) -> NDArray[Any]:
    """The array in a .npy file of format 1.0 in a database, mapped into memory.

    Args:
        kind: of its numbers.

    Raises:
        KitError: the file holds something else.
    """
    kind = np.dtype(kind)
    try:
        with open(path, "rb") as file:
            header = _HEADER.match(file.read(_LONGEST))
        if header is None or header[1].decode("latin-1") != kind.str or header.end() % kind.itemsize:
            raise damaged(path)
        shape = tuple(map(int, re.findall(rb"\d+", header[2])))
        if header.end() + math.prod(shape) * kind.itemsize != path.stat().st_size:
            raise damaged(path)
        found = np.memmap(path, kind, "r", header.end(), shape)
    except (OSError, ValueError, OverflowError) as error:
        raise damaged(path) from error
    return np.asarray(found)  # without the class of memory maps, whose slices cost more
