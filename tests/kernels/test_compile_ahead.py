"""Every Triton kernel compiles for sm_90 without a GPU, does not spill, and fits the shared memory of an SM."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SHARED_MEMORY = 227 * 1024  # bytes a block may use on sm_90


@pytest.fixture(scope="module")
def compiled():
    """In a process of its own: here the interpreter may stand in for the compiler."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "kernels.compile_ahead"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_all_kernels_are_there(compiled):
    attention = {f"{name}_kernel" for name in ("forward", "query_gradient", "key_gradient", "table_gradient", "stream")}
    prefix = {f"{name}_kernel" for name in ("psi", "extend", "forward_chunk", "spot")}
    assert {row["kernel"] for row in compiled} == attention | prefix


def test_nothing_spills_and_all_fits(compiled):
    for row in compiled:
        assert row["spilled"] == 0, row
        assert row["shared"] <= SHARED_MEMORY, row
