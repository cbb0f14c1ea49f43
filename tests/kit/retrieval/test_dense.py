"""The dense index against comparing everything, on a database of few strings, all compared, and one of cells."""

import json
import random
import sys
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch
from strings import INVENTORY, SYMBOLS, database_of, made_up, one_wrong, wait_for

from kit.errors import KitError
from kit.retrieval import dense, embedding
from kit.retrieval.build import build
from kit.retrieval.database import Database, Shared
from kit.retrieval.dense import ABOUT, ARRAYS, DIM, SHORTEST, DenseIndex, TorchFlat, long_keys
from kit.retrieval.evidence import Chances
from kit.retrieval.exact import ExactSearch

FEW, MANY = made_up(300, 0, shortest=2, longest=14), made_up(4000, 1, longest=12)


@pytest.fixture(scope="module", autouse=True)
def smaller():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "EXAMPLES", 2000)
        patch.setattr(dense, "EXAMPLES", 2000)
        patch.setattr(dense, "EXACT", 1000)
        yield


@pytest.fixture(scope="module")
def flat(smaller, tmp_path_factory):
    """All are compared, and some are too short for the index."""
    return database_of(tmp_path_factory.mktemp("flat") / "db", FEW)


@pytest.fixture(scope="module")
def cells(smaller, tmp_path_factory):
    return database_of(tmp_path_factory.mktemp("cells") / "db", MANY)


