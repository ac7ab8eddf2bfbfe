"""TorchScript: names and keywords, and a module that calls everything. The ops by themselves are in matrix/."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bits import assert_same_bits
from processes import run
from torch import Tensor

import ste
from ste import binary_sign_ste, round_ste, scalar_clamp_ste


def call_by_bare_names(x: Tensor) -> Tensor:
    return scalar_clamp_ste(binary_sign_ste(round_ste(x), low=-1.0), max_val=6.0, min_val=0.0)


def test_bare_names_and_keywords() -> None:
    scripted: Any = torch.jit.script(call_by_bare_names)
    assert scripted(torch.tensor([-0.6, 1.6])).tolist() == [0.0, 1.0]


class Quantizer(torch.nn.Module):
    """Calls everything that can be scripted."""

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
