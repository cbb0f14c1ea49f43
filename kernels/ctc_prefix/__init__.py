"""CTC prefix scores: of all next symbols, of survivors, of whole strings chunk by chunk, of strings said anywhere."""

from kernels.ctc_prefix.op import extend, forward_chunk, psi, spot
from kernels.ctc_prefix.reference import begin_strings, start, total

__all__ = ["begin_strings", "extend", "forward_chunk", "psi", "spot", "start", "total"]