@pytest.fixture(params=["flat", "cells"])
def database(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def own(tmp_path):
    """A database to be spoiled."""
    return database_of(tmp_path / "db", FEW[:40])


def squared(index, database, windows):
    """(keys, distances (windows, keys)) by embedding and comparing all strings that are long enough, in double."""
    strings = [database.phonemes(key) for key in range(database.keys)]
    keys = [key for key, string in enumerate(strings) if len(string) >= SHORTEST]
    names = index.embedding([strings[key] for key in keys]).astype(float)
    asked = index.embedding(windows).astype(float)
    return np.array(keys), (asked**2).sum(1)[:, None] + (names**2).sum(1) - 2 * asked @ names.T


def windows_of(strings, seed, count=40):
    rng = random.Random(seed)
    return [one_wrong(string, rng) for string in rng.sample([one for one in strings if len(one) >= SHORTEST], count)]


def assert_nearest(found, keys, far, count):
    """`found`, (keys, distances), are the nearest of all."""
    assert found[0].shape == found[1].shape == (len(far), count)
    np.testing.assert_allclose(found[1], np.sort(far, 1)[:, :count], rtol=1e-3, atol=0.02)
    places = np.searchsorted(keys, found[0])
    assert (keys[places] == found[0]).all()
    np.testing.assert_allclose(np.take_along_axis(far, places, 1), found[1], rtol=1e-3, atol=0.02)
    assert all(len(set(row)) == count for row in found[0].tolist())


def test_few_strings_are_all_compared(flat):
    index, windows = flat.dense(), [*windows_of(FEW, 2), FEW[0], bytes([1])]
    keys, far = squared(index, flat, windows)
    assert_nearest(index.nearest(windows, 7), keys, far, 7)
    assert (index.keys == keys).all() and len(keys) < flat.keys
    hits = index.search(windows, 7)
    for (found, distances), row in zip(zip(*index.nearest(windows, 7), strict=True), hits, strict=True):
        assert [key for key, _ in row] == found.tolist() and [-x for _, x in row] == distances.tolist()


def test_cells_find_almost_all_that_comparing_finds(cells):
    index, rng = cells.dense(), random.Random(3)
    chosen = rng.sample(range(cells.keys), 200)
    windows = [one_wrong(cells.phonemes(key), rng) for key in chosen]
    keys, far = squared(index, cells, windows)
    found, distances = index.nearest(windows, 6)
    best = keys[far.argmin(1)]
    assert (found == best[:, None]).any(1).mean() > 0.94
    assert (found == np.array(chosen)[:, None]).any(1).mean() > 0.9
    assert (np.diff(distances) >= 0).all()
    true = np.take_along_axis(far, np.searchsorted(keys, found), 1)
    assert np.abs(distances / true - 1).mean() < 0.25  # four bits a pair of numbers
    assert index.nearest([cells.phonemes(key) for key in chosen], 1)[0].ravel().tolist() == chosen


def test_the_flat_index_of_torch_is_exact(flat, monkeypatch):
    draw = np.random.default_rng(4)
    names, asked = (draw.standard_normal((count, DIM)).astype(np.float32) for count in (500, 33))
    far = ((asked[:, None].astype(float) - names[None]) ** 2).sum(-1)
    whole = TorchFlat(names, "cpu")(asked, 5)
    np.testing.assert_allclose(whole[0], np.sort(far, 1)[:, :5], rtol=1e-4)
    assert (whole[1] == far.argsort(1)[:, :5]).all()
    assert [part.shape for part in TorchFlat(names, "cpu")(asked[:0], 5)] == [(0, 5), (0, 5)]
    for at_once in (1, 1100):  # less than a query, two of them
        monkeypatch.setattr(dense, "_AT_ONCE", at_once)
        parts = TorchFlat(names, torch.device("cpu"))(asked, 5)
        np.testing.assert_allclose(parts[0], whole[0], rtol=1e-5)
        assert (parts[1] == whole[1]).all()


@pytest.fixture
def on_gpu(monkeypatch):
    """Where torch's part runs on the CPU; what was asked for."""
    asked = []
    monkeypatch.setattr(dense, "_check_device", lambda device: None)
    monkeypatch.setattr(dense, "TorchFlat", lambda vectors, device: asked.append(device) or TorchFlat(vectors, "cpu"))
    return asked


def test_a_gpu_compares_all_by_torch(cells, on_gpu):
    index, windows = DenseIndex.open(cells, "cuda:1"), windows_of(MANY, 5)
    assert on_gpu == ["cuda:1"] and not hasattr(faiss, "StandardGpuResources")
    keys, far = squared(index, cells, windows)
    assert_nearest(index.nearest(windows, 4), keys, far, 4)


def test_a_gpu_compares_all_by_faiss_if_it_can(flat, on_gpu, monkeypatch):
    made = []

    class Flat(faiss.IndexFlatL2):
        def __init__(self, resources, dim, options):
            made.append((resources, dim, options.useFloat16, options.device))
            super().__init__(dim)

    for name, value in {
        "StandardGpuResources": lambda: "resources",
        "GpuIndexFlatConfig": SimpleNamespace,
        "GpuIndexFlatL2": Flat,
    }.items():
        monkeypatch.setattr(faiss, name, value, raising=False)
    index, windows = DenseIndex.open(flat, "cuda:1"), windows_of(FEW, 6)
    assert made == [("resources", DIM, True, 1)] and not on_gpu
    keys, far = squared(index, flat, windows)
    assert_nearest(index.nearest(windows, 4), keys, far, 4)
    DenseIndex.open(flat, "meta")  # torch's other devices are none of FAISS's
    assert on_gpu == ["meta"]


@pytest.mark.parametrize("device", ["cuda:99", "gpu", ""])
def test_a_device_that_is_not_there_is_one_sentence(flat, device):
    with pytest.raises(KitError, match=f"torch has no device {device} here to compare names on; take retrieval.device"):
        flat.dense(device)


def test_nothing_is_found_where_nothing_is_asked(database):
    index = database.dense()
    for windows, count in (([], 3), ([FEW[0]], 0), ([], 0)):
        keys, far = index.nearest(windows, count)
        assert keys.shape == far.shape == (len(windows), 0)
        assert index.search(windows, count) == [[] for _ in windows]


def test_more_may_be_asked_for_than_there_are(own):
    index = own.dense()
    keys, far = index.nearest(FEW[:3], 1000)
    assert keys.shape == far.shape == (3, len(long_keys(own)))
    assert (np.sort(keys, 1) == long_keys(own)).all()


def test_cells_that_hold_less_than_is_asked_for_leave_the_rest_open(cells, monkeypatch):
    monkeypatch.setattr(dense, "PROBES", 1)
    index = DenseIndex.open(cells)
    keys, _ = index.nearest(MANY[:5], len(MANY))
    assert (keys[:, -1] == -1).all() and (keys[:, 0] >= 0).all()
    rows = index.search(MANY[:5], len(MANY))
    assert [len(row) for row in rows] == (keys >= 0).sum(1).tolist()


def test_without_a_long_name_there_is_an_index_that_finds_nothing(tmp_path):
    database = database_of(tmp_path / "db", made_up(5, 7, shortest=1, longest=SHORTEST - 1))
    index = database.dense()
    assert len(index.keys) == 0 and index.search(FEW[:2], 5) == [[], []]
    assert index.credit.shape == index.sizes.shape == (database.keys,)


def test_an_index_knows_what_phonemes_are_worth(database):
    index = database.dense()
    expected = Chances.learn(database.strings, database.starts, SYMBOLS)
    assert (index.chances.table == expected.table).all()
    assert (index.credit == expected.credit(database.strings, database.starts)).all()
    assert index.sizes.tolist() == [len(database.phonemes(key)) for key in range(database.keys)]


def dense_files(database):
    return {path.name: path.read_bytes() for path in database.folder.glob("dense.*")}


def test_the_same_list_gives_the_same_bytes(database, tmp_path):
    strings = FEW if database.keys == len(FEW) else MANY
    before = dense_files(database)
    assert set(before) == {ABOUT, *(f"dense.{name}.npy" for name in ARRAYS)}
    again = database_of(tmp_path / "db", strings)
    assert dense_files(again) == before
    again = database_of(tmp_path / "db", strings)  # in place of the version before
    assert dense_files(again) == before
    assert json.loads(before[ABOUT])["strings"] == len(long_keys(database))


def test_arrays_can_be_read_by_numpy_alone(database):
    """What docs/hotwords.md says of the format: little endian, one header, no objects."""
    for name, kind in ARRAYS.items():
        found = np.load(database.folder / f"dense.{name}.npy", allow_pickle=False)
        assert found.dtype == kind
    assert set(json.loads((database.folder / ABOUT).read_text())) == {"format", "strings", "shortest", "faiss"}


def test_an_interrupted_search_does_not_change_the_threads(flat, monkeypatch):
    before = faiss.omp_get_max_threads()
    monkeypatch.setattr(faiss, "omp_get_max_threads", lambda: before + 1)
    set_to = []
    monkeypatch.setattr(faiss, "omp_set_num_threads", set_to.append)
    flat.dense().nearest(FEW[:2], 3)
    with pytest.raises(AttributeError):
        flat.dense()._search(None, 3)
    assert set_to == [1, before + 1] * 2


# Without FAISS


@pytest.fixture
def no_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)


