"""Names that sound like what was heard: the nearest of millions of embedded phoneme strings, by FAISS.

On a CPU the vectors are sorted into cells (inverted file) and kept in 4 bits a pair of numbers (product quantization,
Jégou et al. 2011), which FAISS compares in registers: 24 bytes a string. On a GPU, and where strings are few, all
vectors are compared. Nothing of FAISS's own is written: the arrays lie beside the database's, checked like them, and
the index is made of them in a fraction of a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kit.errors import KitError
from kit.files import write_atomic, write_text
from kit.retrieval.arrays import read_array
from kit.retrieval.embedding import DIM, EXAMPLES, FEATURES, WIDTH, Embedding
from kit.retrieval.evidence import Chances
from kit.retrieval.manifest import REBUILD, damaged

if TYPE_CHECKING:
    from kit.retrieval.database import Database

SHORTEST = 6  # phonemes: too much sounds like a shorter one
FORMAT = 1
ABOUT = "dense.json"
# Of n strings; `rows` of the codes stand in the order of the cells.
ARRAYS = {
    "sounds": np.float32,  # (V, features) of the phonemes
    "groups": np.uint64,  # (V,)
    "projection": np.float32,  # (WIDTH, DIM)
    "chances": np.float32,  # (V, V), see kit.retrieval.evidence
    "centers": np.float32,  # (cells, DIM)
    "codebook": np.float32,  # (PARTS, 2 ** BITS, DIM / PARTS)
    "codes": np.uint8,  # (n, PARTS * BITS / 8)
    "rows": np.int32,  # (n,): which of the strings each code is of
    "cells": np.int64,  # (cells + 1,): where in `rows` each cell begins
}
EXACT = 20_000  # up to so many strings all are compared, and the arrays from "centers" on are empty

CELLS, PARTS, BITS = 1024, 48, 4
PROBES = 8  # cells that are looked into
_ROUNDS, _TRAINED_ON = 8, 64  # of k-means; strings a cell
_BLOCK = 1 << 16  # strings embedded at once
_AT_ONCE = 1 << 28  # distances at once on a GPU: about 2 GB


class DenseIndex:
    """Strings of at least SHORTEST phonemes, by their sound; `build` writes one, `open` reads it.

    Args:
        database: whose strings these are.
        arrays: ARRAYS by name.
        device: "cpu", or a GPU.

    Attributes:
        chances: how surprising the phonemes of the names are.
        credit, sizes: (keys of the database,) of each name, see `kit.retrieval.evidence`, and how many phonemes it has.
    """

    def __init__(self, database: Database, arrays: dict[str, NDArray[Any]], device: str = "cpu") -> None:
        self.embedding = Embedding(arrays["sounds"], arrays["groups"], arrays["projection"])
        self.keys = long_keys(database)
        self.chances = Chances(arrays["chances"])
        self.sizes = np.diff(database.starts)
        self.credit = self.chances.credit(database.strings, database.starts)
        self._search: Callable[[NDArray[np.float32], int], tuple[NDArray[np.float32], NDArray[np.int64]]]
        if torch.device(device).type != "cpu":
            self._search = on_device(_embedded(self.embedding, database, self.keys), device)
        elif len(self.keys) <= EXACT:
            self._search = _flat(_embedded(self.embedding, database, self.keys))
        else:
            self._search = _in_cells(arrays)

    @staticmethod
    def build(database: Database, progress: Callable[[str], None]) -> None:
        """Write the arrays of an index beside those of a database; the same database gives the same arrays.

        Args:
            progress: told in a line what is going on.

        Raises:
            KitError: the disk takes no more.
        """
        keys = long_keys(database)
        progress(f"embedding names: {len(keys)}")
        chosen = np.random.default_rng(0).permutation(len(keys))[:EXAMPLES]
        embedding = Embedding.learn([database.phonemes(key) for key in keys[np.sort(chosen)]], database.inventory)
        arrays: dict[str, NDArray[Any]] = {
            "sounds": embedding.sounds,
            "groups": embedding.groups,
            "projection": embedding.projection,
            "chances": Chances.learn(database.strings, database.starts, len(database.inventory)).table,
        }
        arrays |= _cells(_embedded(embedding, database, keys), progress) if len(keys) > EXACT else _no_cells()
        for name, kind in ARRAYS.items():
            save: Any = partial(np.save, arr=arrays[name].astype(kind, order="C"), allow_pickle=False)
            write_atomic(database.folder / _file(name), save)
        about = {"format": FORMAT, "strings": len(keys), "shortest": SHORTEST, "faiss": _faiss().__version__}
        write_text(database.folder / ABOUT, json.dumps(about, indent=1) + "\n")

    @classmethod
    def open(cls, database: Database, device: str = "cpu") -> DenseIndex:
        """The index of a database.

        Raises:
            KitError: it has none, or one that is damaged or of another version of the kit; FAISS is not installed, or
                the device cannot be used.
        """
        if ABOUT not in database.manifest.files:
            raise KitError(
                f"the hotword database {database.folder.parent} has no index for names that sound alike; "
                + REBUILD.format(database.folder.parent)
            )
        _check_about(database)
        _check_device(device)
        arrays = {name: read_array(database.verified(_file(name)), kind) for name, kind in ARRAYS.items()}
        _check_shapes(database, arrays)
        return cls(database, arrays, device)

    def search(self, windows: Sequence[bytes], nearest: int) -> list[list[tuple[int, float]]]:
        """For each window of phonemes the keys whose strings sound most like it, best first, each with a similarity.

        Args:
            windows: of at least one phoneme; all streams' in one call.
            nearest: keys a window at most.

        Returns:
            the similarity is minus the squared distance, in errors of the usual size.
        """
        keys, far = self.nearest(windows, nearest)
        return [
            [(key, -x) for key, x in zip(*pair, strict=True) if key >= 0]
            for pair in zip(keys.tolist(), far.tolist(), strict=True)
        ]

    def nearest(self, windows: Sequence[bytes], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The same as arrays: (N, count) keys, -1 where none was found, and their squared distances."""
        count = min(count, len(self.keys))
        if not windows or not count:
            return np.zeros((len(windows), 0), np.int64), np.zeros((len(windows), 0), np.float32)
        far, rows = self._search(self.embedding(windows), count)
        return np.where(rows >= 0, self.keys[rows], -1), far


