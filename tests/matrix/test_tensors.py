"""Tensors that are more than a plain one."""

import warnings
from typing import Any

import pytest
import torch
from subjects import DISTINCT_OPS, OPS, Op, X
from torch import Tensor

row = pytest.mark.row
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
G = torch.tensor([1.0, -2.0, 3.0, 4.0])


NO_TERNARY_OPERATION = "torch 2.6 has no pointwise operation of three arguments on jagged tensors"


@row("jagged nested tensors")
@EVERY_OP
@pytest.mark.refused(
    NO_TERNARY_OPERATION,
    error="NotImplementedError",
    backend="native",
    torch="<2.13",
    where=lambda p: p["op"].name.startswith("tensor_clamp"),
)
@pytest.mark.refused(
    NO_TERNARY_OPERATION,
    error="NotImplementedError",
    backend="python",
    torch="<2.13",
    where=lambda p: p["op"].name == "tensor_clamp_ste",
)
@pytest.mark.refused(
    "PyTorch takes the second argument of an operation on a jagged tensor and another tensor for that tensor; without "
    "alpha it holds",
    error="'float' object has no attribute 'dim'|NotImplementedError",
    where=lambda p: "clipped" in p["op"].arguments,
)
def test_jagged(op: Op) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors is in prototype stage")
        flat = torch.stack([X, X / 2, X * 2 + 0.25])
        x: Any = torch.nested.nested_tensor([flat[:1], flat[1:]], layout=torch.jagged, requires_grad=True)
    arguments = tuple(
        torch.nested.nested_tensor_from_jagged(a, x.offsets()) if isinstance(a, Tensor) and a.shape == flat.shape else a
        for a in op.arguments_for(flat)
    )
    y: Any = op.function(x, *arguments)
    assert y.is_nested and torch.equal(y.values(), op.expected(flat))
    gradient: Any
    (gradient,) = torch.autograd.grad(y.values(), x, G.expand(3, 4))
    assert torch.equal(gradient.values(), op.gradient(flat, G.expand(3, 4)))


class Tagged(Tensor):
    """A subclass that checks only that ops return it again."""


@row("a subclass of `Tensor`")
@EVERY_OP
def test_subclass(op: Op) -> None:
    x = X.clone().as_subclass(Tagged).requires_grad_()
    y = op.function(x, *op.arguments_for(X))
    assert type(y) is Tagged
    assert torch.equal(y.as_subclass(Tensor), op.expected(X))
    (gradient,) = torch.autograd.grad(y, x, G)
    assert torch.equal(gradient.as_subclass(Tensor), op.gradient(X, G))


@row("`nn.Parameter`, views, and an expanded x")
@EVERY_OP
def test_views(op: Op) -> None:
    parameter = torch.nn.Parameter(torch.stack([X, X / 2]))
    op(parameter[0]).backward(G)
    assert parameter.grad is not None
    assert torch.equal(parameter.grad, torch.stack([op.gradient(X, G), torch.zeros(4)]))
    x = X[:1].clone().requires_grad_()
    expanded = x.expand(3, 4)
    y = op(expanded)
    assert torch.equal(y, op.expected(expanded))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, op.slope(expanded.detach()).sum().reshape(1))


@row("the `meta` device and `FakeTensorMode`: shapes, dtypes and gradients without values")
@pytest.mark.parametrize("op", DISTINCT_OPS, ids=str)
def test_without_values(op: Op) -> None:
    for mode in (torch.device("meta"), torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True)):
        with mode:
            x = torch.empty(2, 4, dtype=torch.bfloat16, requires_grad=True)
            y = op(x)
            (gradient,) = torch.autograd.grad(y.sum(), x)
        for tensor in (y, gradient):
            assert tensor.shape == (2, 4) and tensor.dtype == torch.bfloat16 and tensor.device == x.device


@row("empty tensors and tensors without dimensions")
@EVERY_OP
def test_empty_and_scalar(op: Op) -> None:
    for value in (torch.empty(0, 4), torch.tensor(0.25)):
        x = value.clone().requires_grad_()
        y = op(x)
        assert torch.equal(y, op.expected(value))
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(gradient, op.slope(value))
