"""Bounds may have any shape that broadcasts to x's, and no other."""

import pytest
import torch
from bits import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from op_table import DISTINCT_OPS, Op
from torch import Tensor

import ste

CLAMPS = pytest.mark.parametrize("name", ["tensor_clamp", "tensor_clamp_ste"])
SHAPES = st.lists(st.integers(0, 4), max_size=4)
VALUES = st.integers(0, 2**31 - 1)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[list[int], list[list[int]]]:
    """A shape for x, and two that broadcast to it: its trailing dimensions, some of them 1."""
    x = draw(SHAPES)
    bounds = []
    for _ in range(2):
        trailing = x[draw(st.integers(0, len(x))) :]
        bounds.append([draw(st.sampled_from((1, size))) for size in trailing])
    return x, bounds


@CLAMPS
@given(shapes=shapes(), seed=VALUES)
def test_any_shape_that_broadcasts(name: str, shapes: tuple[list[int], list[list[int]]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, low, high = (torch.randn(s, generator=generator) for s in (shapes[0], *shapes[1]))
    clamp = getattr(ste, name)
    y = clamp(x, low, high)
    assert_same_bits(y, torch.minimum(torch.maximum(x, low), high), x)
    full = [b.expand(x.shape).contiguous() for b in (low, high)]
    assert_same_bits(y, clamp(x, *full), x)


@given(shapes=shapes(), seed=VALUES)
def test_gradients_have_the_shapes_of_the_bounds(shapes: tuple[list[int], list[list[int]]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, low, high = (torch.randn(s, generator=generator).double().requires_grad_() for s in (shapes[0], *shapes[1]))
    g = torch.randn(shapes[0], generator=generator).double()
    actual = torch.autograd.grad(ste.tensor_clamp(x, low, high), (x, low, high), g)
    # Between distinct numbers torch.where has the same gradients; if low > high, all of it goes to high.
    composed = torch.where(x > high, high, torch.where(x < low, torch.where(low > high, high, low), x))
    composed = torch.where(low > high, high, composed)
    expected = torch.autograd.grad(composed, (x, low, high), g)
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e)


@CLAMPS
@given(x=SHAPES, bound=SHAPES, is_min=st.booleans())
def test_a_bound_that_would_enlarge_the_result_is_refused(
    name: str, x: list[int], bound: list[int], is_min: bool
) -> None:
    clamp, fits, given = getattr(ste, name), torch.zeros(()), torch.zeros(bound)
    bounds: tuple[Tensor, Tensor] = (given, fits) if is_min else (fits, given)
    try:
        broadcasts = given.numel() == 1 or list(torch.broadcast_shapes(x, bound)) == x
    except RuntimeError:
        broadcasts = False
    if broadcasts:
        assert list(clamp(torch.zeros(x), *bounds).shape) == x
    else:
        with pytest.raises(RuntimeError) as error:
            clamp(torch.zeros(x), *bounds)
        which = "min_val" if is_min else "max_val"
        message = f"{name}: {which} of shape {bound} does not broadcast to x's shape {x}"
        if len(bound) == 1 and bound[0] in x:
            dim = x.index(bound[0])
            shape = [bound[0], *[1] * (len(x) - dim - 1)]
            message += f"; for one {which} per index of dimension {dim}, give it shape {shape}"
        assert str(error.value) == message


@CLAMPS
def test_a_bound_that_would_enlarge_is_refused_under_vmap_too(name: str, device: str) -> None:
    x, low, high = torch.randn(2, 3, device=device), torch.randn(2, 4, 3, device=device), torch.zeros((), device=device)
    with pytest.raises(RuntimeError, match=rf"{name}: min_val of shape \[4, 3\] does not broadcast to x's shape \[3\]"):
        torch.vmap(getattr(ste, name), in_dims=(0, 0, None))(x, low, high)


@pytest.mark.parametrize("op", DISTINCT_OPS, ids=str)
def test_vmap_over_nothing(op: Op, device: str) -> None:
    """Both x and the bounds may be batched, or only a bound."""
    for shape, dim in (((0, 3), 0), ((3, 0), 1), ((0,), 0)):
        x = torch.ones(shape, device=device)
        assert torch.func.vmap(op, dim, dim)(x).shape == shape
    x = torch.ones(3, device=device)
    bounds = [a.expand(0, *a.shape) if isinstance(a, Tensor) else a for a in op.arguments_for(x)]
    in_dims = [0 if isinstance(a, Tensor) else None for a in bounds]
    if any(dim is not None for dim in in_dims):
        assert torch.func.vmap(op.function, (None, *in_dims))(x, *bounds).shape == (0, 3)