def test_without_faiss_a_build_says_so_before_it_begins(no_faiss, tmp_path):
    (tmp_path / "names.tsv").write_text("外滩\n")
    with pytest.raises(KitError, match="needs FAISS; pip install faiss-cpu, or give dense=false"):
        build(tmp_path / "names.tsv", tmp_path / "db", INVENTORY)
    assert not (tmp_path / "db").exists()


def test_without_faiss_an_index_cannot_be_opened(database, no_faiss):
    for device in ("cpu", "cpu:0"):
        with pytest.raises(KitError, match="needs FAISS; pip install faiss-cpu, or take retrieval=exact"):
            DenseIndex.open(database, device)


def test_without_faiss_exact_search_works(flat, no_faiss, tmp_path):
    search = ExactSearch(Database.open(flat.folder.parent), shortest=2)
    for string in FEW[:20]:
        found, _ = search.search([1, *string, 2])
        assert string in [flat.phonemes(match.key) for match in found]
    assert database_of(tmp_path / "db", FEW[:5], dense=False).keys == 5


# Files that are not as they should be


@pytest.mark.parametrize("name", [ABOUT, *(f"dense.{name}.npy" for name in ARRAYS)])
def test_a_file_that_is_not_whole_is_named(own, name):
    path = own.folder / name
    whole = path.read_bytes()
    for content, what in ((whole[:-1], "is torn"), (whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:], "is damaged")):
        path.write_bytes(content)
        with pytest.raises(KitError, match=f"{name} {what}.*; build it again with python -m kit hotwords build"):
            DenseIndex.open(own)
    path.unlink()
    with pytest.raises(KitError, match=f"cannot read .*{name}: No such file"):
        DenseIndex.open(own)
    assert Database.open(own.folder.parent).keys == own.keys  # exact search goes on


def past_all_sums(ends):
    """Differences of these numbers are not below 0, as a machine subtracts."""
    most = np.iinfo(np.int64).max
    return np.concatenate([[0, most, -most - 1, -1], ends[4:]])


WRONG = {
    "sounds": [lambda a: a[:-1], lambda a: a[:, :-1], lambda a: a.ravel(), lambda a: a * np.nan],
    "groups": [lambda a: a[:-1], lambda a: a[None], lambda a: a.astype(np.int64)],
    "projection": [lambda a: a.T, lambda a: a[:-1], lambda a: a + np.inf, lambda a: a.astype(np.float64)],
    "chances": [lambda a: a[1:, 1:], lambda a: a.ravel(), lambda a: a * np.nan],
    "centers": [lambda a: a[:-1], lambda a: a[:, 1:], lambda a: a * np.nan, lambda a: a.astype(np.float16)],
    "codebook": [lambda a: a[1:], lambda a: a.reshape(16, 48, 2), lambda a: a - np.inf],
    "codes": [lambda a: a[:-1], lambda a: a.T, lambda a: a.ravel(), lambda a: a.astype(np.int8)],
    "rows": [
        lambda a: a[:-1],
        lambda a: a + 1,
        lambda a: a - 1,
        lambda a: a * 0,
        lambda a: np.where(a == 0, np.iinfo(a.dtype).max, a),
        lambda a: np.where(a == 0, np.iinfo(a.dtype).min, a),
        lambda a: a.astype(np.int64),
    ],
    "cells": [
        lambda a: a + 1,
        lambda a: a[::-1],
        lambda a: a[:-1],
        lambda a: a[:0],
        lambda a: a[None],
        lambda a: a[-1],
        lambda a: np.where(a == a[3], a[-1] + 9, a),
        lambda a: np.where(a == a[3], -9, a),
        past_all_sums,
        lambda a: a.astype(np.int32),
    ],
}


