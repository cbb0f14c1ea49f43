"""What clients send as audio, as samples at 16 kHz: decoded a piece at a time, so that no message costs much at once.

`pcm16`: 16-bit little-endian samples, one channel, at any rate. `opus`: an Opus packet a message. `ogg`: an Ogg Opus
stream, cut anywhere. Opus is decoded by libopus, which nim4-kit[opus] brings.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import numpy as np

from kit.audio.reading import AudioError
from kit.audio.resampling import Resampler
from kit.errors import KitError

RATE = 16000
FORMATS = ("pcm16", "opus", "ogg")
_LONGEST_PACKET = 120 * RATE // 1000  # samples in an Opus packet, at most
_PAGE_HEADER = 27
_LARGEST_HEADER = 1 << 20  # bytes; comments may bring a picture
_LARGEST_PACKET = 61_440  # bytes in an Opus packet of 120 ms, at most (RFC 7845)


class Intake(Protocol):
    """Bytes in, samples out."""

    def put(self, message: bytes) -> None:
        """What a client sent, whole messages in their order.

        Raises:
            AudioError: it is none of this format.
        """

    def take(self, most: int) -> np.ndarray:
        """(n,) float32 samples in [-1, 1] of what was put; about `most` of them, none when all was taken.

        Raises:
            AudioError: it cannot be decoded.
        """

    def finish(self) -> np.ndarray:
        """What was held back: nothing more will be put."""


def intake(kind: str, rate: int) -> Intake:
    """For a format and, of pcm16, a sample rate in Hz.

    Raises:
        KitError: the format needs a package that is not installed.
    """
    if kind == "pcm16":
        return Pcm(rate)
    return Packets() if kind == "opus" else Pages()


class Pcm:
    """16-bit samples at `rate` Hz."""

    def __init__(self, rate: int) -> None:
        self._rate, self._resampler = rate, Resampler(rate, RATE)
        self._bytes = bytearray()

    def put(self, message: bytes) -> None:
        """More bytes; a sample may be cut."""
        self._bytes += message

    def take(self, most: int) -> np.ndarray:
        """The next samples."""
        piece = max(1, most * self._rate // RATE)
        while size := min(len(self._bytes) // 2, piece):
            samples = np.frombuffer(bytes(self._bytes[: 2 * size]), "<i2").astype(np.float32) / 32768
            del self._bytes[: 2 * size]
            found = self._resampler.push(samples)
            if len(found):  # at first it only gathers
                return found
        return _NOTHING

    def finish(self) -> np.ndarray:
        """The end of the resampled signal."""
        return self._resampler.finish()


class Packets:
    """Opus packets, one a message.

    Raises:
        KitError: there is no libopus.
    """

    def __init__(self) -> None:
        self._opus = _opus()
        self._decoder = self._opus.Decoder(RATE, 1)
        self._packets: deque[bytes] = deque()

    def put(self, message: bytes) -> None:
        """A packet."""
        if not 0 < len(message) <= _LARGEST_PACKET:
            raise AudioError(f"a message of {len(message)} bytes is no Opus packet; send one packet a message")
        self._packets.append(message)

    def take(self, most: int) -> np.ndarray:
        """The next packets' samples."""
        found, size = [], 0
        while self._packets and size < most:
            found.append(self._decode(self._packets.popleft()))
            size += len(found[-1])
        return np.concatenate(found) if found else _NOTHING

    def finish(self) -> np.ndarray:
        """Nothing is held back."""
        return _NOTHING

    def _decode(self, packet: bytes) -> np.ndarray:
        try:
            decoded = self._decoder.decode(packet, _LONGEST_PACKET)
        except self._opus.OpusError as error:
            raise AudioError(f"a packet of {len(packet)} bytes cannot be decoded as Opus ({error})") from error
        return np.frombuffer(bytes(decoded), "<i2").astype(np.float32) / 32768


class Pages:
    """An Ogg stream with one Opus stream in it (RFC 7845): its packets are put together and passed on.

    Checksums are not looked at: the transport has its own.
    """

    def __init__(self) -> None:
        self._packets = Packets()
        self._bytes = bytearray()
        self._part = bytearray()  # of a packet that the next page goes on with
        self._headers = 0  # packets of the stream's head that came
        self._serial: bytes | None = None
        self._skip = 0  # samples to leave out at the beginning

    def put(self, message: bytes) -> None:
        """More bytes."""
        self._bytes += message

    def take(self, most: int) -> np.ndarray:
        """The next packets' samples."""
        while True:
            samples = self._packets.take(most)
            if not len(samples):
                if not self._page():
                    return samples
                continue
            skipped, self._skip = min(self._skip, len(samples)), max(0, self._skip - len(samples))
            if skipped < len(samples):
                return samples[skipped:]

    def finish(self) -> np.ndarray:
        """A page that is not whole is left out."""
        return _NOTHING

    def _page(self) -> bool:
        """Take a page apart if there is a whole one."""
        head = bytes(self._bytes[:_PAGE_HEADER])
        if head[:4] != b"OggS"[: len(head)] or (len(head) > 4 and head[4] != 0):
            raise AudioError("the audio is no Ogg stream; send Ogg Opus from its first byte on, or format=opus")
        if len(head) < _PAGE_HEADER or len(self._bytes) < _PAGE_HEADER + head[26]:
            return False
        sizes = self._bytes[_PAGE_HEADER : _PAGE_HEADER + head[26]]
        at = _PAGE_HEADER + head[26]
        if len(self._bytes) < at + sum(sizes):
            return False
        if self._serial is None:
            self._serial = head[14:18]
        if head[14:18] == self._serial:
            for size in sizes:
                self._part += self._bytes[at : at + size]
                at += size
                if size < 255:
                    self._packet(bytes(self._part))
                    self._part.clear()
                elif len(self._part) > (_LARGEST_PACKET if self._headers > 1 else _LARGEST_HEADER):
                    raise AudioError("the Ogg stream has a packet that is larger than any of Opus")
        del self._bytes[: _PAGE_HEADER + head[26] + sum(sizes)]
        return True

    def _packet(self, packet: bytes) -> None:
        self._headers += 1
        if self._headers == 1:
            if packet[:8] != b"OpusHead" or len(packet) < 19:
                raise AudioError("the Ogg stream does not begin with an Opus header; others go as uploads only")
            self._skip = int.from_bytes(packet[10:12], "little") * RATE // 48000
        elif self._headers > 2 and packet:
            self._packets.put(packet)


_NOTHING = np.zeros(0, dtype=np.float32)


def has_opus() -> bool:
    """Whether Opus can be decoded here."""
    try:
        _opus()
    except KitError:
        return False
    return True


def _opus() -> Any:
    try:
        import opuslib_next
    except Exception as error:  # the package may be there and the library not
        raise KitError("Opus needs libopus; install nim4-kit[opus] on the server, or send pcm16") from error
    return opuslib_next
