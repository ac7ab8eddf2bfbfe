"""fake_quantize, quantize and lsq_grad_scale: what the table of ops does not cover."""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as fwAD
from bits import assert_same_bits, values
from op_table import FLOATING
from torch import Tensor
from torch.func import jacfwd, jacrev, jvp, vmap

import ste

# Without their types, which do not accept an unpacked list of arguments.
fake_quantize: Callable[..., Any] = ste.fake_quantize
quantize: Callable[..., Any] = ste.quantize

Shape = tuple[int, ...]

# How scale and zero point may lie along x.
EXTENTS: dict[str, Callable[[Shape], Shape]] = {
    "per tensor": lambda s: (),
    "per channel": lambda s: (*(size if i == len(s) - 2 else 1 for i, size in enumerate(s[-2:], len(s) - 2)),),
    "along the last dimension": lambda s: s[-1:],
    "along the first and the last": lambda s: (s[0], *(1 for _ in s[1:-1]), s[-1]),
    "per element": lambda s: s,
}
EVERY_EXTENT = pytest.mark.parametrize("extent", EXTENTS)
EVERY_DTYPE = pytest.mark.parametrize("dtype", FLOATING, ids=str)
LOW, HIGH = -4, 3


def sample(shape: Shape, extent: str, dtype: torch.dtype, device: str, seed: int = 0) -> list[Tensor]:
    """x, scale, zero point, and an incoming gradient."""
    generator = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(shape, generator=generator, dtype=torch.float64) * size for size in (2, 1))
    scale = torch.rand(EXTENTS[extent](shape), generator=generator, dtype=torch.float64) + 0.25
    zero_point = torch.randint(-2, 3, EXTENTS[extent](shape), generator=generator)
    return [tensor.to(device, dtype) for tensor in (x, scale, zero_point, g)]


