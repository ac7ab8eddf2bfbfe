"""fake_quantize_float and FloatFormat: what the table of ops does not cover."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bits import all_patterns, assert_same_bits, special_values
from op_table import FLOAT_FORMATS, FLOATING, round_to_format
from torch import Tensor

import ste

# Without its types, which do not accept an unpacked list of arguments.
fake_quantize_float: Callable[..., Any] = ste.fake_quantize_float
of_class: Any = ste.autograd_ops.fake_quantize_float_fn.apply

EVERY_DTYPE = pytest.mark.parametrize("dtype", FLOATING, ids=str)
OTHERS = {
    "e3m4": ste.FloatFormat(3, 4, bias=3, max=15.5, has_infinity=True),
    "e5m10": ste.FloatFormat(5, 10, bias=15, max=65504.0, has_infinity=True),
    "e4m0": ste.FloatFormat(4, 0, bias=7, max=256.0),
    "e2m1, of small numbers": ste.FloatFormat(2, 1, bias=40, max=2.0**-38),
}


def formula(x: Tensor, scale: Tensor, format: ste.FloatFormat, *, saturate: bool) -> tuple[Tensor, Tensor]:
    """The result in float64 before it is rounded to x's dtype, and where the gradient passes to x, with NumPy."""
    wide = np.float64 if x.dtype == torch.float64 else np.float32
    with np.errstate(all="ignore"):
        v = x.detach().cpu().double().numpy().astype(wide) / scale.cpu().double().numpy().astype(wide)
        exponent = np.maximum(np.frexp(v)[1] - 1, 1 - format.bias)
        step = np.exp2((exponent - format.mantissa_bits).astype(np.float64))
        rounded = np.where(np.isfinite(v), np.rint(v / step) * step, v).astype(wide)
        beyond = format.max if saturate else (math.inf if format.has_infinity else math.nan)
        is_inside = np.abs(rounded) <= format.max
        q = np.where(is_inside | np.isnan(v), rounded, np.copysign(wide(beyond), v)).astype(wide)
        y = q * scale.cpu().double().numpy().astype(wide)
    return torch.from_numpy(y), torch.from_numpy(is_inside)


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.3, -0.5, 0.0, math.inf, math.nan])
@EVERY_DTYPE
def test_values_and_gradients(dtype: torch.dtype, scale: float, saturate: bool, device: str) -> None:
    x = (all_patterns(dtype) if dtype.itemsize == 2 else special_values(dtype)).to(device)
    step = torch.tensor(scale, dtype=dtype, device=device)
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device, dtype)
    formats = {**{name: ste.FloatFormat.named(name) for name in FLOAT_FORMATS}, **OTHERS}
    for format in formats.values():
        expected, is_inside = formula(x, step, format, saturate=saturate)
        for function in (fake_quantize_float, of_class):
            leaf = x.clone().requires_grad_()
            y = function(leaf, step, str(format), 1.0, saturate)
            assert_same_bits(y, expected.to(device, dtype), x)
            (to_x,) = torch.autograd.grad(y, leaf, g)
            assert_same_bits(to_x, torch.where(is_inside.to(device), g, 0), x)


