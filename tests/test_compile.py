"""Hard cases for torch.compile: zeros, bounds of every kind, integer ranges, shapes. The rest is in matrix/."""

import math
from collections.abc import Callable

import pytest
import torch
from bits import assert_same_bits, values
from op_table import BOUNDS
from torch import Tensor

import ste


def test_inductor_keeps_the_sign_of_zeros_beside_another_zero(device: str) -> None:
    """Within one kernel, inductor treats the constants -0.0 and 0.0 as equal."""
    x, low = (torch.tensor([-0.0, -1.0], device=device) for _ in range(2))
    high = torch.ones(2, device=device)

    def clamp_and_relu(x: Tensor) -> tuple[Tensor, Tensor]:
        return ste.tensor_clamp(x, low, high), torch.where(x > 0.0, x, 0.0)

    assert_same_bits(torch.compile(clamp_and_relu, fullgraph=True)(x)[0], x)


@pytest.mark.parametrize("name", ["scalar_clamp_ste", "tensor_clamp_ste", "tensor_clamp"])
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_bounds_of_every_kind(name: str, bounds: tuple[float, float], device: str) -> None:
    """Compilers see a clamp as operations other than eager mode's, with the same values and the same gradients."""
    clamp: Callable[..., Tensor] = getattr(ste, name)
    arguments = bounds if name == "scalar_clamp_ste" else [torch.tensor(b, device=device) for b in bounds]
    x = values(torch.float32, device).requires_grad_()
    expected = clamp(x, *arguments)
    y = torch.compile(clamp, fullgraph=True, backend="aot_eager")(x, *arguments)
    if name == "scalar_clamp_ste" and bounds not in ((-0.0, 0.0), (-5e-324, 5e-324)):
        assert_same_bits(y, expected, x)
    else:
        # The sign of a zero is unspecified if a tensor bound is a zero; and torch.compile merges constants that compare
        # equal, both in AOTAutograd and in inductor, so that the bounds -0.0 and 0.0 become one.
        assert_same_bits(torch.where(y == 0, 0.0, y), torch.where(expected == 0, 0.0, expected), x)
    assert_same_bits(*(torch.autograd.grad(out.sum(), x)[0] for out in (y, expected)))


def test_integer_ranges_compile(device: str) -> None:
    def quantize(x: Tensor, bits: Tensor) -> Tensor:
        return ste.tensor_clamp_ste(ste.round_ste(x), ste.min_int(True, False, bits), ste.max_int(True, bits))

    x = torch.linspace(-200, 200, 33, device=device)
    for bits in (torch.tensor(8, device=device), torch.tensor(4.0, device=device)):
        assert_same_bits(torch.compile(quantize, fullgraph=True, backend="aot_eager")(x, bits), quantize(x, bits))
    fixed = torch.compile(lambda: (ste.max_uint(True, 8), ste.max_int(True, 4)), fullgraph=True, backend="aot_eager")
    assert fixed() == (torch.tensor(254), torch.tensor(7))


def test_shapes_compile(device: str) -> None:
    x = torch.randn(2, 3, 4, 5, device=device)
    for name in ste.shape.__all__:
        function = getattr(ste, name)
        compiled = torch.compile(lambda t: t.reshape(function(t)), fullgraph=True, backend="aot_eager", dynamic=True)  # noqa: B023
        assert torch.equal(compiled(x), x.reshape(function(x)))


def test_low_that_the_dtype_does_not_hold(device: str) -> None:
    x = torch.tensor([-1.0, 1.0], dtype=torch.float16, device=device)
    compiled = torch.compile(lambda t: ste.binary_sign_ste(t, -1e30), backend="aot_eager", fullgraph=True)
    assert compiled(x).tolist() == [-math.inf, 1.0]


@pytest.mark.slow
def test_emulate_precision_casts_restores_the_bits() -> None:
    """What contract.md and compile.md say about inductor."""
    x, scale = torch.linspace(-1, 1, 4096).bfloat16(), torch.tensor(0.1)

    def read_back(x: Tensor, scale: Tensor) -> Tensor:
        return ste.fake_quantize(x, scale, None, -8, 7).float()

    expected = read_back(x, scale)
    assert not torch.equal(torch.compile(read_back, fullgraph=True)(x, scale), expected)  # else, the pages are wrong
    torch._dynamo.reset()
    with torch._inductor.config.patch(emulate_precision_casts=True):
        assert_same_bits(torch.compile(read_back, fullgraph=True)(x, scale), expected)
