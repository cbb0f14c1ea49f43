"""`python -m kit.peers.pocketsphinx`: CMU PocketSphinx with the English model inside its package (BSD-2-Clause).

Its language model knows spoken English in lower case, without names or punctuation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from kit.audio.reading import read_audio
from kit.errors import KitError
from kit.peers.listing import answer_all


def recognizer() -> Callable[[Path], str]:
    """What transcribes a file.

    Raises:
        KitError: the package is not there.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise KitError("this peer needs the package pocketsphinx; install nim4-kit[pocketsphinx]") from error
    decoder = Decoder(loglevel="FATAL")

    def transcribe(path: Path) -> str:
        samples = (read_audio(path).clamp(-1, 1) * 32767).short().numpy()
        decoder.start_utt()
        decoder.process_raw(samples.tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return found.hypstr if found else ""

    return transcribe


if __name__ == "__main__":
    sys.exit(answer_all(recognizer))
