"""The batching rule of an elementwise op, as in ``csrc/register/batching.h``: vmap's dimension becomes the first."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ste._arguments import check_broadcast


def batch_first(
    op: str, forward: Callable[..., Tensor], batch_size: int, in_dims: Sequence[int | None], args: Sequence[Any]
) -> list[Any]:
    """Arguments on which the op gives the batched result, with the batch as its first dimension.

    x always gets the batch dimension, batched or not, because what broadcasts against x must not enlarge it. A bound's
    logical rank is padded to x's.

    Args:
        op: Name of the op, for errors, which name the shapes that the caller sees.
        forward: The op's forward, for the names of its arguments.
        batch_size: Size of the dimension that vmap maps over.
        in_dims: That dimension in each of the arguments, or None.
        args: The arguments, x first.
    """
    x, x_dim = args[0], in_dims[0]
    shape = logical(x, x_dim).shape
    batched = [with_batch(x, x_dim, batch_size)]
    for name, arg, dim in zip(list(inspect.signature(forward).parameters)[1:], args[1:], in_dims[1:]):
        if isinstance(arg, Tensor):
            check_broadcast(op, name, logical(arg, dim).shape, shape)
            if dim is not None:
                arg = arg.movedim(dim, 0)
                for _ in range(len(shape) - (arg.dim() - 1)):
                    arg = arg.unsqueeze(1)
                if arg.dim() - 1 > len(shape):  # of one element
                    arg = arg.reshape(batch_size, *[1] * len(shape))
        batched.append(arg)
    return batched


def batch_of_one_shape(
    check: Callable[..., None], batch_size: int, in_dims: Sequence[int | None], args: Sequence[Tensor]
) -> list[Any]:
    """Tensors that must have one shape, with the batch as their first dimension.

    Args:
        check: Raises if they differ. It gets the tensors as the caller sees them.
        batch_size: Size of the dimension that vmap maps over.
        in_dims: That dimension in each of the arguments, or None.
        args: The arguments.
    """
    check(*(logical(arg, dim) for arg, dim in zip(args, in_dims)))
    return [with_batch(arg, dim, batch_size) for arg, dim in zip(args, in_dims)]


def with_batch(tensor: Tensor, dim: int | None, batch_size: int) -> Tensor:
    """The tensor with the batch first, whether it was batched or not."""
    return tensor.expand(batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def logical(tensor: Tensor, dim: int | None) -> Tensor:
    """A tensor of the shape that the caller sees."""
    if dim is None:
        return tensor
    if tensor.shape[dim] == 0:  # there is none to select
        return tensor.new_empty([size for i, size in enumerate(tensor.shape) if i != dim])
    return tensor.select(dim, 0)
