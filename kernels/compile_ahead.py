"""Compile every Triton kernel for a GPU that need not be there: `python -m kernels.compile_ahead`.

Prints JSON: for each kernel registers a thread, bytes spilled to local memory, shared memory a block.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SM_90 = GPUTarget("cuda", 90, 32)


@dataclass(frozen=True)
class Kernel:
    """One kernel at the sizes it is used with.

    Attributes:
        function: the `@triton.jit` function.
        pointers: argument -> element type, as "*bf16".
        constants: its constexpr arguments.
        floats: arguments that are fp32 numbers; all others are 32-bit integers.
        warps, stages: as it is launched.
    """

    function: Any
    pointers: dict[str, str]
    constants: dict[str, Any]
    floats: tuple[str, ...] = ()
    warps: int = 4
    stages: int = 1


def compile_kernel(kernel: Kernel, target: GPUTarget = SM_90) -> dict[str, Any]:
    """Compile one; returns its name and what it takes of the machine."""
    names = kernel.function.arg_names
    kinds = {name: _kind(name, kernel) for name in names}
    # As a launch finds them: pointers and strides are multiples of 16.
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name in kernel.pointers or name.endswith(("_batch", "_time", "_head", "_row"))
    }
    constants = {(names.index(name),): value for name, value in kernel.constants.items()}
    source = ASTSource(fn=kernel.function, signature=kinds, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=target, options={"num_warps": kernel.warps, "num_stages": kernel.stages})
    return {
        "kernel": kernel.function.__name__,
        **{name: value for name, value in kernel.constants.items() if isinstance(value, int)},
        "warps": kernel.warps,
        "shared": compiled.metadata.shared,
        **_usage(compiled.asm["cubin"]),
    }


def _kind(name: str, kernel: Kernel) -> str:
    if name in kernel.constants:
        return "constexpr"
    return kernel.pointers.get(name) or ("fp32" if name in kernel.floats else "i32")


def _usage(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        listed = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", listed)
    assert found, listed
    return {"registers": int(found[1]), "spilled": int(found[2]) + int(found[3])}


def main() -> None:
    """Compile all kernels of the project."""
    from kernels.chunk_attention import ahead as attention
    from kernels.ctc_prefix import ahead as prefix

    print(json.dumps([compile_kernel(kernel) for kernel in (*attention.KERNELS, *prefix.KERNELS)], indent=1))


if __name__ == "__main__":
    main()