@EVERY_DTYPE
@pytest.mark.parametrize("count", [1, 63, 64, 129, 4099])
def test_gradient_to_the_scale(count: int, dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(count)
    x, g = (torch.randn(3, count, generator=generator, dtype=torch.float64).to(device, dtype) for _ in range(2))
    for shape in ((), (3, 1), (count,), (3, count)):
        scale = (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.25).to(device, dtype)
        wide = torch.promote_types(dtype, torch.float32)
        v = x.to(wide) / scale.to(wide)
        rounded = torch.from_numpy(round_to_format(v.cpu().numpy(), "e2m1fn")).to(device)
        slope = rounded.clamp(-6, 6).double() - torch.where(rounded.abs() <= 6, v, 0).double()
        terms = g.double() * slope * 0.5
        for function in (fake_quantize_float, of_class):
            leaf = scale.clone().requires_grad_()
            (found,) = torch.autograd.grad(function(x, leaf, "e2m1fn", 0.5), leaf, g)
            eps = max(torch.finfo(dtype).eps, 4 * torch.finfo(torch.float32).eps) if dtype != torch.float64 else 1e-14
            least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
            allowed = eps * (terms.abs().sum_to_size(shape) + terms.sum_to_size(shape).abs()) + least
            assert ((found.double() - terms.sum_to_size(shape)).abs() <= allowed).all()


def test_compiled_is_the_same(device: str) -> None:
    x = special_values(torch.float32, device)
    for format in ("e2m1fn", "e5m2", str(OTHERS["e3m4"])):
        for saturate in (True, False):

            def function(t: Tensor, format: str = format, saturate: bool = saturate) -> Any:
                return fake_quantize_float(t, 0.3, format, saturate=saturate)

            torch.compiler.reset()
            assert_same_bits(torch.compile(function, fullgraph=True)(x), function(x), x)


def test_a_format_is_its_name() -> None:
    x = torch.linspace(-10, 10, 101)
    for name, (mantissa_bits, bias, largest) in FLOAT_FORMATS.items():
        format = ste.FloatFormat.named(name)
        assert (format.mantissa_bits, format.bias, format.max) == (mantissa_bits, bias, largest)
        bits = 1 + format.exponent_bits + format.mantissa_bits
        assert str(format) == name
        assert ste.FloatFormat.named(f"float{bits}_{name}") is format
        for same in (format, f"float{bits}_{name}"):
            assert_same_bits(fake_quantize_float(x, None, same), fake_quantize_float(x, 1.0, name))
    for format in OTHERS.values():
        assert ste.FloatFormat.named(str(format)) == format
        assert_same_bits(fake_quantize_float(x, None, format), fake_quantize_float(x, None, str(format)))


def test_the_ends_of_a_format() -> None:
    for format in (*map(ste.FloatFormat.named, FLOAT_FORMATS), *OTHERS.values()):
        numbers = torch.tensor([format.smallest_subnormal, format.smallest_normal, format.max], dtype=torch.float64)
        assert_same_bits(fake_quantize_float(numbers, None, format), numbers)
        halves = fake_quantize_float(numbers[:1] / 2, None, format)
        assert halves.item() == 0  # a tie, and 0 is even
        assert fake_quantize_float(numbers[2:] * 1e6, None, format).item() == format.max


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3, 7, 448.0), "exponent_bits must be from 1 to 8, got 0"),
        ((4, 11, 7, 448.0), "mantissa_bits must be from 0 to 10, got 11"),
        ((4, 3, 63, 448.0), "bias must be from -62 to 62, got 63"),
        ((4, 3, 7, 0.0), r"max must be more than 0 and less than 2\^64, got 0.0"),
        ((4, 3, 7, math.nan), r"max must be more than 0 and less than 2\^64, got nan"),
        ((4, 3, 7, 449.0), "max=449.0 is not a number of the format"),
        ((4, 3, 7, 1024.0), "max=1024.0 is not a number of the format"),
    ],
)
def test_no_format(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^FloatFormat: {message}$"):
        ste.FloatFormat(*arguments)
    own_name = "e{}m{}:bias={}:max={}".format(*arguments)
    with pytest.raises(ValueError, match=r"^fake_quantize_float: format must be one of e4m3fn, "):
        fake_quantize_float(torch.zeros(3), None, own_name)


def test_an_axis(device: str) -> None:
    x = torch.randn(3, 4, 5, device=device)
    scale = torch.rand(4, device=device) + 0.5
    expected = fake_quantize_float(x, scale[:, None], "e4m3fn")
    for axis in (1, -2):
        assert_same_bits(fake_quantize_float(x, scale, "e4m3fn", axis=axis), expected)
    scripted: Any = torch.jit.script(ste.fake_quantize_float)
    assert_same_bits(scripted(x, scale, "e4m3fn", axis=1), expected)
    assert_same_bits(scripted(x, None, "e4m3fn"), fake_quantize_float(x, None, "e4m3fn"))
