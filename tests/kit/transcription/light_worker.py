"""A worker without a model, which starts in a third of the time."""

import os
import signal
from pathlib import Path

from kit.transcription.cluster import Worker
from kit.transcription.outcome import Outcome


class Light(Worker):
    """Tells what it was sent, and is killed by the id "poison", and once by a path that ends with "once"."""

    def outcomes(self, clips):
        for clip in clips:
            sign = Path(clip["path"])
            if clip["id"] == "poison" or (sign.name == "once" and not sign.exists()):
                sign.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            text = f"{clip['path']} {clip['start']} {clip['seconds']} {clip['member']}"
            yield Outcome(clip["id"], {"id": clip["id"], "text": text, "language": clip["language"], "duration": 1.0})
