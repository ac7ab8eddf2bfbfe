"""The ways of calling an op for the soak: each returns a call of an op on x that can be repeated forever."""

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import torch
from memory_growth import growth
from op_table import Op
from torch import Tensor

Results = Sequence[Tensor | str]
Call = Callable[[], Results]

X = torch.tensor([-1.75, -0.25, 0.75, 2.25])  # small, because the soak is about calls and not about loops
STEPS = 20  # memory is measured after each


def forward(op: Op, x: Tensor) -> Call:
    arguments = op.arguments_for(x)
    return lambda: (op.function(x, *arguments),)


def forward_and_backward(op: Op, x: Tensor) -> Call:
    """Backward to x and to the arguments that get a gradient."""
    leaf, arguments = x.clone().requires_grad_(), op.arguments_for(x)
    leaves = [leaf]
    if op.slopes is not None:
        leaves += [a.requires_grad_() for a in arguments if isinstance(a, Tensor)]
    g = x.clone()

    def call() -> Results:
        y = op.function(leaf, *arguments)
        return (y.detach(), *torch.autograd.grad(y, leaves, g))

    return call


def errors(op: Op, x: Tensor) -> Call:
    """Two errors: one found when Python's arguments are read, and one found by the op itself."""
    wrong = (x.tolist(), x.to(torch.complex64).requires_grad_())
    arguments = op.arguments_for(x)

    def words(x: Any) -> str:
        try:
            op.function(x, *arguments)
        except TypeError as error:
            return str(error)
        raise AssertionError(f"{op} takes what it must refuse")

    return lambda: tuple(map(words, wrong))


def vmap(op: Op, x: Tensor) -> Call:
    arguments = op.arguments_for(x)
    mapped = torch.func.vmap(lambda row: op.function(row, *arguments))
    rows = torch.stack([x, -x])
    return lambda: (mapped(rows),)


def grad(op: Op, x: Tensor) -> Call:
    arguments = op.arguments_for(x)
    derivative = torch.func.grad(lambda t: op.function(t, *arguments).sum())
    return lambda: (derivative(x),)


PATHS: dict[str, Callable[[Op, Tensor], Call]] = {
    "forward": forward,
    "forward and backward": forward_and_backward,
    "errors": errors,
    "vmap": vmap,
    "grad": grad,
}


def are_same(results: Results, others: Results) -> bool:
    """Compare to the bit; tensors are float32."""
    return len(results) == len(others) and all(
        torch.equal(a.view(torch.int32), b.view(torch.int32))
        if isinstance(a, Tensor) and isinstance(b, Tensor)
        else not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b
        for a, b in zip(results, others)
    )


def soak(call: Call, calls: int, made: Callable[[int], object] = lambda calls: None) -> dict[str, int]:
    """What grew after many calls; the last must return the same as the first."""
    first = call()

    def step() -> None:
        for _ in repeat(None, calls // STEPS):
            call()
        made(calls // STEPS)

    grown = growth(step, STEPS)
    assert are_same(call(), first), "the last call returns something else than the first"
    return grown
