"""Every memory layout, row length and instruction set gives the same bits."""

import platform
from collections.abc import Callable

import numpy as np
import pytest
import torch
from bits import assert_same_bits
from op_table import FLOATING, INTEGER, OPS, Op, clamp, clamp_gradient, in_float64
from processes import run
from torch import Tensor

import ste

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.mT.contiguous().mT,
    "every second column": lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2],
    "every second row": lambda t: torch.stack([t, t], -2).flatten(-3, -2)[..., ::2, :],
    "not at the start of its memory": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    "expanded": lambda t: t[..., :1, :].expand(t.shape),
    "channels_last": lambda t: t.unsqueeze(0).contiguous(memory_format=torch.channels_last).squeeze(0),
}
# The last dimension is a row: shorter than a vector, as long as one, longer, and longer than a block.
SHAPES = [(3, 2, 1), (2, 3, 7), (2, 3, 16), (2, 1, 67), (1, 2, 300)]


def quarters(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Multiples of 1/4, whose sums are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(-16, 17, shape, generator=generator) / 4).to(dtype)


@pytest.mark.parametrize("dtype", FLOATING + INTEGER, ids=str)
@pytest.mark.parametrize("op", OPS, ids=str)
def test_forward(op: Op, dtype: torch.dtype, device: str) -> None:
    if dtype not in op.dtypes:
        pytest.skip("takes no integers")
    if dtype == torch.uint8 and -1.0 in op.arguments:
        pytest.skip("uint8 has no -1")
    for seed, (shape, layout) in enumerate((s, name) for s in SHAPES for name in LAYOUTS):
        x = LAYOUTS[layout](quarters(shape, dtype, seed)).to(device)
        y = op(x)
        # The sign of a zero between tensor bounds is unspecified: x has no -0.0, and 0 * y drops the sign of y.
        assert_same_bits(y + 0, op.expected(x) + 0, x)
        assert y.stride() == torch.neg(x).stride()


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 64, 67, 200])
def test_bounds_of_channels(channels: int, nan: bool, dtype: torch.dtype, device: str) -> None:
    """One row of bounds is for many rows of activations, in each layout; one of the bounds may be NaN."""
    x = quarters((3, channels, 15, 17), dtype, 0).to(device) + 0.125
    x[0, 0, 0, 0] = float("nan")
    low, high = (quarters((channels, 1, 1), dtype, seed).to(device) for seed in (1, 2))
    if nan:
        low[channels // 2] = float("nan")
        high[0] = float("nan")
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for shape in ((channels, 1, 1), (3, channels, 1, 1), (3, channels, 15, 17)):
            laid_out = x.contiguous(memory_format=memory_format)
            bounds = [bound.expand(shape) for bound in (low, high)]
            if len(shape) == 4:
                bounds = [bound.contiguous(memory_format=memory_format) for bound in bounds]
            for min_val, max_val in (bounds, [bounds[0], high.max()], [low.min(), bounds[1]]):
                y = ste.tensor_clamp_ste(laid_out, min_val, max_val)
                expected = torch.from_numpy(clamp(*map(in_float64, (x, min_val, max_val)))).to(device, dtype)
                assert_same_bits(y, expected, x)
                assert y.stride() == torch.neg(laid_out).stride()


BOUNDS: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
    "one number": lambda s: (),
    "along the last dimension": lambda s: s[-1:],
    "along the first dimension": lambda s: (s[0], 1, 1),
    "along the first and the last": lambda s: (s[0], 1, s[2]),
    "of x's shape": lambda s: s,
}


def expected_gradients(g: Tensor, x: Tensor, low: Tensor, high: Tensor) -> list[Tensor]:
    parts = clamp_gradient(*(in_float64(t) for t in (x, low, high)))
    whole = [torch.from_numpy(np.where(part, in_float64(g), 0.0)) for part in parts]
    return [t.sum_to_size(a.shape).to(a.dtype).to(a.device) for t, a in zip(whole, (x, low, high))]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("max_shape", BOUNDS)
@pytest.mark.parametrize("min_shape", BOUNDS)
def test_gradients_of_tensor_clamp(min_shape: str, max_shape: str, dtype: torch.dtype, device: str) -> None:
    for seed, (shape, of_x) in enumerate((s, name) for s in SHAPES for name in LAYOUTS):
        of_g = list(LAYOUTS)[seed % len(LAYOUTS)]
        x, g = (LAYOUTS[name](quarters(shape, dtype, seed + i)).to(device) for i, name in enumerate((of_x, of_g)))
        low = quarters(BOUNDS[min_shape](shape), dtype, seed + 2).to(device) - 2
        high = quarters(BOUNDS[max_shape](shape), dtype, seed + 3).to(device) + 2
        expected = expected_gradients(g, x, low, high)
        # Each subset of the three arguments that may need a gradient.
        for needed in range(1, 8):
            arguments = [t.detach().requires_grad_(bool(needed >> i & 1)) for i, t in enumerate((x, low, high))]
            y = ste.tensor_clamp(*arguments)
            leaves = [i for i, t in enumerate(arguments) if t.requires_grad]
            for i, gradient in zip(leaves, torch.autograd.grad(y, [arguments[i] for i in leaves], g)):
                assert_same_bits(gradient + 0, expected[i] + 0)


def test_gradients_of_a_tensor_without_dimensions(device: str) -> None:
    for x, owner in ((-2.0, 1), (0.5, 0), (2.0, 2)):
        leaves = [torch.tensor(value, device=device) for value in (x, -1.0, 1.0)]
        for needed in range(1, 8):
            arguments = [t.clone().requires_grad_(bool(needed >> i & 1)) for i, t in enumerate(leaves)]
            ste.tensor_clamp(*arguments).backward()
            assert [None if t.grad is None else t.grad.item() for t in arguments] == [
                float(i == owner) if t.requires_grad else None for i, t in enumerate(arguments)
            ]


LARGE = [(64, 48, 50), (3, 5, 9001), (70_000, 1, 2)]


@pytest.mark.parametrize("bound", [name for name in BOUNDS if name != "of x's shape"])
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_sums_over_large_tensors(shape: tuple[int, ...], bound: str, device: str) -> None:
    x, g = (quarters(shape, torch.float32, seed).to(device) for seed in (0, 1))
    low = quarters(BOUNDS[bound](shape), torch.float32, 2).to(device) - 2
    high = quarters(BOUNDS[bound](shape), torch.float32, 3).to(device) + 2
    leaves = [t.requires_grad_() for t in (x, low, high)]
    actual = torch.autograd.grad(ste.tensor_clamp(*leaves), leaves, g)
    for gradient, expected in zip(actual, expected_gradients(g, x, low, high)):
        assert_same_bits(gradient + 0, expected + 0)


CAPABILITY = """
import pytest, sys
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", sys.argv[1], "-k", "forward or gradients"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(ste.backend().name != "native", reason="the Python backend has no kernels of its own")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instruction sets of x86")
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_instruction_sets(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests run with the largest."""
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    assert " failed" not in run(CAPABILITY, __file__, backend="native")
