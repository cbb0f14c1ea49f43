"""Settings that all tests share."""

import os

# Two test processes on two cores: more threads would only wait for each other. Set before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import pytest
import torch

if not torch.cuda.is_available():
    # Triton looks once, when it is first imported, and not only the tests of the kernels import it.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory):
    """The embedded corpus at test size, shared by all test processes; whoever comes first makes it."""
    from small import SmallCorpus

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    return SmallCorpus(shared / "cache")
