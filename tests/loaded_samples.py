"""What the workers of a DataLoader load: spawned workers import it by name."""

import torch
from subjects import OPS, X
from torch import Tensor
from torch.utils.data import Dataset


def forward_and_backward(op_index: int, scale: int) -> tuple[Tensor, Tensor]:
    op = OPS[op_index]
    x = (X * scale).requires_grad_()
    y = op.function(x, *op.arguments_for(x.detach()))
    (gradient,) = torch.autograd.grad(y, x, X)
    return y.detach(), gradient


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """The values and the gradient of each op at X and at multiples of X."""

    def __len__(self) -> int:
        return 2 * len(OPS)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return forward_and_backward(index // 2, 2 * (index % 2) + 1)