def slopes(x: Tensor, scale: Tensor, zero_point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives with respect to all three, in float64, with the grid computed in the op's own dtype."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    shifted = (x.to(dtype) / scale.to(dtype)).round() + zero_point.to(dtype)
    is_inside = (shifted >= LOW) & (shifted <= HIGH)
    steps = shifted.double().clamp(LOW, HIGH) - zero_point.double()
    scaled = x.double() / scale.double()
    zero = torch.zeros((), dtype=torch.float64, device=x.device)
    return (
        is_inside.double(),
        steps - torch.where(is_inside, scaled, zero),
        torch.where(is_inside, zero, -scale.double()),
    )


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def assert_sums(actual: Tensor, terms: Tensor, factor: float = 1.0) -> None:
    """Within 2 ulp sqrt(N) of the sum in float64; the ulp is that of the sum of the terms' magnitudes."""
    exact = terms.sum_to_size(actual.shape) * factor
    n = terms.numel() / actual.numel()
    size = torch.maximum(terms.square().sum_to_size(actual.shape).sqrt() * abs(factor), exact.abs())
    eps = torch.finfo(actual.dtype).eps
    # Each term is rounded when it is computed, in float32 or wider; without a sum, that is the only rounding.
    largest = (terms.abs().amax() if terms.numel() else torch.zeros(())) * abs(factor)
    allowed = 2 * eps * math.sqrt(n) * size + 8 * torch.finfo(torch.float32).eps * largest.to(size.device)
    assert ((actual.double() - exact).abs() <= allowed).all()


@EVERY_EXTENT
@EVERY_DTYPE
@pytest.mark.parametrize("shape", [(3, 7, 9), (2, 4, 64), (1, 5, 300), (2, 3, 8, 8)], ids=str)
def test_gradients(shape: Shape, extent: str, dtype: torch.dtype, device: str) -> None:
    for parameters in {dtype, torch.float32}:
        for grad_scale in (1.0, 0.125):
            x, scale, zero_point, g = sample(shape, extent, dtype, device)
            scale, zero_point = scale.to(parameters), zero_point.to(parameters)
            arguments = leaves(x, scale, zero_point)
            y = fake_quantize(*arguments, LOW, HIGH, grad_scale=grad_scale)
            to_x, to_scale, to_zero_point = torch.autograd.grad(y, arguments, g)
            by_x, by_scale, by_zero_point = slopes(x, scale, zero_point)
            assert_same_bits(to_x, torch.where(by_x > 0, g, 0), x)
            assert to_scale.dtype == to_zero_point.dtype == parameters
            assert_sums(to_scale, g.double() * by_scale, grad_scale)
            assert_sums(to_zero_point, g.double() * by_zero_point, grad_scale)


@EVERY_DTYPE
@pytest.mark.parametrize("count", [1, 63, 64, 129, 4099])
def test_gradients_without_a_zero_point(count: int, dtype: torch.dtype, device: str) -> None:
    x, scale, _, g = sample((count,), "per tensor", dtype, device)
    for zero_point in (None, torch.tensor(-0.0, dtype=dtype, device=device)):
        arguments = leaves(x, scale)
        to_x, to_scale = torch.autograd.grad(fake_quantize(*arguments, zero_point, LOW, HIGH), arguments, g)
        by_x, by_scale, _ = slopes(x, scale, torch.zeros_like(scale))
        assert_same_bits(to_x, torch.where(by_x > 0, g, 0), x)
        assert_sums(to_scale, g.double() * by_scale)


@EVERY_DTYPE
@pytest.mark.parametrize("scale", [0.3, -0.5, 0.0, math.inf, math.nan])
def test_gradient_to_any_x(scale: float, dtype: torch.dtype, device: str) -> None:
    """The mask is that of the formula in float32 (float64 for float64), whatever x's dtype."""
    x = values(dtype, device).requires_grad_()
    step = torch.tensor(scale, dtype=dtype, device=device)
    g = torch.randn(x.shape, dtype=torch.float64, device=device).to(dtype)
    (to_x,) = torch.autograd.grad(fake_quantize(x, step, None, LOW, HIGH), x, g)
    wide = torch.promote_types(dtype, torch.float32)
    rounded = (x.detach().to(wide) / step.to(wide)).round()
    assert_same_bits(to_x, torch.where((rounded >= LOW) & (rounded <= HIGH), g, 0), x)


@EVERY_DTYPE
@pytest.mark.parametrize("count", [1, 15, 33, 70, 129])
@pytest.mark.parametrize("zero_point", [None, 2.0])
def test_gradient_to_a_scale_of_0(zero_point: float | None, count: int, dtype: torch.dtype, device: str) -> None:
    """If no x is 0, nothing is NaN, not even at the end of a row, which the loops pad."""
    x = (torch.arange(count, device=device) % 5 - 2.5).to(dtype)
    shift = None if zero_point is None else torch.tensor(zero_point, dtype=dtype, device=device)
    expected = (torch.where(x > 0, HIGH, LOW) - (zero_point or 0)).sum().to(dtype).item()
    for rows in (1, 3):
        arguments = leaves(x.expand(rows, count), torch.zeros(rows, 1, dtype=dtype, device=device))
        y = fake_quantize(*arguments, shift, LOW, HIGH)
        to_x, to_scale = torch.autograd.grad(y, arguments, torch.ones_like(y))
        assert not to_x.any()
        assert to_scale.flatten().tolist() == [expected] * rows


@EVERY_EXTENT
@EVERY_DTYPE
def test_the_class_gives_the_same(extent: str, dtype: torch.dtype, device: str) -> None:
    """The same in every layout; the class is the Python backend."""
    formats: list[Callable[[Tensor], Tensor]] = [
        lambda t: t,
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.transpose(0, 1),
        lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2],
        lambda t: t[:, :, :1].expand(t.shape),
        lambda t: t[:, :0],
    ]
    for shape in ((2, 3, 5, 7), (3, 64, 4, 4)):
        for layout in formats:
            x = layout(sample(shape, extent, dtype, device)[0])
            _, scale, zero_point, g = sample(tuple(x.shape), extent, dtype, device)
            found = []
            for function in (fake_quantize, ste.autograd_ops.fake_quantize_fn.apply):
                arguments = leaves(x, scale, zero_point)
                y = function(*arguments, LOW, HIGH)
                found.append((y, *torch.autograd.grad(y, arguments, g)))
            (y, to_x, *to_parameters), (y_of_class, to_x_of_class, *to_parameters_of_class) = found
            assert_same_bits(y, y_of_class, x)
            assert_same_bits(to_x, to_x_of_class, x)
            if x.numel():
                assert y.stride() == torch.neg(x).stride()
            for actual, expected in zip(to_parameters, to_parameters_of_class):
                torch.testing.assert_close(actual, expected, rtol=16 * torch.finfo(dtype).eps, atol=1e-4)


