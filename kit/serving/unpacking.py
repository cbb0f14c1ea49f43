"""Uploaded recordings as samples, decoded in a process that can do no harm: bounded in memory, time and files.

The processes are forked from one that has loaded what decoding needs, so that an upload costs milliseconds of them.
"""

from __future__ import annotations

import io
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection

from kit.audio.reading import AudioError, read_pieces

RATE = 16000
_MEMORY = 1 << 30  # bytes of address space beyond what the process begins with
_COMPUTING = 60  # seconds of the processor
_SECONDS = 120.0  # of the clock
_NAME = "the upload"  # in messages: what the client calls it is of no interest
_SAMPLES, _FAULT, _DONE = b"s", b"f", b"d"


def unpack(content: bytes, max_seconds: float) -> bytes:
    """16-bit samples at 16 kHz, one channel, of a recording in any format that `kit.audio.reading` knows. Blocks.

    Raises:
        AudioError: it cannot be decoded, is too long, or needs more than decoding may take.
    """
    mine, its = _context.Pipe()
    process = _context.Process(target=_work, args=(its, max_seconds), daemon=True)
    process.start()
    its.close()
    deadline = time.monotonic() + _SECONDS
    found = bytearray()
    try:
        mine.send_bytes(content)
        while mine.poll(max(0.0, deadline - time.monotonic())):
            kind, payload = _parted(mine.recv_bytes())
            if kind == _FAULT:
                raise AudioError(payload.decode())
            if kind == _DONE:
                return bytes(found)
            found += payload
        raise AudioError(f"{_NAME} took too long to decode; send a shorter one")
    except (EOFError, OSError):
        raise AudioError(f"{_NAME} needs more memory or time to decode than it may; send a smaller one") from None
    finally:
        mine.close()
        process.kill()
        process.join()


def warm_up() -> None:
    """Start the process that the others are forked from, so that the first upload need not wait for it."""
    process = _context.Process(target=_nothing)
    process.start()
    process.join()


def _parted(message: bytes) -> tuple[bytes, bytes]:
    return message[:1], message[1:]


def _nothing() -> None:
    pass


def _work(connection: Connection, max_seconds: float) -> None:
    _bind_itself()
    try:
        content = connection.recv_bytes()
        for piece in read_pieces(_NAME, RATE, max_seconds, file=io.BytesIO(content)):
            samples = (piece.clip(-1.0, 1.0) * 32767).astype("<i2")
            connection.send_bytes(_SAMPLES + samples.tobytes())
        connection.send_bytes(_DONE)
    except AudioError as error:
        connection.send_bytes(_FAULT + str(error).encode())
    except MemoryError:
        connection.send_bytes(_FAULT + f"{_NAME} needs more memory to decode than it may; send a smaller one".encode())


def _bind_itself() -> None:
    """Take from this process what decoding does not need."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_AS, size + _MEMORY),
        (resource.RLIMIT_CPU, _COMPUTING),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(what, (most, most))


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["kit.serving.unpacking_preload"])
