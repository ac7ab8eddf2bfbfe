"""`torch.func`, one transform and nestings of two and of three."""

import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from subjects import OPS, STRAIGHT_THROUGH_OPS, Op, X, every_op, expected_of_every_op
from torch import Tensor, vmap
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp

row = pytest.mark.row
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
Function = Callable[[Tensor], Any]

G = torch.tensor([1.0, -2.0, 3.0, 4.0])


@dataclass(frozen=True)
class Transform:
    """From an elementwise function to its derivative of that order, which is elementwise too, so these nest."""

    name: str
    order: int
    apply: Callable[[Function], Function]

    def __str__(self) -> str:
        return self.name


def rows_summed(jacobian: Tensor, x: Tensor) -> Tensor:
    """The diagonal of the Jacobian of an elementwise function. A nonzero value beside it would show in the sum."""
    return jacobian.reshape(*x.shape, -1).sum(-1)


TRANSFORMS = [
    Transform("grad", 1, lambda f: grad(lambda t: f(t).sum())),
    Transform("vjp", 1, lambda f: lambda t: vjp(f, t)[1](torch.ones_like(t))[0]),
    Transform("jvp", 1, lambda f: lambda t: jvp(f, (t,), (torch.ones_like(t),))[1]),
    Transform("jacrev", 1, lambda f: lambda t: rows_summed(jacrev(f)(t), t)),
    Transform("jacfwd", 1, lambda f: lambda t: rows_summed(jacfwd(f)(t), t)),
    Transform("hessian", 2, lambda f: lambda t: rows_summed(hessian(lambda s: f(s).sum())(t), t)),
    Transform("vmap", 0, lambda f: vmap(f)),
]
VMAP = TRANSFORMS[-1]
LINEARIZE = Transform("linearize", 1, lambda f: lambda t: linearize(f, t)[1](torch.ones_like(t)))

# One dimension more than three nested vmaps use up: bounds that vary do so along the last.
X4 = torch.tensor([-3.25, -0.75, 0.5, 1.75, 0.25, -1.5], dtype=torch.float64).reshape(2, 1, 1, 3)


def eagerly(function: Function) -> Function:
    return function


def compiled(function: Function) -> Function:
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def forward_over_derivative_inside_vmap(parameters: dict[str, Any]) -> bool:
    names = [str(parameters[name]) for name in ("outer", "middle", "inner") if name in parameters]
    # jacfwd is a vmap of jvp, and hessian a jacfwd of jacrev.
    return any(
        names[j] == "hessian" or (names[j] == "jacfwd" and {*names[j + 1 :]} - {"vmap"})
        for i, j in itertools.combinations(range(len(names)), 2)
        if names[i] in ("vmap", "jacfwd", "hessian")
    )


def is_hessian(parameters: dict[str, Any]) -> bool:
    return str(parameters.get("middle", parameters["inner"])) == "hessian"


FORWARD_OVER_DERIVATIVE_INSIDE_VMAP = (
    "Dynamo fails at a `jacfwd` of a derivative inside a `vmap`, and `hessian` is such a `jacfwd`, "
    "and `jacfwd` such a `vmap`"
)


def check(nesting: tuple[Transform, ...], mode: Callable[[Function], Function]) -> None:
    order = sum(transform.order for transform in nesting)
    function: Function = every_op(order + 1)
    for transform in reversed(nesting):
        function = transform.apply(function)
    # Dynamo prints everything that it could not trace.
    logging.disable(logging.CRITICAL)
    try:
        actual = mode(function)(X4)
    finally:
        logging.disable(logging.NOTSET)
    assert torch.equal(actual, expected_of_every_op(order + 1, order, X4))


@row("`grad` where x is not finite, {mode}")
@pytest.mark.parametrize("op", STRAIGHT_THROUGH_OPS, ids=str)
@pytest.mark.parametrize("mode", [eagerly, compiled])
def test_not_finite(op: Op, mode: Callable[[Function], Function]) -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.5])
    assert torch.equal(mode(grad(lambda t: (op(t) * 3).sum()))(x), torch.full_like(x, 3))


EVERY_TRANSFORM = pytest.mark.parametrize("transform", [*TRANSFORMS, LINEARIZE], ids=str)


@row("`{transform}`")
@EVERY_OP
@EVERY_TRANSFORM
def test_one(op: Op, transform: Transform) -> None:
    """First and second derivatives of each op by itself."""
    x = X4.float()
    power = transform.order + 1
    derivative = transform.apply(lambda t: op(t) ** power)(x)
    assert torch.equal(derivative, math.factorial(power) * op.expected(x) * (op.slope(x) if transform.order else 1))
    assert torch.equal(
        transform.apply(op)(x), {0: op.expected(x), 1: op.slope(x), 2: torch.zeros_like(x)}[transform.order]
    )