@EVERY_DTYPE
@pytest.mark.parametrize("scale", [0.3, 2.0**-14, 1e4, -0.5, 0.0, math.inf, math.nan])
@pytest.mark.parametrize("zero_point", [None, 1.0, -0.25])
def test_values(zero_point: float | None, scale: float, dtype: torch.dtype, device: str) -> None:
    """The formula in float32 (float64 for float64), rounded once: with any scale, eager and compiled."""
    x = values(dtype, device)
    step = torch.tensor(scale, dtype=dtype, device=device)
    shift = None if zero_point is None else torch.tensor(zero_point, dtype=dtype, device=device)
    wide = np.float64 if dtype == torch.float64 else np.float32
    with np.errstate(all="ignore"):
        s = np.asarray(step.double().item(), wide)
        z = np.asarray(0 if shift is None else shift.double().item(), wide)
        shifted = np.rint(x.cpu().double().numpy().astype(wide) / s) + z
        expected = torch.from_numpy((np.where(np.isnan(shifted), shifted, np.clip(shifted, -8, 7)) - z) * s)

    def function(t: Tensor, step: Tensor, shift: Tensor | None) -> Any:
        return fake_quantize(t, step, shift, -8, 7)

    assert_same_bits(function(x, step, shift), expected.to(device, dtype), x)
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True)
    assert_same_bits(compiled(x, step, shift), expected.to(device, dtype), x)


def test_float16_is_rounded_once(device: str) -> None:
    """Neither the inverse of the scale nor a quotient in float16 is used: both would give other integers."""
    x = torch.tensor([2.5, 1000.0, 0.1], dtype=torch.float16, device=device)
    scale = torch.tensor([0.1, 0.3, 0.0002], dtype=torch.float32, device=device)
    expected = ((x.float() / scale).round().clamp(-1000, 4000) * scale).half()
    assert_same_bits(fake_quantize(x, scale, None, -1000, 4000), expected)


@EVERY_DTYPE
@pytest.mark.parametrize("payload", [0x7FC00000, 0x7FFFFFFF, 0x7F800001, -1])
def test_any_nan_of_a_parameter(payload: int, dtype: torch.dtype, device: str) -> None:
    """Whatever the bits that do not fit into a 16-bit dtype."""
    x = torch.ones(130, dtype=dtype, device=device)
    nan = torch.tensor(payload, dtype=torch.int32, device=device).view(torch.float32)
    for shape in ((), (130,)):
        parameter, one = (t.expand(shape).contiguous() for t in (nan, torch.ones_like(nan)))
        assert fake_quantize(x, parameter, None, -8, 7).isnan().all()
        assert fake_quantize(x, one, parameter, -8, 7).isnan().all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_integer_zero_point(dtype: torch.dtype, device: str) -> None:
    x, scale, _, g = sample((4, 5), "per tensor", torch.float32, device)
    x.requires_grad_()
    y = fake_quantize(x, scale, torch.tensor(2, dtype=dtype, device=device), 0, 7)
    assert_same_bits(y, fake_quantize(x, scale, torch.tensor(2.0, device=device), 0, 7))
    (gradient,) = torch.autograd.grad(y, x, g)
    assert gradient.shape == x.shape


def composition(*arguments: Any) -> Any:
    x, scale, zero_point, grad_scale = arguments
    scale, zero_point = (t.detach() + (t - t.detach()) * grad_scale for t in (scale, zero_point))
    ends = (torch.tensor(end, dtype=x.dtype) for end in (LOW, HIGH))
    return (ste.tensor_clamp(ste.round_ste(x / scale) + zero_point, *ends) - zero_point) * scale


@pytest.mark.parametrize("grad_scale", [1.0, 0.5])
@pytest.mark.parametrize(
    "derivative",
    [
        *[jacrev, jacfwd],
        *(lambda f, n, o=outer, i=inner: o(i(f, n), n) for outer in (jacrev, jacfwd) for inner in (jacrev, jacfwd)),
        lambda f, n: jacrev(jacrev(jacrev(f, n), n), n),
    ],
    ids=["rev", "fwd", "rev-rev", "rev-fwd", "fwd-rev", "fwd-fwd", "rev-rev-rev"],
)
def test_every_derivative_is_that_of_the_composition(derivative: Any, grad_scale: float) -> None:
    """All derivatives, including mixed ones, of a function that is nonlinear in the result."""
    x, scale, zero_point, _ = sample((3, 5), "along the last dimension", torch.float64, "cpu")

    def loss(function: Callable[..., Tensor]) -> Any:
        return lambda *t: (function(*t) ** 3).sum()

    ours = derivative(loss(lambda *t: fake_quantize(*t, LOW, HIGH, grad_scale=grad_scale)), (0, 1, 2))
    theirs = derivative(loss(lambda *t: composition(*t, grad_scale)), (0, 1, 2))
    arguments = (x, scale, zero_point + 0.25)
    torch.testing.assert_close(ours(*arguments), theirs(*arguments), rtol=1e-12, atol=1e-12)


