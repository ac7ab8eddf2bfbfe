"""torch.func by value, eager and compiled. torch.library.opcheck passes on ops that are silently zero here."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_table import OPS, STRAIGHT_THROUGH_OPS, Op
from test_gradient import expected_gradient
from torch import Tensor, vmap
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp

import ste

Function = Callable[..., Any]


def eagerly(function: Function) -> Function:
    return function


def compiled(function: Function) -> Function:
    return torch.compile(function, fullgraph=True, backend="aot_eager")


EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
EVERY_STE = pytest.mark.parametrize("op", STRAIGHT_THROUGH_OPS, ids=str)
EVERY_MODE = pytest.mark.parametrize("mode", [eagerly, compiled])

X = torch.tensor([-3.3, -0.6, 0.4, 1.7])


def sum_of_squares(op: Op, x: Tensor) -> tuple[Function, Tensor, Tensor]:
    """The function t -> sum(op(t)**2), its gradient, and the diagonal of its Hessian (the rest is zero)."""
    inside = expected_gradient(op, x, torch.ones_like(x))
    return (lambda t: (op(t) ** 2).sum()), 2 * op(x) * inside, 2 * inside


@EVERY_OP
@EVERY_MODE
def test_grad(op: Op, mode: Function, device: str) -> None:
    x = X.to(device)
    f, first, _ = sum_of_squares(op, x)
    assert torch.equal(mode(grad(f))(x), first)
    assert torch.equal(mode(lambda t: vjp(f, t)[1](torch.ones((), device=device))[0])(x), first)


@EVERY_OP
@EVERY_MODE
def test_jvp(op: Op, mode: Function, device: str) -> None:
    x = X.to(device)
    tangent = torch.tensor([1.0, 2.0, 3.0, 4.0], device=device)
    y, y_tangent = mode(lambda t, v: jvp(op, (t,), (v,)))(x, tangent)
    assert torch.equal(y, op(x))
    assert torch.equal(y_tangent, expected_gradient(op, x, tangent))


@EVERY_OP
@EVERY_MODE
def test_vmap_of_grad_and_grad_of_vmap(op: Op, mode: Function, device: str) -> None:
    x = X.to(device)
    f, _, _ = sum_of_squares(op, x)
    rows = torch.stack([x, x + 1, x - 1])
    expected = torch.stack([sum_of_squares(op, row)[1] for row in rows])
    assert torch.equal(mode(vmap(grad(f)))(rows), expected)

    def total(t: Tensor) -> Any:
        return vmap(f)(t).sum()

    assert torch.equal(mode(grad(total))(rows), expected)


@EVERY_OP
@EVERY_MODE
@pytest.mark.parametrize("outer", [jacfwd, jacrev])
@pytest.mark.parametrize("inner", [jacfwd, jacrev])
def test_hessians(op: Op, outer: Function, inner: Function, mode: Function, device: str) -> None:
    x = X.to(device)
    f, _, diagonal = sum_of_squares(op, x)
    assert torch.equal(mode(outer(inner(f)))(x), torch.diag(diagonal))


@EVERY_OP
@EVERY_MODE
def test_hessian(op: Op, mode: Function, device: str) -> None:
    x = X.to(device)
    f, _, diagonal = sum_of_squares(op, x)
    assert torch.equal(mode(hessian(f))(x), torch.diag(diagonal))


@EVERY_OP
@EVERY_MODE
def test_three_levels(op: Op, mode: Function, device: str) -> None:
    x = X.to(device)
    f, first, diagonal = sum_of_squares(op, x)
    rows = torch.stack([x, x])
    ones = torch.ones_like(rows)
    values, tangents = mode(lambda t, v: jvp(vmap(grad(f)), (t,), (v,)))(rows, ones)
    assert torch.equal(values, torch.stack([first, first]))
    assert torch.equal(tangents, torch.stack([diagonal, diagonal]))
    assert torch.equal(grad(lambda t: vmap(grad(f))(t).sum())(rows), torch.stack([diagonal, diagonal]))
    assert torch.equal(vmap(hessian(f))(rows), torch.stack([torch.diag(diagonal)] * 2))
    assert torch.equal(hessian(lambda t: vmap(f)(t[None]).sum())(x), torch.diag(diagonal))


def test_hessian_of_a_square_is_twice_the_identity(device: str) -> None:
    x = torch.randn(5, device=device)
    assert torch.equal(torch.func.hessian(lambda t: (ste.round_ste(t) ** 2).sum())(x), 2 * torch.eye(5, device=device))


@EVERY_STE
@EVERY_MODE
def test_gradient_where_x_is_not_finite(op: Op, mode: Function, device: str) -> None:
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.5], device=device)

    def f(t: Tensor) -> Any:
        return (op(t) * 3).sum()

    assert torch.equal(mode(grad(f))(x), torch.full_like(x, 3))


@EVERY_OP
def test_no_grad_inside_a_transform_is_for_the_inner_level_only(op: Op, device: str) -> None:
    x = X.to(device)
    _, first, _ = sum_of_squares(op, x)

    def inner_without_gradient(t: Tensor) -> Tensor:
        with torch.no_grad():
            constant = op(t)
        return (constant * op(t)).sum()

    assert torch.equal(grad(inner_without_gradient)(x), first / 2)


# vmap over the bounds.

CLAMPS = pytest.mark.parametrize("name", ["tensor_clamp", "tensor_clamp_ste"])


@CLAMPS
@EVERY_MODE
@pytest.mark.parametrize(
    "in_dims",
    [(0, 0, 0), (0, None, None), (None, 0, None), (None, 0, 0), (1, 0, None), (-1, 1, 0), (2, None, 1)],
    ids=str,
)
def test_vmap_over_any_argument(name: str, in_dims: tuple[int | None, ...], mode: Function, device: str) -> None:
    clamp = getattr(ste, name)
    generator = torch.Generator().manual_seed(0)
    logical = [(4, 3), (4, 3), (3,)]
    arguments = []
    for shape, dim in zip(logical, in_dims):
        batched = list(shape)
        if dim is not None:
            batched.insert(dim if dim >= 0 else len(shape) + 1 + dim, 2)
        arguments.append((torch.randn(batched, generator=generator) * 2).to(device))

    def row(i: int) -> list[Tensor]:
        return [a if dim is None else a.select(dim, i) for a, dim in zip(arguments, in_dims)]

    expected = torch.stack([clamp(*row(i)) for i in range(2)])
    assert torch.equal(mode(vmap(clamp, in_dims=in_dims))(*arguments), expected)

    def loss(*args: Tensor) -> Any:
        return (clamp(*args) ** 2).sum()

    gradients = [
        torch.autograd.grad(loss(*(a.requires_grad_() for a in row_)), row_, allow_unused=True)
        for row_ in ([t.detach().clone() for t in row(i)] for i in range(2))
    ]
    argnums = (0, 1, 2) if name == "tensor_clamp" else 0
    actual = mode(vmap(grad(loss, argnums=argnums), in_dims=in_dims))(*arguments)
    for position, part in enumerate(actual if isinstance(actual, tuple) else (actual,)):
        assert torch.equal(part, torch.stack([g[position] for g in gradients]))


@CLAMPS
def test_nested_vmap_over_different_arguments(name: str, device: str) -> None:
    clamp = getattr(ste, name)
    x, low, high = torch.randn(3, device=device), torch.randn(4, device=device), torch.randn(5, device=device)
    result = vmap(vmap(vmap(clamp, (0, None, None)), (None, 0, None)), (None, None, 0))(x, low, high)
    assert torch.equal(result, clamp(x.expand(5, 4, 3), low[:, None], high[:, None, None]))


@CLAMPS
def test_a_bound_that_would_enlarge_is_refused_under_vmap_too(name: str, device: str) -> None:
    x, low, high = torch.randn(2, 3, device=device), torch.randn(2, 4, 3, device=device), torch.zeros((), device=device)
    with pytest.raises(RuntimeError, match=rf"{name}: min_val of shape \[4, 3\] does not broadcast to x's shape \[3\]"):
        vmap(getattr(ste, name), in_dims=(0, 0, None))(x, low, high)


def test_per_sample_gradients_of_a_module(device: str) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 2).to(device)
    x, target = torch.randn(6, 4, device=device), torch.randn(6, 2, device=device)

    def loss(parameters: dict[str, Tensor], sample: Tensor, wanted: Tensor) -> Any:
        quantized = {k: ste.scalar_clamp_ste(ste.round_ste(p * 4), -3.0, 3.0) / 4 for k, p in parameters.items()}
        return ((functional_call(layer, quantized, (sample,)) - wanted) ** 2).sum()

    parameters = {k: p.detach() for k, p in layer.named_parameters()}
    batched = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, target)
    for i in range(6):
        single = grad(loss)(parameters, x[i], target[i])
        for name in parameters:
            torch.testing.assert_close(batched[name][i], single[name])


@EVERY_OP
def test_autograd_classes_under_transforms(op: Op, device: str) -> None:
    x = X.to(device)
    _, first, diagonal = sum_of_squares(op, x)

    def g(t: Tensor) -> Any:
        return (op.autograd_class.apply(t, *op.arguments_for(t)) ** 2).sum()

    assert torch.equal(grad(g)(x), first)
    assert torch.equal(vmap(grad(g))(torch.stack([x, x])), torch.stack([first, first]))
    assert torch.equal(grad(lambda t: vmap(g)(t).sum())(torch.stack([x, x])), torch.stack([first, first]))
    assert torch.equal(hessian(g)(x), torch.diag(diagonal))
    assert torch.equal(jacrev(jacrev(g))(x), torch.diag(diagonal))
    assert torch.equal(jvp(g, (x,), (torch.ones_like(x),))[1], first.sum())
