"""What every process of `kit.serving.unpacking` needs, imported once by the one that they are forked from."""

import scipy.signal
import soundfile

import kit.serving.unpacking

__all__ = ["kit", "scipy", "soundfile"]
