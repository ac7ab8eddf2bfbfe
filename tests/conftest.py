"""Which backend this run of the tests is for.

STE_TEST_EXPECT says what the environment was set up as (the Makefile sets it): `native`, `absent` (ste-core is not
installed) or `mismatched` (ste-core was built for another torch). A run that does not find what it was told to find
fails at once, so that no fallback passes for the native backend unnoticed.
"""

import os
import warnings

import pytest
import torch

with warnings.catch_warnings(record=True) as import_warnings:
    warnings.simplefilter("always")
    import ste

# torch keeps what it has compiled on disk, and looks up a graph by the op's name, not by what the op does: yesterday's
# code would pass for today's. So graphs are not looked up. Below them, C++ is, by all of its text.
os.environ |= {"TORCHINDUCTOR_FX_GRAPH_CACHE": "0", "TORCHINDUCTOR_AUTOGRAD_CACHE": "0"}

# The first backward of a process starts autograd's threads, one for each device there is then, and a process with such
# threads cannot fork and differentiate. Inductor pretends to eight GPUs; before it, there are none.
torch.ones(1, requires_grad=True).sum().backward()

pytest_plugins = ["cells"]

EXPECTED = os.environ.get("STE_TEST_EXPECT", "")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_configure(config: pytest.Config) -> None:
    found = ste.backend()
    native_expected = EXPECTED == "native"
    if EXPECTED and native_expected != (found.name == "native"):
        raise pytest.UsageError(f"STE_TEST_EXPECT={EXPECTED}, but the backend is {found}")
    told = [
        w
        for w in import_warnings
        if w.category is RuntimeWarning and "ste runs on its Python backend" in str(w.message)
    ]
    if EXPECTED and len(told) != (EXPECTED == "mismatched"):
        raise pytest.UsageError(f"STE_TEST_EXPECT={EXPECTED}, but importing ste gave {len(told)} warnings")


def pytest_report_header(config: pytest.Config) -> str:
    return f"ste backend: {ste.backend()}"


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """Every test compiles for itself: nothing that one compiled may hide what another would find."""
    try:
        torch._dynamo.reset()
    except RuntimeError:  # "dictionary changed size during iteration": the collector took a compiler out meanwhile
        torch._dynamo.reset()
