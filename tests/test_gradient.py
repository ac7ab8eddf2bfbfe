"""Gradients match the contract: first and second order, backward and forward mode."""

import gc
import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from bits import assert_same_bits, values
from op_table import (
    DISTINCT_OPS,
    FLOATING,
    INTEGER,
    INTEGER_OPS,
    OPS,
    STRAIGHT_THROUGH_OPS,
    Op,
    clamp_gradient,
    in_float64,
)
from torch import Tensor

import ste

EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
EVERY_STE = pytest.mark.parametrize("op", STRAIGHT_THROUGH_OPS, ids=str)


@EVERY_OP
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_gradient_to_x_at_every_value(op: Op, dtype: torch.dtype, device: str) -> None:
    x = values(dtype, device).requires_grad_()
    g = torch.linspace(-3, 3, x.numel(), dtype=torch.float64, device=device).to(dtype)
    (gradient,) = torch.autograd.grad(op(x), x, g)
    assert_same_bits(gradient, op.gradient(x, g), x)


@EVERY_STE
def test_gradient_is_the_tensor_that_came_in(op: Op, device: str) -> None:
    x = torch.tensor([0.3, -2.5], device=device, requires_grad=True)
    g = torch.tensor([3.0, float("nan")], device=device)
    (gradient,) = torch.autograd.grad(op(x), x, g)
    assert gradient.data_ptr() == g.data_ptr()


@EVERY_STE
def test_nothing_is_saved(op: Op, device: str) -> None:
    saved: list[Tensor] = []
    x = torch.randn(8, device=device, requires_grad=True)

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = op(x)
    assert not saved
    intermediate = x * 2
    y = op(intermediate)
    gone = weakref.ref(intermediate)
    del intermediate
    gc.collect()
    # The multiplication's own node does not keep its result: if anything does, it is the op.
    assert gone() is None
    y.sum().backward()


@EVERY_OP
def test_requires_grad_exactly_when_x_does(op: Op, device: str) -> None:
    x = torch.randn(4, 3, device=device)
    assert not op(x).requires_grad
    x.requires_grad_()
    assert op(x).requires_grad
    assert not op(x.detach()).requires_grad
    with torch.no_grad():
        assert not op(x).requires_grad


def test_bounds_of_a_straight_through_clamp_get_no_gradient(device: str) -> None:
    x = torch.randn(4, device=device)
    low, high = (torch.tensor(b, device=device, requires_grad=True) for b in (-1.0, 1.0))
    assert not ste.tensor_clamp_ste(x, low, high).requires_grad
    y = ste.tensor_clamp_ste(x.requires_grad_(), low, high)
    gradients = torch.autograd.grad(y.sum(), (x, low, high), allow_unused=True)
    assert gradients[0] is not None
    assert all(gradient is None for gradient in gradients[1:])
    with fwAD.dual_level():
        dual = fwAD.make_dual(low.detach(), torch.ones_like(low))
        tangent = fwAD.unpack_dual(ste.tensor_clamp_ste(x.detach(), dual, high.detach())).tangent
        assert tangent is None or not tangent.any()


@pytest.mark.parametrize("dtype", INTEGER, ids=str)
@pytest.mark.parametrize("op", [op for op in DISTINCT_OPS if op in INTEGER_OPS], ids=str)
def test_integers_take_no_part_in_autograd(op: Op, dtype: torch.dtype, device: str) -> None:
    if op.name == "binary_sign_ste":
        y = ste.binary_sign_ste(torch.arange(3, dtype=dtype, device=device))
    elif "tensor_clamp" in op.name:
        low, high = (torch.tensor(b, device=device, requires_grad=True) for b in (0.0, 1.0))
        y = op.function(torch.arange(3, dtype=dtype, device=device), low, high)
    else:
        y = op(torch.arange(3, dtype=dtype, device=device))
    assert not y.requires_grad


@EVERY_OP
def test_second_derivative(op: Op, device: str) -> None:
    x = torch.tensor([-3.3, -0.6, 0.4, 1.7], dtype=torch.float64, device=device, requires_grad=True)
    (first,) = torch.autograd.grad((op(x) ** 2).sum(), x, create_graph=True)
    inside = op.gradient(x, torch.ones_like(x))
    assert torch.equal(first, 2 * op(x) * inside)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(second, 2 * inside)


@EVERY_OP
def test_gradient_on_the_meta_device(op: Op) -> None:
    x = torch.randn(2, 3, device="meta", requires_grad=True)
    y = op(x)
    assert y.device == x.device and y.shape == x.shape and y.requires_grad
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.shape == x.shape and gradient.device == x.device


# tensor_clamp's gradients to its bounds.