@row("`{transform}`, compiled")
@EVERY_TRANSFORM
@pytest.mark.refused("Dynamo does not trace `torch.func.linearize`", where=lambda p: p["transform"] is LINEARIZE)
@pytest.mark.isolated
def test_one_compiled(transform: Transform) -> None:
    check((transform,), compiled)


@row("values, cotangents and tangents of `vjp`, `jvp` and `linearize`")
@EVERY_OP
def test_cotangents_and_tangents(op: Op) -> None:
    y, pull_back, *_ = vjp(op, X)
    assert torch.equal(y, op.expected(X))
    assert torch.equal(pull_back(G)[0], op.gradient(X, G))
    assert torch.equal(vmap(pull_back)(torch.stack([G, -G]))[0], torch.stack([op.gradient(X, G), op.gradient(X, -G)]))
    y, tangent, *_ = jvp(op, (X,), (G,))
    assert torch.equal(y, op.expected(X))
    assert torch.equal(tangent, op.gradient(X, G))
    y, push_forward = linearize(op, X)
    assert torch.equal(y, op.expected(X))
    assert torch.equal(push_forward(G), op.gradient(X, G))


@row("`no_grad` inside a transform is for the inner level only")
@EVERY_OP
def test_no_grad_inside(op: Op) -> None:
    def inner_without_gradient(t: Tensor) -> Any:
        with torch.no_grad():
            constant = op(t)
        return (constant * op(t)).sum()

    assert torch.equal(grad(inner_without_gradient)(X), op.expected(X) * op.slope(X))


@row("`{outer}` of each of them")
@pytest.mark.parametrize("inner", TRANSFORMS, ids=str)
@pytest.mark.parametrize("outer", TRANSFORMS, ids=str)
def test_two(outer: Transform, inner: Transform) -> None:
    check((outer, inner), eagerly)


@row("`{outer}` of each of them, compiled")
@pytest.mark.parametrize("inner", TRANSFORMS, ids=str)
@pytest.mark.parametrize("outer", TRANSFORMS, ids=str)
@pytest.mark.refused(
    "torch 2.6's Dynamo fails at `jvp` of a `hessian`",
    torch="<2.13",
    where=lambda p: str(p["outer"]) == "jvp" and is_hessian(p),
)
@pytest.mark.refused(FORWARD_OVER_DERIVATIVE_INSIDE_VMAP, where=forward_over_derivative_inside_vmap)
@pytest.mark.isolated
@pytest.mark.slow
def test_two_compiled(outer: Transform, inner: Transform) -> None:
    check((outer, inner), compiled)


THREE = [nesting for nesting in itertools.product(TRANSFORMS, repeat=3) if VMAP in nesting]
EVERY_THREE = pytest.mark.parametrize(("outer", "middle", "inner"), THREE, ids=lambda t: str(t))


@row("`{outer}` of two of them, a `vmap` among the three")
@EVERY_THREE
def test_three(outer: Transform, middle: Transform, inner: Transform) -> None:
    check((outer, middle, inner), eagerly)


@row("`{outer}` of two of them, a `vmap` among the three, compiled")
@EVERY_THREE
@pytest.mark.refused(
    "torch 2.6's Dynamo fails at `jvp` of a `hessian`",
    torch="<2.13",
    where=lambda p: str(p["outer"]) == "jvp" and is_hessian(p),
)
@pytest.mark.refused(FORWARD_OVER_DERIVATIVE_INSIDE_VMAP, where=forward_over_derivative_inside_vmap)
@pytest.mark.isolated
@pytest.mark.slow
def test_three_compiled(outer: Transform, middle: Transform, inner: Transform) -> None:
    check((outer, middle, inner), compiled)


@row("`linearize` of each of them")
@pytest.mark.parametrize("inner", TRANSFORMS, ids=str)
@pytest.mark.refused(
    "`linearize` is forward mode, which PyTorch does not nest, and does not see through `jacrev`",
    where=lambda p: str(p["inner"]) in ("jvp", "jacfwd", "hessian", "jacrev"),
)
def test_linearize_of(inner: Transform) -> None:
    check((LINEARIZE, inner), eagerly)


@row("each of them of `linearize`")
@pytest.mark.parametrize("outer", [*TRANSFORMS, LINEARIZE], ids=str)
@pytest.mark.refused("PyTorch's `linearize` takes what it linearizes for a constant, and has no batching rule")
def test_of_linearize(outer: Transform) -> None:
    check((outer, LINEARIZE), eagerly)