def long_keys(database: Database) -> NDArray[np.int64]:
    """The keys that such an index has, in order."""
    return np.flatnonzero(np.diff(database.starts) >= SHORTEST)


def _embedded(embedding: Embedding, database: Database, keys: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, DIM) of some keys' strings."""
    found = np.empty((len(keys), DIM), np.float32)
    for start in range(0, len(keys), _BLOCK):
        block = keys[start : start + _BLOCK]
        found[start : start + _BLOCK] = embedding([database.phonemes(key) for key in block])
    return found


# The index in cells


def _cells(vectors: NDArray[np.float32], progress: Callable[[str], None]) -> dict[str, NDArray[Any]]:
    """The arrays from "centers" on."""
    faiss = _faiss()
    count = max(1, min(CELLS, len(vectors) // _TRAINED_ON))
    coarse = faiss.IndexFlatL2(DIM)
    index = faiss.IndexIVFPQ(coarse, DIM, count, PARTS, BITS)
    index.by_residual = False
    index.cp.niter, index.cp.seed = _ROUNDS, 1
    chosen = np.random.default_rng(1).permutation(len(vectors))[: _TRAINED_ON * count]
    progress(f"sorting names that sound alike: {len(vectors)} into {count} cells")
    index.train(vectors[np.sort(chosen)])
    cell = coarse.search(vectors, 1)[1][:, 0]
    order = np.argsort(cell, kind="stable")
    return {
        "centers": coarse.reconstruct_n(0, count),
        "codebook": faiss.vector_to_array(index.pq.centroids).reshape(PARTS, 1 << BITS, DIM // PARTS),
        "codes": index.pq.compute_codes(vectors)[order],
        "rows": order,
        "cells": np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=count))]),
    }


