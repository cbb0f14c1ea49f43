"""Files that appear whole or not at all: write beside the target, flush to disk, then rename over it."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from kit.errors import KitError

_T = TypeVar("_T")

# What a full, read-only or failing disk answers; any other OSError inside a block is somebody else's business.
_WRITE_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EISDIR,
    errno.ENOTDIR,
}
_MENDS = {
    errno.EROFS: "choose a folder you may write to",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EEXIST: "a file stands where a folder is wanted",
    errno.EISDIR: "a folder stands there already",
}


def _explain(path: Path, number: int | None) -> KitError:
    reason = os.strerror(number) if number else "unknown error"
    return KitError(f"cannot write {path}: {reason}; {_MENDS.get(number or 0, 'free some space and try again')}")


def _write_errno(error: BaseException | None) -> int | None:
    """The error number when `error`, or one it came from, tells of a disk that takes no more; else None.

    torch.save answers a full disk with an unrelated RuntimeError that has the OSError behind it; libraries written
    in Rust (safetensors) put the number into their message: "... (os error 28)".
    """
    while error is not None:
        if isinstance(error, OSError):
            number = error.errno
        else:
            found = re.search(r"\(os error (\d+)\)", str(error))
            number = int(found.group(1)) if found else None
        if number in _WRITE_ERRORS:
            return number
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the errors of a disk that takes no more into a KitError about `path`; all others pass."""
    try:
        yield
    except KitError:
        raise
    except Exception as error:
        number = _write_errno(error)
        if number is None:
            raise
        raise _explain(path, number) from error


def _make_part(path: Path, make: Callable[..., _T]) -> _T:
    """A temporary file or folder beside `path`: the same disk, so that a rename is all that is left to do."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return make(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _explain(path, error.errno) from error


def write_atomic(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write` with an open binary file that replaces `path` only when everything reached the disk.

    Raises:
        KitError: the disk is full or the folder cannot be written; what stood at `path` before is untouched.
    """
    path = Path(path)
    handle, name = _make_part(path, tempfile.mkstemp)
    try:
        with _explained(path):
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)  # mkstemp makes private files; results are meant to be read
            os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write_atomic(path, lambda file: file.write(text.encode("utf-8")))


def append(file: BinaryIO, path: str | Path, content: bytes) -> None:
    """Add to the file that is open, without a buffer, at `path`; returns when the disk has it.

    Raises:
        KitError: the disk is full or fails; a part of `content` may have reached it.
    """
    with _explained(Path(path)):
        while content:
            content = content[file.write(content) :]
        os.fsync(file.fileno())


def append_rows(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Add rows to a CSV whose columns are the keys of the first; it appears whole or stays as it was."""
    path = Path(path)
    earlier = list(csv.DictReader(io.StringIO(path.read_text("utf-8")))) if path.exists() else []
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), extrasaction="ignore")
    writer.writeheader()
    writer.writerows([*earlier, *rows])
    write_text(path, content.getvalue())


@contextmanager
def folder_atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` when the block ends well and vanishes when it does not.

    Raises:
        KitError: the folder cannot be written, the disk is full, or `path` exists already. Other errors of the
            block pass through unchanged.
    """
    path = Path(path)
    if path.exists():
        raise KitError(f"{path} exists already; remove it or choose another place")
    temporary = Path(_make_part(path, tempfile.mkdtemp))
    try:
        with _explained(path):
            yield temporary
            os.chmod(temporary, 0o755)  # mkdtemp makes private folders
            os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of `path`, which may be a folder, a file or nothing; both on the same disk.

    Raises:
        KitError: the disk does not let it.
    """
    old = path.with_name(f".{path.name}.old.part")
    with _explained(path):
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """The same bytes under another name, for files that never change in place; a copy where the disk has no links."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        shutil.copy(source, target)


def linked_tree(source: Path, target: Path) -> None:
    """A folder of links to all files in `source`."""
    for file in sorted(source.rglob("*")):
        if file.is_file():
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            link(file, place)


def folder_once(path: str | Path, fill: Callable[[Path], object]) -> None:
    """Make the folder `path` by a call of `fill` with a temporary one, unless it is there or another process is faster.

    Raises:
        KitError: as in `folder_atomic`.
    """
    path = Path(path)
    if path.exists():
        return
    try:
        with folder_atomic(path) as temporary:
            fill(temporary)
    except (KitError, OSError):
        if not path.exists():
            raise


@contextmanager
def held(path: str | Path, wait: bool = False) -> Iterator[bool]:
    """Hold a file or folder against others who do the same; gives whether that worked.

    The kernel lets go when the holder dies, however it dies.

    Args:
        wait: until others let go.

    Raises:
        OSError: there is no such file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)


def _flock(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how)
    except OSError as error:
        # Any other answer is that of a network disk without locks: work there must still be possible.
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def check_writable(folder: str | Path) -> None:
    """Make `folder` and a trial file in it, so that a long job fails at its start and not at its end.

    Raises:
        KitError: nothing can be written there.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"trial")
    except OSError as error:
        raise _explain(folder, error.errno) from error


def remove_leftovers(folder: str | Path) -> None:
    """Remove what a killed process left half-written in `folder`; only its owner may call this."""
    for leftover in Path(folder).glob(".*.part"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
