"""`python -m kit.peers.faster_whisper MODEL_FOLDER [language=zh] [beam=5]`: Whisper by CTranslate2 (MIT).

The folder is a converted model, such as Systran/faster-whisper-small of the Hugging Face hub; nothing is downloaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from kit.audio.reading import read_audio
from kit.errors import KitError, UsageError
from kit.options import choose, whole_number
from kit.peers.listing import answer_all

MODEL = "model.bin"  # that every converted model has


def recognizer(arguments: Sequence[str]) -> Callable[[Path], str]:
    """What transcribes a file, by a model folder and options.

    Raises:
        KitError: the package is not there, or the folder holds no model.
        UsageError: no folder, or an unknown option.
    """
    if not arguments or "=" in arguments[0]:
        raise UsageError("give the folder of a converted model: python -m kit.peers.faster_whisper FOLDER")
    folder, chosen = Path(arguments[0]), choose("faster_whisper", {"language": "", "beam": "5"}, arguments[1:])
    beam = whole_number("beam", chosen["beam"])
    if not (folder / MODEL).is_file():
        raise UsageError(f"{folder} is no converted model, it has no {MODEL}; give a folder of faster-whisper's")
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise KitError("this peer needs the package faster-whisper; install nim4-kit[faster-whisper]") from error
    model = WhisperModel(str(folder), local_files_only=True)

    def transcribe(path: Path) -> str:
        parts, _ = model.transcribe(read_audio(path).numpy(), language=chosen["language"] or None, beam_size=beam)
        return " ".join(part.text for part in parts)

    return transcribe


if __name__ == "__main__":
    sys.exit(answer_all(lambda: recognizer(sys.argv[1:])))
