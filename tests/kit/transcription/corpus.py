"""A small export and a manifest of noises with faults in it, for all ways of transcribing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import soundfile
from small import SIZES
from streams import noise, recognizer

from kit.model.export import save_export

BAD = {
    "gone": "does not exist",
    "empty": "is empty",
    "tiny": "is shorter than one window",
    "line 5": "mend or remove it",
}


class Corpus:
    """`count` utterances of 0.4 to 1.2 s in a folder, named u0000 and so on, and those of BAD among them."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.names = folder, [f"u{number:04d}" for number in range(count)]
        self.export, self.manifest = folder / "export", folder / "all.jsonl"
        save_export(recognizer(), self.export, {})
        rows: list[Any] = [self._row(name, seed) for seed, name in enumerate(self.names)]
        (folder / "empty.wav").write_bytes(b"")
        soundfile.write(folder / "tiny.wav", noise(0.01).numpy(), 16000)
        rows[2:2] = [{"audio": f"{name}.wav"} for name in ("gone", "empty")]
        rows[4:4] = ["{torn", {"audio": "tiny.wav"}]
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        self.manifest.write_text("".join(f"{line}\n" for line in lines))

    def _row(self, name: str, seed: int) -> dict[str, Any]:
        soundfile.write(self.folder / f"{name}.wav", noise(0.4 + seed * 7 % 9 / 10, seed).numpy(), 16000)
        return {"id": name, "audio": f"{name}.wav", "language": "zh"} if seed % 2 else {"audio": f"{name}.wav"}

    def arguments(self, out: Path, *overrides: str) -> list[str]:
        """What to give `python -m kit`."""
        plain = ["decoding.max_tokens=6", "decoding.beam=1", "decoding.callbacks.veto=null", "batch.seconds=2"]
        files = [f"manifest={self.manifest}", f"out={out}", f"cache={self.folder / 'cache'}"]
        return ["transcribe", *files, f"checkpoint={self.export}", *SIZES, *plain, *overrides]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of results or problems."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