@pytest.mark.parametrize("low_shape", [(), (1,), (5,), (4, 1), (3, 1, 1), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("high_shape", [(), (4, 5)], ids=str)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("bounds_dtype", FLOATING, ids=str)
def test_tensor_clamp_gradients(
    low_shape: tuple[int, ...], high_shape: tuple[int, ...], dtype: torch.dtype, bounds_dtype: torch.dtype, device: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randint(-8, 9, shape, generator=generator) / 4 for shape in ((3, 4, 5), low_shape, high_shape)]
    x, low, high = (t.to(device, d).requires_grad_() for t, d in zip(draw, (dtype, bounds_dtype, bounds_dtype)))
    # Small integers: their sums are exact in every dtype and in any order.
    g = torch.randint(-3, 4, x.shape, generator=generator).to(device, dtype)
    gradients = torch.autograd.grad(ste.tensor_clamp(x, low, high), (x, low, high), g)
    for tensor, gradient, mask in zip((x, low, high), gradients, clamp_gradient(*map(in_float64, (x, low, high)))):
        part = torch.where(torch.from_numpy(mask).to(device), g.double(), 0)
        assert_same_bits(gradient, part.sum_to_size(tensor.shape).to(tensor.dtype))


def test_tensor_clamp_at_a_bound_and_between_reversed_bounds(device: str) -> None:
    x = torch.tensor([-1.0, 1.0, 0.0, 5.0], device=device, requires_grad=True)
    low = torch.tensor([-1.0, -1.0, 2.0, 2.0], device=device, requires_grad=True)
    high = torch.tensor([1.0, 1.0, 1.0, 1.0], device=device, requires_grad=True)
    gradients = torch.autograd.grad(ste.tensor_clamp(x, low, high).sum(), (x, low, high))
    assert [g.tolist() for g in gradients] == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]


def test_tensor_clamp_forward_mode_in_the_bounds(device: str) -> None:
    x = torch.tensor([-2.0, 0.0, 2.0], device=device)
    low, high = torch.tensor(-1.0, device=device), torch.tensor(1.0, device=device)
    one = torch.ones((), device=device)
    tangents = (torch.ones(3, device=device) * 5, one * 7, one * 9)
    tangent = torch.func.jvp(ste.tensor_clamp, (x, low, high), tangents)[1]
    assert tangent.tolist() == [7, 5, 9]


ALL_OR_SOME = [needed for needed in itertools.product([False, True], repeat=3) if any(needed)]


@pytest.mark.parametrize("needed", ALL_OR_SOME, ids=lambda n: "".join("-x"[i] for i in n))
@pytest.mark.parametrize("name", ["tensor_clamp", "fake_quantize"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_some_arguments_alone_require_grad(
    needed: tuple[bool, ...], name: str, create_graph: bool, device: str
) -> None:
    """Each argument gets the same gradient whichever others need one, in any shape that broadcasts to x."""
    x = torch.linspace(-4, 4, 6 * 40, device=device).reshape(6, 40)
    values, rest = ((-1.0, 2.0), ()) if name == "tensor_clamp" else ((0.5, 1.0), (-4, 3))

    def gradients(shape: tuple[int, ...], requires_grad: Sequence[bool]) -> list[Tensor | None]:
        tensors = [x.clone(), *(torch.full(shape, value, device=device) for value in values)]
        leaves = [t.requires_grad_() for t, is_needed in zip(tensors, requires_grad) if is_needed]
        y = getattr(ste, name)(*tensors, *rest)
        found = iter(torch.autograd.grad(y.sum(), leaves, create_graph=create_graph))
        return [next(found) if t.requires_grad else None for t in tensors]

    for shape in ((), (40,), (6, 1), (6, 40)):
        for one, of_all, is_needed in zip(gradients(shape, needed), gradients(shape, (True, True, True)), needed):
            assert (one is not None) == is_needed
            if one is not None and of_all is not None:
                assert of_all.any()
                assert_same_bits(one, of_all)


@EVERY_OP
def test_a_dual_tensor_through_the_dispatcher(op: Op, device: str) -> None:
    """The op as C++ programs and TorchScript call it."""
    x = torch.tensor([-3.25, -0.75, 0.5, 1.75], device=device)
    tangent = torch.tensor([1.0, 2.0, 3.0, 4.0], device=device)
    for call in (op.overload, getattr(torch.ops.ste, op.name)):
        with fwAD.dual_level():
            dual = fwAD.make_dual(x, tangent)
            y = fwAD.unpack_dual(call(*op.in_order(dual, *op.arguments_for(x))))
            assert_same_bits(y.primal, op.expected(x))
            assert_same_bits(y.tangent, op.gradient(x, tangent))


def test_gradients_of_whole_precision_are_summed_in_the_widest_dtype(device: str) -> None:
    x = torch.full((100_000,), 2.0, dtype=torch.float16, device=device)
    high = torch.tensor(1.0, dtype=torch.float32, device=device, requires_grad=True)
    low = torch.tensor(0.0, dtype=torch.float32, device=device)
    ste.tensor_clamp(x, low, high).backward(torch.ones_like(x))
    assert high.grad is not None and high.grad.item() == 100_000  # beyond the range of float16


def test_class_of_the_straight_through_clamp_gives_bounds_no_gradient(device: str) -> None:
    x = torch.randn(4, device=device)
    low, high = (torch.tensor(b, device=device, requires_grad=True) for b in (-1.0, 1.0))
    apply: Any = ste.autograd_ops.tensor_clamp_ste_fn.apply
    assert not apply(x, low, high).requires_grad
    assert apply(x.requires_grad_(), low, high).requires_grad
    with fwAD.dual_level():
        dual = fwAD.make_dual(x.detach(), torch.ones_like(x))
        assert torch.equal(fwAD.unpack_dual(apply(dual, low, high)).tangent, torch.ones_like(x))
