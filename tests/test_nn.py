"""ste.nn: what each quantizer computes and keeps."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import assert_same_bits
from op_table import FLOATING
from quantizers import PAIRS, x_of
from torch import nn

import ste

EVERY_PAIR = pytest.mark.parametrize("name", PAIRS)
FLOOR = 2.0**-40


# Values are those of the ops.


def test_learned() -> None:
    x = x_of(6, 40)
    quantizer = ste.nn.IntegerQuantizer(4, axis=0, channels=6)
    y = quantizer(x)
    scale = 2 * x.abs().mean(1) / math.sqrt(7)
    assert_same_bits(quantizer.scale.detach(), scale)
    factor = (40 * 7) ** -0.5
    reference = scale.clone().requires_grad_()
    expected = ste.fake_quantize(x, reference, None, -8, 7, factor, "scaled", axis=0)
    assert_same_bits(y.detach(), expected.detach())
    g = x_of(6, 40, seed=1)
    assert_same_bits(*(torch.autograd.grad(out, s, g)[0] for out, s in ((y, quantizer.scale), (expected, reference))))


def test_learned_zero_point() -> None:
    x = x_of(200).abs() - 0.2
    quantizer = ste.nn.IntegerQuantizer(4, signed=False, zero_point="learned")
    y = quantizer(x)
    scale = (x.max() - x.min()) / 15
    assert torch.allclose(quantizer.scale, scale)
    assert torch.equal(quantizer.zero_point, -(x.min() / scale).round().reshape(1))
    assert (y - x).abs().max() <= scale
    gradients = torch.autograd.grad(y.square().sum(), [quantizer.scale, quantizer.zero_point])
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("narrow_range", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8, 12, 16])
def test_ranges(bits: int, narrow_range: bool, signed: bool) -> None:
    quantizer = ste.nn.IntegerQuantizer(bits, signed=signed, narrow_range=narrow_range, scale="absmax")
    q = quantizer.quantize(torch.linspace(-1, 1, 1 + 2**17))
    assert q.max() == int(ste.max_int(signed, bits))
    assert q.min() == (-(2 ** (bits - 1)) + 1 if signed else 0)  # for a symmetric x
    assert q.dtype == ((torch.int8 if signed else torch.uint8) if bits <= 8 else torch.int16 if signed else torch.int32)
    x = torch.tensor([-3.0, 1.0])  # outside the observed range
    observer = ste.nn.IntegerQuantizer(bits, signed=signed, narrow_range=narrow_range, scale="ema")
    observer.initialize(torch.ones(1))
    assert observer.eval().quantize(x)[0] == int(ste.min_int(signed, narrow_range, bits))


@pytest.mark.parametrize("axis", [None, 1, -1])
def test_observed(axis: int | None) -> None:
    quantizer = ste.nn.IntegerQuantizer(8, scale="ema", axis=axis, channels=1 if axis is None else 5, momentum=0.25)
    kept = None
    for step in range(4):
        x = x_of(3, 5, seed=step) * (1 + step)
        largest = x.abs().max().reshape(1) if axis is None else x.abs().amax(0)
        kept = largest if kept is None else kept.lerp(largest, 0.25)
        y = quantizer(x)
        assert_same_bits(quantizer.observed, kept)
        scale = kept / 127
        assert_same_bits(y, ste.fake_quantize(x, scale, None, -128, 127, axis=axis))
    before = quantizer.observed.clone()
    quantizer.eval()(100 * x)
    assert_same_bits(quantizer.observed, before)


def test_asymmetric() -> None:
    x = x_of(1000) + 1
    quantizer = ste.nn.IntegerQuantizer(8, signed=False, scale="ema", zero_point="observed")
    y = quantizer(x)
    low, high = min(x.min().item(), 0), x.max().item()
    scale, zero_point = quantizer.eval().scale_and_zero_point(x)
    assert zero_point is not None
    assert torch.allclose(scale, torch.tensor((high - low) / 255))
    assert torch.equal(zero_point, (-low / scale).round())
    assert (y - x).abs().max() <= scale / 2 * 1.001 + abs(low) * 0.01
    assert quantizer(torch.zeros(1)).item() == 0
    q = quantizer.quantize(x)
    assert_same_bits((q.float() - zero_point) * scale, y)
    for ends in (torch.ones(3), -torch.ones(3)):  # all on one side of 0
        quantizer.initialize(ends)
        assert torch.allclose(quantizer(ends), ends)


def test_percentile() -> None:
    x = torch.arange(1.0, 1001)
    for percentile in (0.01, 50.0, 99.9, 100.0):
        quantizer = ste.nn.IntegerQuantizer(8, scale="percentile", percentile=percentile)
        quantizer.initialize(x)
        assert quantizer.observed.item() == max(1, math.ceil(10 * percentile))


@pytest.mark.parametrize("scale", ["learned", "absmax", "ema"])
@pytest.mark.parametrize("format", ["e4m3fn", "float8_e5m2", ste.FloatFormat(2, 1, bias=1, max=6.0)], ids=str)
def test_float(format: Any, scale: str) -> None:
    x = x_of(4, 30)
    quantizer = ste.nn.FloatQuantizer(format, scale=scale, axis=0, channels=4)
    y = quantizer(x)
    largest = ste.FloatFormat.named(str(format)).max
    expected = ste.fake_quantize_float(x, x.abs().amax(1) / largest, format, axis=0)
    assert_same_bits(y.detach(), expected)
    assert_same_bits(quantizer.quantize(x) * (x.abs().amax(1, keepdim=True) / largest), y.detach())


@pytest.mark.parametrize("recipe", ste.BLOCK_RECIPES)
@pytest.mark.parametrize("dim", [-1, 0])
def test_blocks(recipe: str, dim: int) -> None:
    x = x_of(70, 50)
    x[:32, :32] = 0
    quantizer = ste.nn.BlockQuantizer(recipe, dim=dim)
    arguments = (*ste.BLOCK_RECIPES[recipe], dim)
    y = quantizer(x)
    assert_same_bits(y, ste.fake_quantize_blocks(x, *arguments))
    q = quantizer.quantize(x)
    assert q.dtype == (torch.int8 if recipe.startswith("int") else torch.float32)
    scale = ste.block_scale(x, *arguments)
    block = ste.BLOCK_RECIPES[recipe].block or x.shape[dim]
    assert torch.equal(q * scale.repeat_interleave(block, dim).narrow(dim, 0, x.shape[dim]), y)


def test_blocks_of_other_sizes() -> None:
    x = x_of(5, 50)
    quantizer = ste.nn.BlockQuantizer("int4", 8, "minmax")
    assert_same_bits(quantizer(x), ste.fake_quantize_blocks(x, "int4", 8, "minmax"))
    scale, zero_point = (
        part.repeat_interleave(8, 1)[:, :50]
        for part in (ste.block_scale(x, "int4", 8, "minmax"), ste.block_zero_point(x, "int4", 8, "minmax"))
    )
    assert torch.allclose((quantizer.quantize(x) - zero_point) * scale, quantizer(x))


@pytest.mark.parametrize("axis", [None, 0, -1])
def test_signs(axis: int | None) -> None:
    x = x_of(4, 30)
    rows = x.abs().mean() if axis is None else x.abs().mean(1 if axis == 0 else 0, keepdim=True)
    binary = ste.nn.BinaryQuantizer(scale="mean", axis=axis)
    assert_same_bits(binary(x), torch.where(x >= 0, 1.0, -1.0) * rows)
    assert torch.equal(binary.quantize(x), torch.where(x >= 0, 1, -1).to(torch.int8))
    ternary = ste.nn.TernaryQuantizer(0.7, axis=axis)
    sign = torch.where(x.abs() > 0.7 * rows, x.sign(), 0)
    assert torch.equal(ternary.quantize(x), sign.to(torch.int8))
    of = (sign * x).sum() if axis is None else (sign * x).sum(1 if axis == 0 else 0, keepdim=True)
    count = sign.abs().sum() if axis is None else sign.abs().sum(1 if axis == 0 else 0, keepdim=True)
    assert torch.allclose(ternary(x), sign * of / count)


@EVERY_PAIR
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits(name: str, dtype: torch.dtype) -> None:
    """The same as in float32 on the same numbers, rounded once."""
    x = x_of(3, 64).to(dtype)
    for make in PAIRS[name]:
        quantizers: list[Any] = [make(), make()]
        for quantizer in quantizers:
            if hasattr(quantizer, "resize") and quantizer.axis is not None:
                quantizer.resize(3)
        y, wide = quantizers[0](x), quantizers[1](x.float())
        assert y.dtype == dtype
        assert torch.allclose(y.float(), wide, rtol=torch.finfo(dtype).eps, atol=0)
        assert torch.equal(quantizers[0].quantize(x), quantizers[1].quantize(x.float()))


# Traps. tests/jobs has those of a whole model.


@EVERY_PAIR
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("part", ["weight", "activation"])
def test_zeros_stay_zeros_and_have_a_gradient(name: str, part: str, dtype: torch.dtype) -> None:
    quantizer = getattr(PAIRS[name], part)()
    if getattr(quantizer, "axis", None) is not None and hasattr(quantizer, "resize"):
        quantizer.resize(3)
    x = torch.zeros(3, 32, requires_grad=True, dtype=dtype)
    y = quantizer(x)
    assert y.dtype == dtype
    if not isinstance(quantizer, ste.nn.BinaryQuantizer):
        assert not y.any()
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.isfinite().all()
    assert gradient.isfinite().all()
    # LSQ's mask is strict, and 0 is the lower limit of an unsigned grid.
    assert gradient.any() == (getattr(quantizer, "zero_point_kind", None) != "learned")


def test_a_scale_that_falls_below_the_floor_can_rise() -> None:
    quantizer = ste.nn.IntegerQuantizer(4)
    quantizer.initialize(torch.ones(1))
    with torch.no_grad():
        quantizer.scale.fill_(-1.0)
    x = torch.ones(4)
    y = quantizer(x)
    assert y.isfinite().all()
    (gradient,) = torch.autograd.grad(y.sum(), quantizer.scale)
    assert gradient.item() > 0


def test_empty_batch() -> None:
    for kind in ("learned", "absmax", "ema"):
        quantizer = ste.nn.IntegerQuantizer(8, scale=kind)
        quantizer.initialize(torch.ones(3))
        before = copy.deepcopy(quantizer.state_dict())
        for training in (True, False):
            assert quantizer.train(training)(torch.zeros(0, 3)).shape == (0, 3)
        assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())


# Errors.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ste.nn.IntegerQuantizer(1), "IntegerQuantizer: bits must be from 2 to 16, got 1"),
        (lambda: ste.nn.IntegerQuantizer(17), "IntegerQuantizer: bits must be from 2 to 16, got 17"),
        (lambda: ste.nn.IntegerQuantizer(scale="max"), "IntegerQuantizer: scale must be one of learned, absmax, ema"),
        (
            lambda: ste.nn.IntegerQuantizer(zero_point="observed"),
            "IntegerQuantizer: zero_point must be None, 'learned'",
        ),
        (
            lambda: ste.nn.IntegerQuantizer(channels=3),
            "IntegerQuantizer: channels must be at least 1, and 1 where axis",
        ),
        (lambda: ste.nn.IntegerQuantizer(momentum=0.0), "IntegerQuantizer: momentum must be more than 0"),
        (
            lambda: ste.nn.FloatQuantizer(percentile=101),
            "FloatQuantizer: percentile must be more than 0 and at most 100",
        ),
        (lambda: ste.nn.FloatQuantizer("e9m9"), "must be one of e4m3fn"),
        (lambda: ste.nn.BinaryQuantizer(scale="max"), "BinaryQuantizer: scale must be None or 'mean', got 'max'"),
        (lambda: ste.nn.TernaryQuantizer(-1.0), "TernaryQuantizer: threshold must be at least 0, got -1.0"),
        (lambda: ste.nn.quantize(nn.Linear(2, 2)), "quantize: give weight, activation, or both"),
        (lambda: ste.nn.quantize(nn.ReLU(), ste.nn.BinaryQuantizer()), "quantize: the model has no layer to quantize"),
        (lambda: ste.nn.unquantize(nn.ReLU(), keep="int8"), "unquantize: keep must be 'float' or 'quantized'"),
    ],
)
def test_errors(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
