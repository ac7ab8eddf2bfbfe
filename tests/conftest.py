"""Checks that this run of the tests has the backend that it is for.

STE_TEST_EXPECT, which the Makefile sets, says what the environment should be: `native`, `absent` (ste-core is not
installed) or `mismatched` (ste-core was built for another torch). If it is not, the run fails at once, so that no
fallback passes for the native backend unnoticed.
"""

import os
import warnings
import zlib

import pytest
import torch

with warnings.catch_warnings(record=True) as import_warnings:
    warnings.simplefilter("always")
    import ste

# torch caches compiled code on disk, and looks up a graph by the op's name, not by what the op does: yesterday's code
# would pass for today's. So the cache of graphs is off. The cache of C++ below it is on: its key is the whole source.
os.environ |= {"TORCHINDUCTOR_FX_GRAPH_CACHE": "0", "TORCHINDUCTOR_AUTOGRAD_CACHE": "0"}

# The first backward of a process starts autograd's threads, one for each device that exists then, and a process with
# such threads cannot fork and differentiate. Inductor pretends that there are eight GPUs; before that, there are none.
torch.ones(1, requires_grad=True).sum().backward()

pytest_plugins = ["cells"]

EXPECTED = os.environ.get("STE_TEST_EXPECT", "")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share",
        action="store_true",
        help="of four runs, with each backend and each of two successive versions of torch, run this one's share",
    )


def is_in_share(item: pytest.Item) -> bool:
    # One of the four runs has the test. A test that one backend may skip, or that only `make test` has, is in two, one
    # with each backend.
    shares = 2 if any(item.get_closest_marker(name) for name in ("skipif", "repository")) else 4
    minor = int(torch.__version__.split(".")[1])
    this = 2 * (ste.backend().name == "native") + minor % 2
    return zlib.crc32(item.nodeid.encode()) % shares == this % shares


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("share"):
        parts: dict[bool, list[pytest.Item]] = {True: [], False: []}
        for item in items:
            parts[is_in_share(item)].append(item)
        items[:] = parts[True]
        config.hook.pytest_deselected(items=parts[False])


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
    """Every test compiles anew: what one has compiled must not hide what another would find."""
    try:
        torch._dynamo.reset()
    except RuntimeError:  # "dictionary changed size during iteration": the collector removed a compiler
        torch._dynamo.reset()
