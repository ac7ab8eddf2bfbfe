"""The batching rule of an elementwise op (``csrc/batching.h`` in Python): vmap's dimension becomes the first."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def batch_first(batch_size: int, in_dims: Sequence[int | None], args: Sequence[Any]) -> list[Any]:
    """Arguments on which the op gives the batched result, with the batch as its first dimension.

    x carries the batch whether it was batched or not, since what broadcasts against x must not enlarge it; a bound's
    logical rank is padded to x's.
    """
    x, x_dim = args[0], in_dims[0]
    rank = x.dim() - (x_dim is not None)
    batched = [x.movedim(x_dim, 0) if x_dim is not None else x.expand(batch_size, *x.shape)]
    for arg, dim in zip(args[1:], in_dims[1:]):
        if isinstance(arg, Tensor) and dim is not None:
            arg = arg.movedim(dim, 0)
            for _ in range(rank - (arg.dim() - 1)):
                arg = arg.unsqueeze(1)
        batched.append(arg)
    return batched
