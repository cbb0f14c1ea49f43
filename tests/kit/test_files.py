import errno
import io
import os
import resource
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from kit.errors import KitError, UsageError, nearest
from kit.files import (
    append_rows,
    check_writable,
    folder_atomic,
    folder_once,
    held,
    remove_leftovers,
    write_atomic,
    write_text,
)


@contextmanager
def disk_of(limit):
    """A disk that takes files of `limit` bytes only: the kernel answers as it does when one is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    write_text(target, "first")
    write_text(target, "第二")
    assert target.read_text(encoding="utf-8") == "第二"
    assert names(target.parent) == ["file.txt"]
    assert os.stat(target).st_mode & 0o777 == 0o644


@pytest.mark.parametrize("size", [10, 5000, 2_000_000])
def test_a_full_disk_leaves_the_old_file(tmp_path, size):
    target = tmp_path / "file.bin"
    write_text(target, "old")
    with disk_of(size // 2), pytest.raises(KitError, match=r"cannot write .*file\.bin: File too large; free"):
        write_atomic(target, lambda file: file.write(b"0" * size))
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("elements", [10, 10_000, 1_000_000])
def test_torch_save_on_a_full_disk_tells_the_real_reason(tmp_path, elements):
    weights = {"a": torch.zeros(elements), "b": torch.zeros(elements)}
    whole = io.BytesIO()
    torch.save(weights, whole)
    target = tmp_path / "last.ckpt"
    for share in (0.1, 0.5, 0.9):
        with disk_of(int(share * whole.tell())), pytest.raises(KitError, match="File too large"):
            write_atomic(target, lambda file: torch.save(weights, file))
    assert names(tmp_path) == []


def test_an_error_of_the_writer_passes_unchanged(tmp_path):
    def fail(file):
        file.write(b"half")
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        write_atomic(tmp_path / "file", fail)
    assert names(tmp_path) == []


def test_folder_atomic_appears_only_when_whole(tmp_path):
    target = tmp_path / "export"
    with folder_atomic(target) as folder:
        write_text(folder / "a", "x")
        assert not target.exists()
    assert names(target) == ["a"]
    with pytest.raises(KeyError), folder_atomic(tmp_path / "other") as folder:
        write_text(folder / "a", "x")
        raise KeyError("stop")
    assert names(tmp_path) == ["export"]


def test_folder_atomic_never_overwrites(tmp_path):
    (tmp_path / "export").mkdir()
    with pytest.raises(KitError, match="exists already"), folder_atomic(tmp_path / "export"):
        pass


def test_safetensors_on_a_full_disk(tmp_path):
    with disk_of(1000), pytest.raises(KitError, match=r"cannot write .*export: File too large"):
        with folder_atomic(tmp_path / "export") as folder:
            save_file({"a": torch.zeros(100_000)}, folder / "model.safetensors")
    assert names(tmp_path) == []


def test_folder_once_makes_it_once(tmp_path):
    for text in ("first", "second"):
        folder_once(tmp_path / "made", lambda folder, text=text: (folder / "file").write_text(text))
    assert (tmp_path / "made" / "file").read_text() == "first"


def test_folder_once_lets_a_faster_process_win(tmp_path):
    def fill(folder):
        (folder / "file").write_text("slow")
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "file").write_text("fast")

    folder_once(tmp_path / "made", fill)
    assert (tmp_path / "made" / "file").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    with pytest.raises(KeyError):
        folder_once(tmp_path / "other", lambda folder: {}["missing"])


def test_folder_atomic_does_not_take_a_missing_input_for_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), folder_atomic(tmp_path / "export"):
        (tmp_path / "absent").read_text()


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for act in (check_writable, lambda path: write_text(path / "x", "")):
        with pytest.raises(KitError, match=r"cannot write .*(a part of this path is a file|a file stands where)"):
            act(tmp_path / "file" / "runs")

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(KitError, match="Read-only file system; choose a folder you may write to"):
        check_writable(tmp_path / "runs")


def test_check_writable_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []


def test_remove_leftovers_spares_whole_files(tmp_path):
    (tmp_path / ".last.ckpt.abc.part").write_text("half")
    (tmp_path / ".export.abc.part").mkdir()
    (tmp_path / "last.ckpt").write_text("whole")
    (tmp_path / "notes.part").write_text("the user's own")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["last.ckpt", "notes.part"]


def test_errors():
    assert issubclass(UsageError, KitError)
    assert nearest("stf", ["pretrain", "sft", "align"]) == "sft"
    assert nearest("zzzzzz", ["pretrain", "sft"]) is None
    assert nearest("a", []) is None


@pytest.mark.parametrize("name", ["", "file"])
def test_one_holds_a_file_or_folder_until_it_lets_go_or_dies(tmp_path, name):
    (tmp_path / "file").touch()
    with held(tmp_path / name) as mine, held(tmp_path / name) as theirs:
        assert (mine, theirs) == (True, False)
    child = os.fork()
    if not child:
        with held(tmp_path / name):
            os._exit(0)
    os.waitpid(child, 0)
    with held(tmp_path / name, wait=True) as mine:
        assert mine
    with pytest.raises(FileNotFoundError), held(tmp_path / "none"):
        pass


def test_rows_are_added_whole(tmp_path):
    path = tmp_path / "new" / "a.csv"
    append_rows([{"a": 1, "b": "x, y"}], path)
    append_rows([{"a": 2, "b": None, "c": 3}, {"a": 4}], path)
    assert path.read_text().splitlines() == ["a,b,c", '1,"x, y",', "2,,3", "4,,"]
    before = path.read_bytes()
    with disk_of(10), pytest.raises(KitError):
        append_rows([{"a": 5}] * 100, path)
    assert path.read_bytes() == before
