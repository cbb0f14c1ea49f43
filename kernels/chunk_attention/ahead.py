"""What `kernels.compile_ahead` compiles: the 2.3 B encoder's attention (20 heads of 64) in bfloat16."""

from __future__ import annotations

from kernels.chunk_attention import triton_kernels as code
from kernels.compile_ahead import Kernel

_INPUTS = dict.fromkeys(("grad", "q", "k", "v", "table", "u", "w"), "*bf16") | {"lengths": "*i32"}
_SAVED = dict.fromkeys(("lse", "delta"), "*fp32")
_HEAD = {"H": 20, "D": 64, "BD": 64}


def _kernel(function: object, tiles: str, **outputs: str) -> Kernel:
    block, window, warps, stages = code.TILES[tiles]
    pointers = _INPUTS | _SAVED | outputs
    return Kernel(function, pointers, _HEAD | {"BM": block, "BN": window}, ("scale",), warps, stages)


KERNELS = [
    _kernel(code.forward_kernel, "forward", out="*bf16"),
    _kernel(code.query_gradient_kernel, "query", dq="*bf16", du="*fp32", dw="*fp32"),
    _kernel(code.key_gradient_kernel, "key", dk="*bf16", dv="*bf16"),
    _kernel(code.table_gradient_kernel, "table", dtable="*fp32"),
    Kernel(
        code.stream_kernel,
        _INPUTS
        | dict.fromkeys(("slots", "start", "fresh"), "*i32")
        | dict.fromkeys(("ring_keys", "ring_values", "out"), "*bf16"),
        _HEAD | {"BM": 16, "BN": 64, "BP": 128},
        ("scale",),
    ),
]