def test_create_graph_is_that_of_torch_func() -> None:
    x, scale, zero_point, g = sample((3, 5), "along the last dimension", torch.float64, "cpu")
    arguments = leaves(x, scale, zero_point)
    y = fake_quantize(*arguments, LOW, HIGH)
    first = torch.autograd.grad(y, arguments, g, create_graph=True)
    second = torch.autograd.grad(first[1].sum(), arguments, allow_unused=True, materialize_grads=True)
    expected = jacrev(lambda *t: torch.func.vjp(lambda *u: fake_quantize(*u, LOW, HIGH), *t)[1](g)[1].sum(), (0, 1, 2))
    for actual, wanted in zip(second, expected(x, scale, zero_point)):
        torch.testing.assert_close(actual, wanted)


def test_forward_mode_in_all_three(device: str) -> None:
    x, scale, zero_point, _ = sample((3, 5), "along the last dimension", torch.float64, device)
    tangents = tuple(torch.ones_like(t) * size for t, size in ((x, 2.0), (scale, 3.0), (zero_point, 5.0)))
    result: Any = jvp(lambda *t: fake_quantize(*t, LOW, HIGH), (x, scale, zero_point), tangents)
    y, tangent = result
    assert_same_bits(y, fake_quantize(x, scale, zero_point, LOW, HIGH))
    by_x, by_scale, by_zero_point = slopes(x, scale, zero_point)
    torch.testing.assert_close(tangent, 2 * by_x + 3 * by_scale + 5 * by_zero_point)


@pytest.mark.parametrize("function", [fake_quantize, ste.autograd_ops.fake_quantize_fn.apply], ids=["op", "class"])
@pytest.mark.parametrize("inside", ["rounded", "scaled"])
@pytest.mark.parametrize("grad_scale", [0.25, -3, 0.0])
def test_forward_mode_with_a_grad_scale(function: Any, inside: str, grad_scale: float, device: str) -> None:
    """The factor multiplies the tangents of the scale and of the zero point separately, and not that of x."""
    arguments = sample((3, 5), "along the last dimension", torch.float64, device)[:3]
    for i, argument in enumerate(arguments):

        def in_one(tensor: Tensor, factor: float, i: int = i) -> Any:
            given = [tensor if i == j else t for j, t in enumerate(arguments)]
            return function(*given, LOW, HIGH, factor, inside)

        direction = torch.ones_like(argument) * 2
        expected: Any = jvp(lambda t: in_one(t, 1.0), (argument,), (direction,))
        assert expected[1].any()
        wanted = expected[1] * (grad_scale if i > 0 else 1)
        found: Any = jvp(lambda t: in_one(t, grad_scale), (argument,), (direction,))
        torch.testing.assert_close(found[1], wanted)
        with fwAD.dual_level():
            dual = in_one(fwAD.make_dual(argument, direction), grad_scale)
            torch.testing.assert_close(fwAD.unpack_dual(dual).tangent, wanted)


IN_DIMS = [(0, 0, 0), (0, None, None), (None, 0, None), (None, None, 0), (1, 0, None), (-1, None, 0)]


@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
def test_vmap(in_dims: tuple[int | None, ...], device: str) -> None:
    batched: list[Tensor] = []
    calls: list[list[Tensor]] = [[], []]
    for i, (shape, dim) in enumerate(zip([(4, 3), (4, 1), (3,)], in_dims)):
        parts = [sample(shape, "per element", torch.float64, device, seed)[i] for seed in (i, 10 + i)]
        for call, part in zip(calls, parts):
            call.append(parts[0] if dim is None else part)
        batched.append(parts[0] if dim is None else torch.stack(parts, dim))

    def gradients(*arguments: Tensor) -> Any:
        return jacrev(lambda *t: (fake_quantize(*t, LOW, HIGH) ** 2).sum(), (0, 1, 2))(*arguments)

    y = vmap(lambda *t: fake_quantize(*t, LOW, HIGH), in_dims)(*batched)
    assert_same_bits(y, torch.stack([fake_quantize(*call, LOW, HIGH) for call in calls]))
    expected = [torch.stack(each) for each in zip(*(gradients(*call) for call in calls))]
    for actual, wanted in zip(vmap(gradients, in_dims)(*batched), expected):
        torch.testing.assert_close(actual, wanted)


