"""TorchScript: compiles the ops, differentiates them, saves them, and loads them in a fresh process."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from bits import assert_same_bits
from op_table import DISTINCT_OPS, OPS, Op
from processes import run
from test_gradient import expected_gradient
from torch import Tensor

import ste
from ste import binary_sign_ste, round_ste, scalar_clamp_ste

EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)


def caller_of(op: Op, folder: Path) -> Any:
    """A function x, tensors -> op(x, ...), from a file: TorchScript compiles the source."""
    tensors = [f"tensor{i}" for i, argument in enumerate(op.arguments) if callable(argument)]
    parameters = ", ".join(f"{name}: Tensor" for name in ("x", *tensors))
    arguments = ", ".join(f"tensor{i}" if callable(a) else str(a) for i, a in enumerate(op.arguments))
    file = folder / "caller.py"
    file.write_text(
        "import ste\nfrom torch import Tensor\n\n"
        f"def call({parameters}) -> Tensor:\n    return ste.{op.name}(x, {arguments})\n"
    )
    spec = importlib.util.spec_from_file_location("caller", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.call


@EVERY_OP
def test_scripted_values_and_gradients(op: Op, tmp_path: Path, device: str) -> None:
    x = torch.tensor([-3.3, -0.6, 0.4, 1.7], device=device, requires_grad=True)
    tensors = [a for a in op.arguments_for(x.detach()) if isinstance(a, Tensor)]
    g = torch.tensor([1.0, 2.0, 3.0, 4.0], device=device)
    scripted: Any = torch.jit.script(caller_of(op, tmp_path))
    for _ in range(4):  # the profiling executor changes the graph after the first calls
        y = scripted(x, *tensors)
        assert_same_bits(y, op(x))
        (gradient,) = torch.autograd.grad(y, x, g)
        assert_same_bits(gradient, expected_gradient(op, x, g))
    assert f"ste::{op.name}" in str(scripted.inlined_graph)


def call_by_bare_names(x: Tensor) -> Tensor:
    return scalar_clamp_ste(binary_sign_ste(round_ste(x), low=-1.0), max_val=6.0, min_val=0.0)


def test_bare_names_and_keywords() -> None:
    scripted: Any = torch.jit.script(call_by_bare_names)
    assert scripted(torch.tensor([-0.6, 1.6])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("op", DISTINCT_OPS, ids=str)
def test_the_function_itself_scripts(op: Op) -> None:
    x = torch.tensor([-3.3, 0.4])
    assert_same_bits(torch.jit.script(op.function)(x, *op.arguments_for(x)), op(x))


class Quantizer(torch.nn.Module):
    """Calls everything that there is to script."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, bit_width: Tensor) -> Tensor:
        low, high = ste.min_int(True, True, bit_width), ste.max_int(True, bit_width)
        q = ste.tensor_clamp(ste.round_ste(x / self.scale), low.to(x.dtype), high.to(x.dtype))
        q = ste.tensor_clamp_ste(ste.ceil_ste(q) + ste.floor_ste(q), -ste.max_uint(False, 4), ste.max_uint(False, 4))
        signs = ste.ternary_sign_ste(q) + ste.binary_sign_ste(q) * ste.binary_sign_ste(q, -1.0)
        signs = signs.reshape(ste.over_output_channels(signs)).reshape(x.shape)
        return ste.scalar_clamp_ste(q + signs, -100.0, 100.0) * self.scale


LOAD = """
import sys, torch, ste
print(ste.backend().name)
module = torch.jit.load(sys.argv[1])
x = torch.load(sys.argv[2])
y = module(x.requires_grad_(), torch.tensor(4))
y.sum().backward()
torch.save((y.detach(), x.grad, module.scale.grad), sys.argv[3])
"""


@pytest.mark.parametrize("backend", ["auto", "python"])
def test_saved_module_loads_in_a_fresh_process(backend: str, tmp_path: Path) -> None:
    module = Quantizer()
    scripted = torch.jit.script(module)
    scripted.save(str(tmp_path / "module.pt"))
    x = torch.linspace(-4, 4, 24).reshape(4, 6).requires_grad_()
    torch.save(x.detach(), tmp_path / "x.pt")
    y = module(x, torch.tensor(4))
    gradients = torch.autograd.grad(y.sum(), (x, module.scale))
    run(LOAD, *(tmp_path / name for name in ("module.pt", "x.pt", "y.pt")), backend=backend)
    loaded = torch.load(tmp_path / "y.pt")
    for actual, expected in zip(loaded, (y, *gradients)):
        torch.testing.assert_close(actual, expected)
    assert_same_bits(scripted(x, torch.tensor(4)), y)


def test_trace(tmp_path: Path) -> None:
    x = torch.linspace(-4, 4, 24).reshape(4, 6)
    traced: Any = torch.jit.trace(ste.round_ste, x)
    assert "ste::round_ste" in str(traced.graph)
    (gradient,) = torch.autograd.grad(traced(x.requires_grad_()).sum(), x)
    assert_same_bits(gradient, torch.ones_like(x))