@pytest.fixture
def spoil(cells):
    """Replaces arrays of the database of cells, for the length of a test."""
    kept = dense_files(cells)

    def replace(name, array):
        np.save(cells.folder / f"dense.{name}.npy", array)
        cells.seal(f"dense.{name}.npy")

    yield replace
    for name, content in kept.items():
        (cells.folder / name).write_bytes(content)
    cells.seal(*kept)


@pytest.mark.parametrize("name", ARRAYS)
def test_numbers_that_lead_astray_are_refused_even_with_right_checksums(cells, spoil, name):
    right = np.load(cells.folder / f"dense.{name}.npy")
    for number, change in enumerate(WRONG[name]):
        spoil(name, change(right).astype(change(right).dtype))
        with pytest.raises(KitError, match=r"db/.*/dense\.\w+\.npy is damaged; build it again with python"):
            DenseIndex.open(cells)
            pytest.fail(f"{name}, change {number}")
    spoil(name, right)
    DenseIndex.open(cells)


@pytest.mark.parametrize("name", ["centers", "codes", "rows", "cells", "codebook"])
def test_an_index_of_few_strings_has_no_cells(own, cells, name):
    np.save(own.folder / f"dense.{name}.npy", np.load(cells.folder / f"dense.{name}.npy")[1:])
    own.seal(f"dense.{name}.npy")
    with pytest.raises(KitError, match=r"dense\.\w+\.npy is damaged"):
        DenseIndex.open(own)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("name", ["sounds", "projection", "chances", "centers", "codebook"])
def test_numbers_beyond_all_bounds_crash_nothing(cells, spoil, name):
    right = np.load(cells.folder / f"dense.{name}.npy")
    for factor in (1e20, 1e30):
        spoil(name, (right.clip(-1, 1) * factor).astype(np.float32))
        keys, _ = DenseIndex.open(cells).nearest(MANY[:3], 5)
        assert ((keys >= -1) & (keys < cells.keys)).all()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "\xff", "[" * 100_000, '{"format": 1}', '{"format": 0, "shortest": 6}', '{"shortest": 6}'],
)
def test_an_index_of_another_version_is_refused(own, content):
    (own.folder / ABOUT).write_bytes(content.encode("latin-1"))
    own.seal(ABOUT)
    with pytest.raises(KitError, match=r"dense\.json is of another version of the kit; build it again"):
        own.dense()


def test_an_index_of_other_bounds_is_refused(own, monkeypatch):
    for name in ("FORMAT", "SHORTEST"):
        with monkeypatch.context() as patch:
            patch.setattr(dense, name, 9)
            with pytest.raises(KitError, match="is of another version of the kit"):
                DenseIndex.open(own)


def test_a_database_without_an_index_is_one_sentence(tmp_path):
    database = database_of(tmp_path / "db", FEW[:5], dense=False)
    with pytest.raises(KitError, match=r"the hotword database .*db has no index for names that sound alike; build it"):
        database.dense()


# A database that changes


def test_a_new_version_is_opened_with_its_index(tmp_path):
    before = database_of(tmp_path / "db", FEW[:40])
    shared = Shared.of(tmp_path / "db", INVENTORY)
    old = shared.current()
    assert old.version == before.version and old.dense() is old.dense()
    again = database_of(tmp_path / "db", FEW[:60])
    wait_for(lambda: shared.current().version == again.version)
    assert set(shared.current()._indexes) == {"cpu"}
    assert len(shared.current().dense().keys) == len(long_keys(again)) > len(old.dense().keys)
    assert old.dense().search(FEW[:3], 2) and not old.folder.exists()  # whoever has it goes on


def test_a_new_version_without_an_index_is_not_gone_over_to(tmp_path, capsys):
    database_of(tmp_path / "db", FEW[:40])
    shared = Shared.of(tmp_path / "db", INVENTORY)
    old = shared.current()
    old.dense()
    database_of(tmp_path / "db", FEW[:60], dense=False)
    capsys.readouterr()
    told = []
    wait_for(lambda: shared.current() and told.append(capsys.readouterr().err) is None and any(told))
    assert shared.current() is old
    assert "has no index for names that sound alike" in "".join(told) and "the version before stays in use" in told[-1]
