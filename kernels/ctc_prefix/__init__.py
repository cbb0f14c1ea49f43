"""CTC prefix scores: of all next symbols, of the survivors, and of whole strings chunk by chunk."""

from kernels.ctc_prefix.op import extend, forward_chunk, psi
from kernels.ctc_prefix.reference import begin_strings, start, total

__all__ = ["begin_strings", "extend", "forward_chunk", "psi", "start", "total"]
