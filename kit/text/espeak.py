"""eSpeak NG in a program of its own: speech with phoneme times, and pronunciations in IPA.

eSpeak NG is GPL-3, so the kit never loads it into its own process: `python -m kit.text.espeak` is a small worker that
does, and `Espeak` talks to it over pipes, one line of JSON a request and one a reply:

    {"say": text, "voice": "cmn+f2", "rate": 220, "pitch": 50, "range": 50}
        -> {"rate": 22050, "samples": N, "events": [[s, name], ...], "words": [[i, at, n], ...]}
           and after the line N samples as they are, int16 little endian
    {"ipa": [word, ...], "voice": "en-us"}  ->  {"ipa": [string, ...]}
    anything that fails                     ->  {"error": sentence}

The synthesizer keeps state from one utterance to the next (phases, flutter), so the same text sounds a little different
each time; the same calls in the same order to a fresh worker give bit-identical samples.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from kit.errors import KitError, nearest

if TYPE_CHECKING:
    import numpy as np  # the worker does without: it starts once a shard and should start fast

PACKAGE = "espeakng_loader"

# espeak-ng/speak_lib.h
_BUFFER_MS = 1000  # of audio handed over at a time
_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT; mode 1 sleeps in real time
_PHONEME_EVENTS = 1  # espeakINITIALIZE_PHONEME_EVENTS
_EVENT_END, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_BY_CHARACTER, _UTF8, _IPA = 1, 1, 2
_SEED = 1


@dataclass(frozen=True)
class Speech:
    """One spoken text.

    Attributes:
        samples: (N,) int16.
        rate: samples a second.
        events: (seconds, phoneme mnemonic) in order of time; names that begin with "_" are pauses and boundaries,
            "(en)" and the like mark a change of language.
        words: (index in events, character offset, characters) of each word that the synthesizer saw in the text; the
            word's phonemes begin at that index. In Mandarin each character is a word. It joins some short English
            words to one ("on the").
    """

    samples: np.ndarray
    rate: int
    events: list[tuple[float, str]]
    words: list[tuple[int, int, int]] = field(default_factory=list)


class Espeak:
    """A context manager around one worker process; not to be shared by threads.

    Raises:
        KitError: the package is not installed, or the worker cannot be started.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec(PACKAGE) is None:
            raise KitError(f"the package {PACKAGE} (eSpeak NG) is not installed; run: pip install espeakng-loader")
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kit.text.espeak"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # an interrupt is for the kit, which then ends the worker
            )
        except OSError as error:
            raise KitError(f"cannot start the speech program: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker; calling it twice does no harm."""
        if self._process.poll() is None:
            self._process.kill()  # it keeps nothing that could be lost
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):  # a request that never left; the worker is gone anyway
                    pipe.close()

    def say(self, text: str, voice: str, rate: int = 175, pitch: int = 50, range: int = 50) -> Speech:
        """Speak `text`.

        Args:
            text: what to say; Latin words in Mandarin are spoken as English when spaces surround them.
            voice: language and variant, "cmn+f2", "en-us+m3", or a language alone.
            rate: words a minute, 80 to 450.
            pitch, range: 0 to 100, 50 is the voice's own.

        Raises:
            KitError: the voice is unknown, or the worker ended unexpectedly.
        """
        import numpy as np

        reply = self._ask({"say": text, "voice": voice, "rate": rate, "pitch": pitch, "range": range})
        samples = np.frombuffer(self._read(2 * reply["samples"]), dtype="<i2").astype(np.int16)
        events = [(seconds, name) for seconds, name in reply["events"]]
        words = [(index, at, length) for index, at, length in reply["words"]]
        return Speech(samples, reply["rate"], events, words)

    def ipa(self, words: Sequence[str], voice: str = "en-us") -> list[str]:
        """The pronunciation of each word in IPA, stress marks included.

        Raises:
            KitError: the voice is unknown, or the worker ended unexpectedly.
        """
        return list(self._ask({"ipa": list(words), "voice": voice})["ipa"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (OSError, ValueError) as error:  # ValueError: the pipe was closed before
            raise KitError("the speech program (eSpeak NG) is not running any more; start it again") from error
        if not line.endswith(b"\n"):
            raise self._ended()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise KitError(reply["error"])
        return reply

    def _read(self, count: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(count)
        if len(data) < count:
            raise self._ended()
        return data

    def _ended(self) -> KitError:
        code = self._process.wait()
        return KitError(f"the speech program (eSpeak NG) ended unexpectedly with status {code}; start it again")


class _Name(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):  # espeak_EVENT
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))


class _Library:
    """The shared library, inside the worker process only."""

    def __init__(self) -> None:
        import espeakng_loader

        library = ctypes.CDLL(espeakng_loader.get_library_path())
        library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        library.espeak_Synth.argtypes = [
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int),
            *(ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
        ]
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
        library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._data = Path(espeakng_loader.get_data_path())
        self._rate = library.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, str(self._data).encode(), _PHONEME_EVENTS)
        if self._rate <= 0:
            raise KitError(f"eSpeak NG cannot read its voices in {self._data}; install espeakng-loader again")
        library.espeak_ng_SetRandSeed(_SEED)
        self._library = library
        self._pieces: list[bytes] = []
        self._events: list[tuple[float, str]] = []
        self._words: list[tuple[int, int, int]] = []
        self._callback = _CALLBACK(self._collect)  # kept: the library holds only a bare pointer to it
        library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: int | None, count: int, events: Any) -> int:
        if samples and count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events and events[index].type != _EVENT_END:
            event = events[index]
            if event.type == _EVENT_PHONEME:
                self._events.append((event.sample / self._rate, event.id.string.decode("utf-8", "replace")))
            elif event.type == _EVENT_WORD:
                self._words.append((len(self._events), event.text_position - 1, event.length))
            index += 1
        return 0

    def _variants(self) -> list[str]:
        return sorted(path.name for path in (self._data / "voices" / "!v").iterdir())

    def _select(self, voice: str) -> None:
        # The library takes an unknown variant for none at all without a word.
        language, plus, variant = voice.partition("+")
        if plus and variant not in self._variants():
            near = nearest(variant, self._variants())
            meant = f"did you mean {language}+{near}?" if near else "the variants are f1 to f5, m1 to m8 and others"
            raise KitError(f"eSpeak NG has no voice variant {variant!r} (in {voice!r}); {meant}")
        if not language or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise KitError(f"eSpeak NG has no voice {voice!r}; for example cmn, en-us or en-us+f2 exist")

    def say(self, text: str, voice: str, rate: int, pitch: int, range_: int) -> tuple[dict[str, Any], bytes]:
        self._select(voice)
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, range_)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._pieces, self._events, self._words = [], [], []
        data = text.encode() + b"\0"
        if self._library.espeak_Synth(data, len(data), 0, _BY_CHARACTER, 0, _UTF8, None, None) != 0:
            raise KitError(f"eSpeak NG could not speak {text[:40]!r} in the voice {voice}")
        self._library.espeak_Synchronize()
        samples = b"".join(self._pieces)
        reply = {"rate": self._rate, "samples": len(samples) // 2, "events": self._events, "words": self._words}
        return reply, samples

    def ipa(self, words: Sequence[str], voice: str) -> dict[str, Any]:
        self._select(voice)
        return {"ipa": [self._ipa_of(word) for word in words]}

    def _ipa_of(self, word: str) -> str:
        text = ctypes.create_string_buffer(word.encode())
        position = ctypes.c_void_p(ctypes.addressof(text))
        clauses = []
        while position.value:  # one clause a call; the library moves the pointer and clears it at the end
            clause = self._library.espeak_TextToPhonemes(ctypes.byref(position), _UTF8, _IPA)
            clauses.append((clause or b"").decode("utf-8", "replace"))
        return " ".join(clauses).strip()


def _answer(library: _Library, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    try:
        if "ipa" in request:
            return library.ipa(request["ipa"], request["voice"]), b""
        return library.say(request["say"], request["voice"], request["rate"], request["pitch"], request["range"])
    except KitError as error:
        return {"error": str(error)}, b""
    except (KeyError, TypeError) as error:
        return {"error": f"the speech program did not understand a request: {error!r}"}, b""


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer requests, one JSON object a line, until the input ends; the module's docstring has the protocol."""
    library = _Library()
    for line in requests:
        reply, samples = _answer(library, json.loads(line))
        replies.write(json.dumps(reply).encode() + b"\n" + samples)
        replies.flush()


if __name__ == "__main__":
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(1)  # nobody listens any more; an orderly end would complain of it
