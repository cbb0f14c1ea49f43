"""The corpora by name: those that the paper evaluates on in public, in its order."""

from __future__ import annotations

from datamodules.corpora.base import Corpus
from datamodules.corpora.dialects import CHUAN, KESPEECH, YUE
from datamodules.corpora.english import LIBRISPEECH, MLS, VOXPOPULI
from datamodules.corpora.mandarin import AISHELL, AISHELL2, AISHELL2021, SPEECHIO, WENETSPEECH
from datamodules.corpora.switched import ASCEND, CS_DIALOGUE, M4SINGER
from kit.errors import UsageError, nearest

_ALL = [LIBRISPEECH, VOXPOPULI, MLS, AISHELL, AISHELL2, AISHELL2021, WENETSPEECH, SPEECHIO]
_ALL += [CHUAN, YUE, KESPEECH, CS_DIALOGUE, ASCEND, M4SINGER]
CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in _ALL}


def find(name: str) -> Corpus:
    """The corpus of a name.

    Raises:
        UsageError: there is none.
    """
    if name in CORPORA:
        return CORPORA[name]
    guess = nearest(name, CORPORA)
    hint = f"did you mean {guess}?" if guess else f"known: {', '.join(CORPORA)}"
    raise UsageError(f"unknown corpus {name or '(none)'}; {hint}")
