"""The autograd classes used directly: values under torch.func."""

from typing import Any

import pytest
import torch
from op_table import OPS, Op
from torch import Tensor, vmap
from torch.func import grad, hessian, jacrev, jvp

X = torch.tensor([-3.3, -0.6, 0.4, 1.7])


@pytest.mark.parametrize("op", OPS, ids=str)
def test_under_transforms(op: Op, device: str) -> None:
    x = X.to(device)
    inside = op.gradient(x, torch.ones_like(x))
    first, diagonal = 2 * op(x) * inside, 2 * inside

    def g(t: Tensor) -> Any:
        return (op.autograd_class.apply(*op.in_order(t, *op.arguments_for(t))) ** 2).sum()

    assert torch.equal(grad(g)(x), first)
    assert torch.equal(vmap(grad(g))(torch.stack([x, x])), torch.stack([first, first]))
    assert torch.equal(grad(lambda t: vmap(g)(t).sum())(torch.stack([x, x])), torch.stack([first, first]))
    assert torch.equal(hessian(g)(x), torch.diag(diagonal))
    assert torch.equal(jacrev(jacrev(g))(x), torch.diag(diagonal))
    assert torch.equal(jvp(g, (x,), (torch.ones_like(x),))[1], first.sum())
