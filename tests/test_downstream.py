"""Programs that others build on the installed packages: in C++ with CMake and with pip, and in Python."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import TESTS, cmake, output_of, run

import ste

DOWNSTREAM = TESTS / "downstream"
NATIVE = pytest.mark.skipif(ste.backend().name != "native", reason="needs ste-core")


def configured(source: Path, folder: Path, *prefixes: str) -> Path:
    output_of(cmake(), "-S", source, "-B", folder, f"-DCMAKE_PREFIX_PATH={';'.join(prefixes)}")
    return folder


@NATIVE
def test_program_in_cpp(tmp_path: Path) -> None:
    """The program trains, and runs a model that was scripted in Python."""
    import ste_core

    build = configured(
        DOWNSTREAM / "program", tmp_path / "build", ste_core.cmake_prefix_path, torch.utils.cmake_prefix_path
    )
    output_of(cmake(), "--build", build)

    class Rounded(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ste.round_ste(x)

    torch.jit.script(Rounded()).save(str(tmp_path / "rounded.pt"))
    output = output_of(build / "train_quantized", tmp_path / "rounded.pt")
    assert "loss: " in output and "scripted: " in output


@NATIVE
def test_find_package_says_what_is_missing(tmp_path: Path) -> None:
    import ste_core

    with pytest.raises(RuntimeError, match=r"torch is not found: add torch.utils.cmake_prefix_path"):
        configured(DOWNSTREAM / "program", tmp_path / "without", ste_core.cmake_prefix_path)
    other = tmp_path / "torch" / "share" / "cmake" / "Torch"
    other.mkdir(parents=True)
    (other / "TorchConfigVersion.cmake").write_text('set(PACKAGE_VERSION "2.3.1")\n')
    with pytest.raises(RuntimeError, match=r"torch 2\.3\.1 is found in"):
        configured(DOWNSTREAM / "program", tmp_path / "other", ste_core.cmake_prefix_path, str(other.parent))


@NATIVE
def test_package_with_an_op_of_its_own(tmp_path: Path) -> None:
    source = shutil.copytree(DOWNSTREAM / "extension", tmp_path / "extension")
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "--target"]
    output_of(*pip, installed, source)
    code = """
import torch
import stochastic_ops
x = torch.full((10_000,), 0.25, requires_grad=True)
y = stochastic_ops.stochastic_round(x)
(g,) = torch.autograd.grad(y.sum(), x)
print(sorted(set(y.tolist())), 0.2 < y.mean().item() < 0.3, bool((g == 1).all()))
"""
    assert run(code, first_on_path=installed) == "[0.0, 1.0] True True\n"


def test_library_in_python(tmp_path: Path) -> None:
    """The library passes type checks against the installed package, and runs."""
    source = shutil.copytree(DOWNSTREAM / "library", tmp_path / "library")
    installed = tmp_path / "installed"
    output_of(
        sys.executable, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "--target", installed, source
    )
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "src"], cwd=source, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    code = """
import torch
from ternary_layers import TernaryLinear, clipped
torch.manual_seed(0)
layer = TernaryLinear(8, 4)
layer(torch.randn(2, 8)).sum().backward()
print(bool(layer.weight.grad.abs().sum() > 0), clipped(torch.tensor([-9.0, 2.5, 9.0]), 4).tolist())
"""
    # If ste-core is for another torch, there is a warning before.
    assert run(code, first_on_path=installed).splitlines()[-1] == "True [-8.0, 2.0, 7.0]"
