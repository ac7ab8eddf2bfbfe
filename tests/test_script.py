"""TorchScript: compiles the ops, differentiates them, saves them, and loads them in a fresh process."""

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
from ste import round_ste


def call_round(x: Tensor) -> Tensor:
    return ste.round_ste(x)


def call_round_by_its_bare_name(x: Tensor) -> Tensor:
    return round_ste(x)


def call_ceil(x: Tensor) -> Tensor:
    return ste.ceil_ste(x)


def call_floor(x: Tensor) -> Tensor:
    return ste.floor_ste(x)


def call_binary_sign(x: Tensor) -> Tensor:
    return ste.binary_sign_ste(x)


def call_bipolar_sign(x: Tensor) -> Tensor:
    return ste.binary_sign_ste(x, low=-1.0)


def call_ternary_sign(x: Tensor) -> Tensor:
    return ste.ternary_sign_ste(x)


def call_scalar_clamp(x: Tensor) -> Tensor:
    return ste.scalar_clamp_ste(x, -1.0, 2.0)


def call_scalar_clamp_by_name(x: Tensor) -> Tensor:
    return ste.scalar_clamp_ste(x, max_val=6.0, min_val=0.0)


def call_tensor_clamp_ste(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return ste.tensor_clamp_ste(x, low, high)


def call_tensor_clamp(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return ste.tensor_clamp(x, min_val=low, max_val=high)


CALLERS = {
    "round_ste": call_round,
    "ceil_ste": call_ceil,
    "floor_ste": call_floor,
    "binary_sign_ste": call_binary_sign,
    "binary_sign_ste(-1.0)": call_bipolar_sign,
    "ternary_sign_ste": call_ternary_sign,
    "scalar_clamp_ste(-1.0, 2.0)": call_scalar_clamp,
    "scalar_clamp_ste(0.0, 6.0)": call_scalar_clamp_by_name,
    "tensor_clamp_ste(per_channel, per_channel)": call_tensor_clamp_ste,
    "tensor_clamp_ste(full, full)": call_tensor_clamp_ste,
    "tensor_clamp(per_channel, per_channel)": call_tensor_clamp,
    "tensor_clamp(full, full)": call_tensor_clamp,
}
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)


def test_every_op_has_a_caller() -> None:
    assert list(CALLERS) == [str(op) for op in OPS]


@EVERY_OP
def test_scripted_values_and_gradients(op: Op, device: str) -> None:
    x = torch.tensor([-3.3, -0.6, 0.4, 1.7], device=device, requires_grad=True)
    arguments = [a for a in op.arguments_for(x.detach()) if isinstance(a, Tensor)]
    g = torch.tensor([1.0, 2.0, 3.0, 4.0], device=device)
    scripted: Any = torch.jit.script(CALLERS[str(op)])
    for _ in range(4):  # the profiling executor changes the graph after the first calls
        y = scripted(x, *arguments)
        assert_same_bits(y, op(x))
        (gradient,) = torch.autograd.grad(y, x, g)
        assert_same_bits(gradient, expected_gradient(op, x, g))
    assert f"ste::{op.name}" in str(scripted.inlined_graph)


def test_bare_name() -> None:
    scripted = torch.jit.script(call_round_by_its_bare_name)
    assert scripted(torch.tensor(1.6)).item() == 2.0


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
    traced = torch.jit.trace(call_round, x)
    assert "ste::round_ste" in str(traced.graph)
    (gradient,) = torch.autograd.grad(traced(x.requires_grad_()).sum(), x)
    assert_same_bits(gradient, torch.ones_like(x))