def test_x_and_the_parameters_are_saved_and_nothing_else(device: str) -> None:
    arguments = leaves(*sample((4, 6), "along the last dimension", torch.float16, device)[:3])
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fake_quantize(*arguments, LOW, HIGH)
    assert [t.data_ptr() for t in saved] == [t.data_ptr() for t in arguments]


@EVERY_EXTENT
def test_large_sums(extent: str, device: str) -> None:
    x, scale, zero_point, g = sample((64, 48, 100), extent, torch.float32, device)
    found = []
    for _ in range(3):
        arguments = leaves(x, scale, zero_point)
        found.append(torch.autograd.grad(fake_quantize(*arguments, LOW, HIGH), arguments, g))
    for again in found[1:]:
        for actual, first in zip(again, found[0]):
            assert_same_bits(actual, first)
    by_x, by_scale, by_zero_point = slopes(x, scale, zero_point)
    assert_same_bits(found[0][0], torch.where(by_x > 0, g, 0))
    assert_sums(found[0][1], g.double() * by_scale)
    assert_sums(found[0][2], g.double() * by_zero_point)


@pytest.mark.parametrize("extent", ["per tensor", "per channel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_training(extent: str, dtype: torch.dtype, device: str) -> None:
    x, scale, zero_point, g = sample((8, 6, 32), extent, dtype, device)
    torch.compiler.reset()
    found = []
    for function in (fake_quantize, torch.compile(fake_quantize, fullgraph=True)):
        arguments = leaves(x, scale, zero_point)
        y = function(*arguments, LOW, HIGH, grad_scale=0.5)
        found.append((y, *torch.autograd.grad(y, arguments, g)))
    for actual, expected in zip(found[1][:2], found[0][:2]):
        assert_same_bits(actual, expected, x)
    for actual, expected in zip(found[1][2:], found[0][2:]):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("inside", ["rounded", "scaled"])
@pytest.mark.parametrize("with_zero_point", [False, True])
def test_compiled_gradients_of_what_is_not_finite(with_zero_point: bool, inside: str, device: str) -> None:
    """Each special scale with each x gives the bits of eager mode. One of each: the order of a sum is unspecified."""
    numbers = [math.inf, -math.inf, math.nan, 0.0, -0.0, 0.5, -0.5, 1e-40, 3e38]
    shifts = [0.0, 1.0, math.inf, -math.inf, math.nan] if with_zero_point else [0.0]
    x, scale, zero_point = (
        t.flatten().to(device)
        for t in torch.meshgrid(*(torch.tensor(v) for v in ([*numbers, 1.75], numbers, shifts)), indexing="ij")
    )
    found = []
    for function in (fake_quantize, torch.compile(fake_quantize, fullgraph=True, backend="aot_eager")):
        arguments = leaves(x, scale, *([zero_point] if with_zero_point else []))
        y = function(*arguments, *([] if with_zero_point else [None]), LOW, HIGH, 0.5, inside)
        found.append((y, *torch.autograd.grad(y, arguments, torch.full_like(x, 3.0))))
    assert_same_bits(found[1][0], found[0][0])
    for actual, expected in zip(found[1][1:], found[0][1:]):
        assert_same_bits(actual + 0.0, expected + 0.0)  # the sign of a gradient of 0 is unspecified


@EVERY_DTYPE
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("inside", ["rounded", "scaled"])
def test_infinite_gradients(inside: str, create_graph: bool, dtype: torch.dtype, device: str) -> None:
    """They go to the zero point only where x is outside, and are not NaN elsewhere."""
    x = torch.linspace(-4, 4, 37, device=device).to(dtype)
    g = torch.full_like(x, math.inf)
    wide = torch.promote_types(dtype, torch.float32)
    parameters = torch.ones_like(x, dtype=wide), torch.zeros_like(x, dtype=wide)
    is_inside = x.abs() < 2 if inside == "scaled" else x.round().abs() <= 2
    for call in (fake_quantize, ste.autograd_ops.fake_quantize_fn.apply):
        for of_x in (x, torch.stack([x, x], -1)[:, 0]):
            arguments = [t.detach().requires_grad_() for t in (of_x, *parameters)]
            y = call(*arguments, -2, 2, 1.0, inside)
            to_x, _, to_zero_point = torch.autograd.grad(y, arguments, g, create_graph=create_graph)
            assert_same_bits(to_x, torch.where(is_inside, g, 0), x)
            assert_same_bits(to_zero_point + 0, torch.where(is_inside, 0, -g.to(wide)), x)


# quantize


@EVERY_DTYPE
@EVERY_EXTENT
def test_quantize(extent: str, dtype: torch.dtype, device: str) -> None:
    x, scale, zero_point, g = sample((3, 7, 9), extent, dtype, device)
    wide = torch.promote_types(dtype, torch.float32)
    q = quantize(x, scale, zero_point, LOW, HIGH)
    assert_same_bits(q + 0, ((x.to(wide) / scale.to(wide)).round() + zero_point).clamp(LOW, HIGH).to(dtype) + 0, x)
    y = fake_quantize(x, scale, zero_point, LOW, HIGH)
    assert_same_bits(y, ((q.to(wide) - zero_point.to(wide)) * scale.to(wide)).to(dtype), x)
    arguments = leaves(x, scale, zero_point)
    gradients = torch.autograd.grad(quantize(*arguments, LOW, HIGH), arguments, g)
    by_x, _, _ = slopes(x, scale, zero_point)
    terms = g.double() * by_x
    expected = (terms / scale.double(), -terms * x.double() / scale.double() ** 2, terms)
    for actual, wanted, argument in zip(gradients, expected, arguments):
        tolerance = 32 * torch.finfo(dtype).eps
        torch.testing.assert_close(
            actual.double(), wanted.sum_to_size(argument.shape), rtol=tolerance, atol=tolerance * 10
        )


def test_quantize_has_no_negative_zero(device: str) -> None:
    x = torch.tensor([-0.25, -0.0, 0.0, 0.25], device=device)
    for function in (quantize, fake_quantize):
        assert not function(x, torch.tensor(1.0, device=device), None, 0, 15).signbit().any()


def test_to_integers_and_back(device: str) -> None:
    x, scale, _, _ = sample((5, 6), "along the last dimension", torch.float32, device)
    zero_point = torch.full((6,), 3, dtype=torch.uint8, device=device)
    q = quantize(x, scale, zero_point, 0, 15).to(torch.uint8)
    y = (q.float() - zero_point.float()) * scale
    assert_same_bits(y, fake_quantize(x, scale, zero_point, 0, 15))


class Scripted(torch.nn.Module):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        factor = ste.lsq_grad_scale(x, scale, 7)
        return ste.fake_quantize(x, scale, None, -8, 7, grad_scale=factor) + ste.quantize(x, scale, None, -8, 7)


def test_script() -> None:
    x, scale, _, g = sample((4, 6), "along the last dimension", torch.float32, "cpu")
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Scripted()), buffer)
    buffer.seek(0)
    found = []
    for module in (Scripted(), torch.jit.load(buffer)):
        arguments = leaves(x, scale)
        y = module(*arguments)
        found.append((y, *torch.autograd.grad(y, arguments, g)))
    for actual, expected in zip(*found):
        assert_same_bits(actual, expected)


# lsq_grad_scale


def test_lsq_grad_scale() -> None:
    x = torch.empty(8, 4, 3, 3)
    assert ste.lsq_grad_scale(x, torch.empty(()), 7) == pytest.approx(1 / math.sqrt(288 * 7))
    assert ste.lsq_grad_scale(x, torch.empty(8, 1, 1, 1), 7) == pytest.approx(1 / math.sqrt(36 * 7))
    assert ste.lsq_grad_scale(x[:0], torch.empty(1), 7) == 1
    for arguments, error, message in [
        ((None, x, 7), TypeError, "x must be a Tensor, got NoneType"),
        ((x, 0.5, 7), TypeError, "scale must be a Tensor, got float; torch.tensor makes one from a number"),
        ((x, x, "7"), TypeError, "quant_max must be a number, got str"),
        ((x, x, 0), ValueError, "quant_max must be positive, got 0"),
        ((x, x[:0], 7), ValueError, "scale may not be empty"),
    ]:
        with pytest.raises(error, match=f"^lsq_grad_scale: {message}$"):
            ste.lsq_grad_scale(*arguments)  # type: ignore[arg-type]  # wrong on purpose
