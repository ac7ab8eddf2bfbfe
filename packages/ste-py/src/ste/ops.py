"""The differentiable clamp, and the ends of integer ranges."""

import operator
from typing import SupportsIndex

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from ste._arguments import check_tensor
from ste._implement import implement
from ste.autograd_ops import tensor_clamp_fn

__all__ = ["max_int", "max_uint", "min_int", "tensor_clamp"]


def tensor_clamp(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
    r"""Clamp between two tensors, differentiable in all three.

    .. math::
        y = \min(\max(x, \mathit{min\_val}), \mathit{max\_val})

    The gradient :math:`g` of each element goes wholly to one of the three: to x where
    :math:`\mathit{min\_val} \le x \le \mathit{max\_val}` (a value at a bound belongs to x), to ``min_val`` where x is
    below it, to ``max_val`` where x is above it or where ``min_val > max_val``. The gradient to a bound is summed to
    the bound's own shape, in the widest of the three dtypes or, by the native backend's CPU kernel, in float64; its
    last bits depend on the order of summation. The rule is the same in every version of torch; that of
    :func:`torch.clamp` at a bound is not.

    The forward is that of :func:`ste.tensor_clamp_ste`. Where x or a bound is NaN, the result is NaN; the gradient
    still follows the comparisons above, all of which NaN fails.

    Args:
        x: Any shape; a floating-point or integer dtype.
        min_val: Lower bound, of x's shape or any that broadcasts to it, in any supported dtype.
        max_val: Upper bound; as ``min_val``.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: An argument is not a Tensor, or is boolean or complex.
        RuntimeError: A bound does not broadcast to x's shape, or is on another device.

    Example:
        >>> x = torch.tensor([-3.0, 1.0, 5.0, 7.0], requires_grad=True)
        >>> low = torch.tensor(-1.0, requires_grad=True)
        >>> high = torch.tensor(1.0, requires_grad=True)
        >>> y = ste.tensor_clamp(x, low, high)
        >>> y.tolist()
        [-1.0, 1.0, 1.0, 1.0]
        >>> y.sum().backward()
        >>> x.grad, low.grad, high.grad
        (tensor([0., 1., 0., 0.]), tensor(1.), tensor(2.))
    """
    return _tensor_clamp(x, min_val, max_val)


_tensor_clamp = implement(tensor_clamp, tensor_clamp_fn)


def max_uint(narrow_range: bool, bit_width: Tensor | int) -> Tensor:
    r"""Largest unsigned integer of ``bit_width`` bits.

    .. math:: 2^b - 1, \quad \text{minus one if } \mathit{narrow\_range}

    A floating-point ``bit_width`` :math:`b` keeps its dtype, and the result has the derivative of the formula. A result
    that the dtype cannot hold is rounded: the largest signed integer of 16 bits is 32768 in bfloat16, which has 8
    significant bits. An integer ``bit_width`` gives an int64 tensor, which is right for every width from 1 to 62,
    however narrow its own dtype.

    The values of a tensor are not checked, because that would synchronize with its device: widths outside of 1 to 62
    give meaningless numbers. A Python or NumPy integer is checked, and its result is on the CPU, whatever the default
    device is.

    Args:
        narrow_range: Whether to leave out the largest value.
        bit_width: Number of bits: a tensor of any shape, or a Python or NumPy integer from 1 to 62.

    Returns:
        Tensor of bit_width's shape and device; for an integer, a tensor without dimensions on the CPU.

    Raises:
        TypeError: bit_width is neither a Tensor nor an int, or is boolean or complex.
        ValueError: bit_width is an integer outside of 1 to 62.

    Example:
        >>> ste.max_uint(False, 8), ste.max_uint(True, torch.tensor([2, 4]))
        (tensor(255), tensor([ 2, 14]))
    """
    # FX records its proxies, as it does in torch's own functions.
    if not torch.jit.is_scripting() and not isinstance(bit_width, Tensor):  # type: ignore[attr-defined]
        if has_torch_function_unary(bit_width):
            return handle_torch_function(max_uint, (bit_width,), narrow_range, bit_width)
        return _of_integer((1 << _checked_integer("max_uint", bit_width)) - (2 if narrow_range else 1))
    return _power_of_two(_widened("max_uint", bit_width)) - (2 if narrow_range else 1)


def max_int(signed: bool, bit_width: Tensor | int) -> Tensor:
    r"""Largest integer of ``bit_width`` bits.

    .. math:: 2^{b-1} - 1 \text{ if } \mathit{signed}, \quad \text{else } 2^b - 1

    Args:
        signed: Whether one of the bits is the sign.
        bit_width: Number of bits :math:`b`; see :func:`ste.max_uint`.

    Returns:
        Tensor of bit_width's shape and device; for an integer, a tensor without dimensions on the CPU.

    Raises:
        TypeError: bit_width is neither a Tensor nor an int, or is boolean or complex.
        ValueError: bit_width is an integer outside of 1 to 62.

    Example:
        >>> ste.max_int(True, 8), ste.max_int(False, torch.tensor(4.0))
        (tensor(127), tensor(15.))
    """
    if not torch.jit.is_scripting() and not isinstance(bit_width, Tensor):  # type: ignore[attr-defined]
        if has_torch_function_unary(bit_width):
            return handle_torch_function(max_int, (bit_width,), signed, bit_width)
        return _of_integer((1 << (_checked_integer("max_int", bit_width) - (1 if signed else 0))) - 1)
    return _power_of_two(_widened("max_int", bit_width) - (1 if signed else 0)) - 1


def min_int(signed: bool, narrow_range: bool, bit_width: Tensor | int) -> Tensor:
    r"""Smallest integer of ``bit_width`` bits.

    .. math::
        0 \text{ if not } \mathit{signed}, \quad \text{else } -2^{b-1}, \text{ plus one if } \mathit{narrow\_range}

    With a narrow range, three signed bits hold the symmetric [-3, 3]; without, [-4, 3].

    Args:
        signed: Whether one of the bits is the sign.
        narrow_range: Whether to leave out the smallest value of a signed range.
        bit_width: Number of bits :math:`b`; see :func:`ste.max_uint`.

    Returns:
        Tensor of bit_width's shape and device; for an integer, a tensor without dimensions on the CPU.

    Raises:
        TypeError: bit_width is neither a Tensor nor an int, or is boolean or complex.
        ValueError: bit_width is an integer outside of 1 to 62.

    Example:
        >>> ste.min_int(True, False, 8), ste.min_int(True, True, 3)
        (tensor(-128), tensor(-3))
        >>> ste.min_int(False, False, 8)
        tensor(0)
    """
    if not torch.jit.is_scripting() and not isinstance(bit_width, Tensor):  # type: ignore[attr-defined]
        if has_torch_function_unary(bit_width):
            return handle_torch_function(min_int, (bit_width,), signed, narrow_range, bit_width)
        width = _checked_integer("min_int", bit_width)
        return _of_integer((1 if narrow_range else 0) - (1 << (width - 1)) if signed else 0)
    bit_width = _widened("min_int", bit_width)
    if not signed:
        return bit_width * 0
    power = _power_of_two(bit_width - 1)
    return -power + 1 if narrow_range else -power


@torch.jit.unused
def _checked_integer(op: str, bit_width: SupportsIndex) -> int:
    """A Python or NumPy integer, as an int from 1 to 62: int64 does not hold the ends of wider ranges."""
    try:
        width = None if isinstance(bit_width, bool) else operator.index(bit_width)
    except TypeError:
        width = None
    if width is None:
        raise TypeError(
            f"{op}: bit_width must be a Tensor or an int, got {type(bit_width).__name__}; pass a floating-point one "
            "as a tensor: torch.tensor(4.0)"
        )
    if not 1 <= width <= 62:
        raise ValueError(f"{op}: bit_width must be from 1 to 62, got {width}")
    return width


@torch.jit.unused
def _of_integer(value: int) -> Tensor:
    """On the CPU: int() and item() must be able to read it even if the default device is meta, or another one."""
    return torch.tensor(value, device="cpu")


def _widened(op: str, bit_width: Tensor | int) -> Tensor:
    """bit_width as a tensor that does not wrap: int64, or its own floating dtype."""
    # Only TorchScript gets here with an int, and it cannot compile the checks.
    if isinstance(bit_width, int):
        if bit_width < 1 or bit_width > 62:
            raise ValueError(f"{op}: bit_width must be from 1 to 62, got {bit_width}")
        return torch.tensor(bit_width, device=torch.device("cpu"))
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        check_tensor(op, "bit_width", bit_width)
    return bit_width if bit_width.is_floating_point() else bit_width.to(torch.int64)


def _power_of_two(exponent: Tensor) -> Tensor:
    if exponent.is_floating_point():
        return torch.exp2(exponent)
    # Not `<<`, which torch's ONNX exporter does not support.
    return torch.bitwise_left_shift(torch.ones_like(exponent), exponent)
