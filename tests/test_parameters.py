"""The arguments beside x: numbers instead of tensors, one element for any shape, a scalar on the CPU, an axis."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bits import assert_same_bits
from torch import Tensor

import ste

APPLY: dict[str, Any] = {name: getattr(ste.autograd_ops, name).apply for name in ste.autograd_ops.__all__}
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
CLAMPS = [ste.tensor_clamp_ste, ste.tensor_clamp]


def sample(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "number", [0.3, 2, np.float32(0.3), np.float64(0.3), np.int64(2)], ids=lambda n: type(n).__name__
)
def test_a_number_is_a_scale_without_a_gradient(dtype: torch.dtype, number: Any) -> None:
    x = sample(5, 7).to(dtype).requires_grad_()
    scale = torch.tensor(float(number), dtype=torch.promote_types(dtype, torch.float32))
    y = ste.fake_quantize(x, number, None, -8, 7)
    assert_same_bits(y, ste.fake_quantize(x, scale, None, -8, 7))
    assert_same_bits(ste.quantize(x, number, None, -8, 7), ste.quantize(x, scale, None, -8, 7))
    assert_same_bits(APPLY["fake_quantize_fn"](x, number, None, -8, 7), y)
    y.sum().backward()
    (expected,) = torch.autograd.grad(ste.fake_quantize(x, scale, None, -8, 7).sum(), x)
    assert x.grad is not None
    assert_same_bits(x.grad, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("function", [ste.fake_quantize, APPLY["fake_quantize_fn"]], ids=["op", "class"])
def test_parameters_of_another_dtype_may_lie_apart(function: Callable[..., Tensor], dtype: torch.dtype) -> None:
    """Parameters are converted to the dtype of the computation, even if their elements are not adjacent in memory."""
    x, g = sample(5, 3).to(dtype), sample(3, 5).mT.to(dtype)
    scale, zero_point = torch.tensor([0.3, 0.5, 2.0]), torch.tensor([1.0, 0.0, -2.0])
    found = []
    for lying in (torch.clone, lambda t: torch.stack([t, t + 7], -1).flatten()[::2]):
        parameters = [lying(t).requires_grad_() for t in (scale, zero_point)]
        y = function(x, *parameters, -8, 7)
        found.append((y, *torch.autograd.grad(y, parameters, g)))
    for dense, apart in zip(*found):
        assert_same_bits(apart, dense)


def test_a_number_under_transforms() -> None:
    x = sample(4, 3)
    scale = torch.tensor(0.3)

    def loss(x: Tensor, scale: Any) -> Tensor:
        return (ste.fake_quantize(x, scale, None, -8, 7) * ste.quantize(x, scale, None, -8, 7)).sum()

    for transform in (torch.func.grad, lambda f: torch.func.vmap(torch.func.grad(f), (0, None))):
        assert_same_bits(transform(loss)(x, 0.3), transform(loss)(x, scale))
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for number in (0.3, np.float32(0.3)):
        assert_same_bits(compiled(x, number), loss(x, torch.tensor(float(number))))


def test_the_default_grid_is_that_of_int8() -> None:
    x = torch.tensor([-200.0, 3.4, 200.0])
    assert ste.fake_quantize(x, 1.0).tolist() == ste.quantize(x, 1.0).tolist() == [-128, 3, 127]


@pytest.mark.parametrize("bits", [2, 8, np.int8(4)], ids=str)
def test_the_ends_may_be_what_max_int_returns(bits: Any) -> None:
    x, scale = sample(64), torch.tensor(0.01)
    low, high = ste.min_int(True, False, int(bits)), ste.max_int(True, int(bits))
    for function in (ste.fake_quantize, ste.quantize, APPLY["fake_quantize_fn"]):
        call: Callable[..., Tensor] = function
        assert_same_bits(call(x, scale, None, low, high), call(x, scale, None, int(low), int(high)))
    assert ste.lsq_grad_scale(x, scale, high) == ste.lsq_grad_scale(x, scale, int(high))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("low", "high"), [(-(2**31), 2**31 - 1), (-(2**63), 2**63 - 1), (-(2**31) + 1, 0), (1, 2**24 + 1)]
)
def test_no_result_lies_beyond_the_ends(dtype: torch.dtype, low: int, high: int) -> None:
    wide = torch.promote_types(dtype, torch.float32)
    x = torch.tensor([math.inf, -math.inf, 3e4], dtype=dtype)
    one = torch.tensor(1.0, dtype=wide)
    for y in (
        ste.quantize(x.to(wide), one, None, low, high),
        ste.fake_quantize(x.to(wide), one, None, low, high),
        torch.compile(ste.fake_quantize, backend="aot_eager", fullgraph=True)(x.to(wide), one, None, low, high),
        torch.jit.script(ste.quantize)(x.to(wide), one, None, low, high),
    ):
        values = [int(value) for value in y]
        assert all(low <= value <= high for value in values)
        # The largest and the smallest numbers.
        up, down = (torch.nextafter(y, torch.tensor(end, dtype=wide)) for end in (math.inf, -math.inf))
        assert values[0] == high or int(up[0]) > high
        assert values[1] == low or int(down[1]) < low


ONE_ELEMENT = pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1, 1)], ids=str)


@ONE_ELEMENT
@pytest.mark.parametrize("shape_of_x", [(), (5,), (2, 3)], ids=str)
def test_one_element_serves_x_of_any_shape(shape: tuple[int, ...], shape_of_x: tuple[int, ...]) -> None:
    x = sample(*shape_of_x)
    g = torch.ones_like(x)

    def check(function: Callable[..., Tensor], *values: float) -> None:
        with_scalars = [torch.tensor(value, requires_grad=True) for value in values]
        given = [torch.full(shape, value, requires_grad=True) for value in values]
        y = function(x, *given)
        assert_same_bits(y, function(x, *with_scalars))
        assert_same_bits(torch.func.vmap(function, (0, *[None] * len(given)))(x[None], *given)[0], y)
        assert_same_bits(torch.func.vmap(function)(x[None], *(t[None] for t in given))[0], y)
        if y.requires_grad:
            of_given = torch.autograd.grad(y, given, g)
            of_scalars = torch.autograd.grad(function(x, *with_scalars), with_scalars, g)
            assert [t.shape for t in of_given] == [torch.Size(shape)] * len(given)
            assert_same_bits(torch.stack([t.reshape(()) for t in of_given]), torch.stack(of_scalars))
            tangent = torch.func.jvp(lambda *t: function(x, *t), tuple(t.detach() for t in given), of_given)[1]
            assert tangent.shape == x.shape

    for clamp in CLAMPS:
        check(clamp, -1.0, 2.0)
    check(lambda x, s, z: ste.fake_quantize(x, s, z, -8, 7, 0.5), 0.3, 1.0)
    check(lambda x, s, z: ste.fake_quantize(x, s, z, -8, 7, 0.5, "scaled"), 0.3, 1.0)
    check(lambda x, s, z: ste.quantize(x, s, z, -8, 7), 0.3, 1.0)
    check(lambda *t: APPLY["fake_quantize_fn"](*t, -8, 7, 0.5), 0.3, 1.0)
    check(lambda *t: APPLY["tensor_clamp_fn"](*t), -1.0, 2.0)


def test_a_scalar_on_the_cpu_beside_x_on_another_device() -> None:
    x = torch.empty(3, 4, device="meta", requires_grad=True)
    low, high, scale, zero_point = (torch.tensor(value) for value in (-1.0, 2.0, 0.3, 1.0))
    for y in (
        ste.tensor_clamp(x, low, high),
        ste.tensor_clamp_ste(x, low, high),
        ste.fake_quantize(x, scale, zero_point, -8, 7),
        ste.fake_quantize(x, 0.3, None, -8, 7),
        ste.quantize(x, scale, zero_point, -8, 7),
    ):
        assert y.shape == x.shape and y.is_meta
        y.backward(torch.empty_like(y))
    with pytest.raises(RuntimeError, match="min_val is on cpu, but x is on meta"):
        ste.tensor_clamp(x, low.expand(4), high)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("with_zero_point", [False, True])
def test_axis(axis: int, with_zero_point: bool) -> None:
    x = sample(3, 3, 3).requires_grad_()
    scale = torch.tensor([0.2, 0.5, 1.0], requires_grad=True)
    zero_point = torch.tensor([1.0, 0.0, -2.0], requires_grad=True) if with_zero_point else None
    shape = [1, 1, 1]
    shape[axis] = 3
    parameters = [scale] if zero_point is None else [scale, zero_point]

    def results(function: Callable[..., Tensor], **options: Any) -> list[Tensor]:
        shaped = [t.reshape(shape) if not options else t for t in parameters]
        y = function(x, *shaped, *[None] * (2 - len(shaped)), -8, 7, **options)
        return [y, *torch.autograd.grad(y, [x, *parameters], torch.ones_like(y))]

    for function in (ste.fake_quantize, ste.quantize):
        for ours, expected in zip(results(function, axis=axis), results(function)):
            assert_same_bits(ours, expected)
    batched = torch.func.vmap(lambda t: ste.fake_quantize(t, scale, zero_point, -8, 7, axis=axis))(x[None])
    assert_same_bits(batched[0], results(ste.fake_quantize)[0])
    compiled = torch.compile(ste.fake_quantize, backend="aot_eager", fullgraph=True)
    assert_same_bits(compiled(x, scale, zero_point, -8, 7, axis=axis), results(ste.fake_quantize)[0])
    scripted: Any = torch.jit.script(ste.fake_quantize)
    assert_same_bits(scripted(x, scale, zero_point, -8, 7, axis=axis), results(ste.fake_quantize)[0])


def test_axis_of_one_number() -> None:
    x = sample(3, 4)
    for scale in (torch.tensor(0.5), torch.tensor([0.5])):
        assert_same_bits(ste.fake_quantize(x, scale, axis=0), ste.fake_quantize(x, 0.5, axis=1))


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((4,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        factor = ste.lsq_grad_scale(x, self.scale, 7)
        y = ste.fake_quantize(x, self.scale, None, -8, 7, factor, axis=1)
        return y + ste.quantize(x, self.scale, None, -8, 7, axis=1)


def test_fx_and_torch_function() -> None:
    x = sample(2, 4, 3)
    traced = torch.fx.symbolic_trace(Layer())
    assert_same_bits(traced(x), Layer()(x))
    assert {node.target for node in traced.graph.nodes if node.op == "call_function"} >= {
        ste.fake_quantize,
        ste.quantize,
        ste.lsq_grad_scale,
    }


@pytest.mark.parametrize("name", sorted(ste.autograd_ops.__all__))
def test_the_classes_under_a_compiler_are_the_ops(name: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "scalar_clamp_ste_fn": (-1.0, 1.0),
        "tensor_clamp_ste_fn": (torch.tensor(-1.0), torch.tensor(1.0)),
        "tensor_clamp_fn": (torch.tensor(-1.0), torch.tensor(1.0)),
        "fake_quantize_fn": (torch.tensor(0.5), None, -2, 2),
        "fake_quantize_float_fn": (torch.tensor(0.5), "e2m1fn"),
        "fake_quantize_blocks_fn": ("e2m1fn", 1, "floor"),
        "stochastic_round_ste_fn": (torch.full((5,), 0.25),),
    }
    function = getattr(ste.autograd_ops, name)
    bound = function.apply
    hard = torch.arange(5.0)

    def loss(x: Tensor) -> Any:
        inputs = (hard, x) if name == "straight_through_fn" else (x, *arguments.get(name, ()))
        return (function.apply(*inputs) * bound(*inputs)).sum()

    x = sample(5)
    expected = torch.func.grad(loss)(x)
    assert expected.abs().sum() > 0
    for transformed in (torch.func.grad(loss), lambda x: torch.func.vmap(torch.func.grad(loss))(x[None])[0]):
        assert_same_bits(torch.compile(transformed, backend="aot_eager", fullgraph=True)(x), expected)
    leaf = x.clone().requires_grad_()
    torch.compile(loss, backend="aot_eager", fullgraph=True)(leaf).backward()
    assert leaf.grad is not None
    assert_same_bits(leaf.grad, expected)
