"""What `kernels.compile_ahead` compiles: scores over up to 1,024 frames a block, in single precision."""

from __future__ import annotations

import triton.language as tl

from kernels.compile_ahead import Kernel
from kernels.ctc_prefix import triton_kernels as code

_STATES = dict.fromkeys(("x", "r_n", "r_b"), "*fp32") | dict.fromkeys(("lengths", "last"), "*i32")

KERNELS = [
    Kernel(code.psi_kernel, _STATES | {"out": "*fp32"}, {"blank": 0, "BT": 32, "BV": 64, "KIND": tl.float32}),
    Kernel(
        code.extend_kernel,
        _STATES | dict.fromkeys(("parents", "tokens"), "*i32") | dict.fromkeys(("out_n", "out_b"), "*fp32"),
        {"blank": 0, "BT": 1024, "KIND": tl.float32},
    ),
    Kernel(
        code.forward_chunk_kernel,
        dict.fromkeys(("x", "alphas", "out_n", "out_b"), "*fp32")
        | dict.fromkeys(("fresh", "strings", "sizes"), "*i32"),
        {"blank": 0, "FREE": 1, "BS": 128},
        warps=1,
    ),
    Kernel(
        code.spot_kernel,
        dict.fromkeys(("x", "out_score"), "*fp32")
        | dict.fromkeys(("first", "count", "strings", "sizes", "out_end"), "*i32"),
        {"blank": 0, "BS": 64, "KIND": tl.float32},
        warps=1,
    ),
]