def _no_cells() -> dict[str, NDArray[Any]]:
    return {
        "centers": np.zeros((0, DIM)),
        "codebook": np.zeros((PARTS, 1 << BITS, DIM // PARTS)),
        "codes": np.zeros((0, PARTS * BITS // 8)),
        "rows": np.zeros(0),
        "cells": np.zeros(1),
    }


def _in_cells(arrays: dict[str, NDArray[Any]]) -> Callable[..., Any]:
    """A FAISS index of the arrays, in the layout for comparing in registers."""
    faiss = _faiss()
    coarse = faiss.IndexFlatL2(DIM)
    coarse.add(arrays["centers"])
    index = faiss.IndexIVFPQ(coarse, DIM, len(arrays["centers"]), PARTS, BITS)
    index.by_residual = False
    faiss.copy_array_to_vector(arrays["codebook"].ravel(), index.pq.centroids)
    rows, codes, cells = arrays["rows"].astype(np.int64), arrays["codes"], arrays["cells"].tolist()
    for cell, (start, end) in enumerate(pairwise(cells)):
        if end > start:
            one, other = (faiss.swig_ptr(x[start:end]) for x in (rows, codes))
            index.invlists.add_entries(cell, end - start, one, other)
    index.ntotal, index.is_trained = len(rows), True
    fast = faiss.IndexIVFPQFastScan(index)
    fast.nprobe = PROBES
    return _one_thread(fast)


def _flat(vectors: NDArray[np.float32]) -> Callable[..., Any]:
    index = _faiss().IndexFlatL2(DIM)
    index.add(vectors)
    return _one_thread(index)


def _one_thread(index: Any) -> Callable[..., Any]:
    """Its search: for a few dozen queries more threads cost more than they bring, and other work needs the cores."""

    def search(queries: NDArray[np.float32], nearest: int) -> Any:
        faiss = _faiss()
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            return index.search(queries, nearest)
        finally:
            faiss.omp_set_num_threads(before)

    return search


# On a GPU


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise KitError(f"torch has no device {device} here to compare names on; take retrieval.device=cpu") from error


def on_device(vectors: NDArray[np.float32], device: str) -> Callable[..., Any]:
    """Exact search on a GPU in half precision: by FAISS if it was built for GPUs, else by torch.

    Args:
        vectors: (n, DIM).

    Returns:
        what `TorchFlat` is called with and gives.

    Raises:
        KitError: FAISS is not installed.
    """
    faiss = _faiss()
    if torch.device(device).type == "cuda" and hasattr(faiss, "StandardGpuResources"):
        options = faiss.GpuIndexFlatConfig()
        options.useFloat16, options.device = True, torch.device(device).index or 0
        index = faiss.GpuIndexFlatL2(faiss.StandardGpuResources(), DIM, options)
        index.add(vectors)
        return index.search
    return TorchFlat(vectors, device)


class TorchFlat:
    """All vectors compared on a device, in half precision there.

    Args:
        vectors: (n, DIM).
    """

    def __init__(self, vectors: NDArray[np.float32], device: str | torch.device) -> None:
        kind = torch.float32 if torch.device(device).type == "cpu" else torch.float16
        self._vectors = torch.from_numpy(vectors).to(device, kind)
        self._squares = torch.from_numpy((vectors**2).sum(1)).to(device)
        self._at_once = max(1, _AT_ONCE // max(1, len(vectors)))

    @torch.inference_mode()
    def __call__(self, queries: NDArray[np.float32], nearest: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Squared distances (N, nearest) and rows of the nearest vectors of (N, DIM) queries."""
        asked = torch.from_numpy(queries).to(self._vectors.device)
        parts = [self._nearest(some, nearest) for some in asked.split(self._at_once)]
        far, rows = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
        return far, rows

    def _nearest(self, asked: Tensor, nearest: int) -> tuple[Tensor, Tensor]:
        far = self._squares - 2.0 * (asked.to(self._vectors.dtype) @ self._vectors.T).float()
        found = far.topk(nearest, largest=False)
        return found.values + (asked**2).sum(1, keepdim=True), found.indices


# Files


def _file(name: str) -> str:
    return f"dense.{name}.npy"


def _check_about(database: Database) -> None:
    path = database.verified(ABOUT)
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or (found.get("format"), found.get("shortest")) != (FORMAT, SHORTEST):
        raise KitError(f"{path} is of another version of the kit; " + REBUILD.format(database.folder.parent))


def _check_shapes(database: Database, arrays: dict[str, NDArray[Any]]) -> None:
    """No number may lead out of its array, whoever wrote it."""
    symbols, strings, ends, rows = len(database.inventory), len(long_keys(database)), arrays["cells"], arrays["rows"]
    kept, cells = (strings, ends.size) if strings > EXACT else (0, 1)
    shapes = {
        "sounds": (symbols, FEATURES),
        "groups": (symbols,),
        "projection": (WIDTH, DIM),
        "chances": (symbols, symbols),
        "centers": (cells - 1, DIM),
        "codebook": (PARTS, 1 << BITS, DIM // PARTS),
        "codes": (kept, PARTS * BITS // 8),
        "rows": (kept,),
        "cells": (cells,),
    }
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    if not wrong and not (ends[0] == 0 and ends[-1] == kept and (ends[:-1] <= ends[1:]).all()):
        wrong = ["cells"]
    if not wrong and not _is_permutation(rows):
        wrong = ["rows"]
    wrong += [name for name, x in arrays.items() if x.dtype == np.float32 and not np.isfinite(x).all()]
    if wrong:
        raise damaged(database.folder / _file(wrong[0]))


def _is_permutation(rows: NDArray[np.int32]) -> bool:
    """Whether each number from 0 stands there once."""
    inside = rows.min(initial=0) >= 0 and rows.max(initial=-1) < len(rows)  # counting others would take their memory
    return bool(inside and (np.bincount(rows, minlength=len(rows)) == 1).all())


def _faiss() -> Any:
    """FAISS, imported when it is needed.

    Raises:
        KitError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise KitError(
            "search for names that sound alike needs FAISS; pip install faiss-cpu, or take retrieval=exact"
        ) from error
    return faiss
