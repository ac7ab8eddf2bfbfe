r"""Straight-through ops: a step in the forward, the identity in the backward.

Every op has the gradient :math:`\partial y / \partial x = 1` everywhere: the backward returns the incoming gradient
itself, the same tensor, for every value of x, NaN and infinities included. The second derivative is therefore 0, and
forward mode passes the tangent through. Nothing is saved for the backward. :func:`ste.straight_through` is for steps of
your own: what this page says of x holds for its ``soft``, and it supports other dtypes. The signs can use a surrogate
gradient instead, and then save x.

Supported dtypes are float64, float32, float16, bfloat16, and int64, int32, int16, int8 and uint8. Integers are computed
and returned in their own dtype. The result has x's shape, dtype, device and memory format.

Reference: Y. Bengio, N. Leonard, A. Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for
Conditional Computation", 2013, arXiv:1308.3432.
"""

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ste._arguments import Parameter, check_is_floating
from ste._implement import implement
from ste.autograd_ops import (
    binary_sign_ste_fn,
    ceil_ste_fn,
    floor_ste_fn,
    round_ste_fn,
    scalar_clamp_ste_fn,
    stochastic_round_ste_fn,
    straight_through_fn,
    tensor_clamp_ste_fn,
    ternary_sign_ste_fn,
    trunc_ste_fn,
)

__all__ = [
    "binary_sign_ste",
    "ceil_ste",
    "floor_ste",
    "round_ste",
    "scalar_clamp_ste",
    "stochastic_round_ste",
    "straight_through",
    "tensor_clamp_ste",
    "ternary_sign_ste",
    "trunc_ste",
]


def round_ste(x: Tensor) -> Tensor:
    r"""Round to the nearest integer, with a straight-through gradient.

    .. math:: y = \operatorname{round}(x), \qquad \frac{\partial y}{\partial x} = 1

    Ties go to the even integer. -0.0, NaN and infinities are kept.

    Args:
        x: Any shape; a floating-point or integer dtype.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: x is not a Tensor, or is boolean or complex.

    Example:
        >>> x = torch.tensor([-1.6, 0.5, 1.5], requires_grad=True)
        >>> y = ste.round_ste(x)
        >>> y.tolist()
        [-2.0, 0.0, 2.0]
        >>> y.backward(torch.tensor([1.0, 2.0, 3.0]))
        >>> x.grad
        tensor([1., 2., 3.])
    """
    return _round_ste(x)


def ceil_ste(x: Tensor) -> Tensor:
    r"""Round up, with a straight-through gradient.

    .. math:: y = \lceil x \rceil, \qquad \frac{\partial y}{\partial x} = 1

    -0.0, NaN and infinities are kept; values in (-1, 0) give -0.0.

    Args:
        x: Any shape; a floating-point or integer dtype.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: x is not a Tensor, or is boolean or complex.

    Example:
        >>> x = torch.tensor([-1.6, 0.2, 2.0], requires_grad=True)
        >>> y = ste.ceil_ste(x)
        >>> y.tolist()
        [-1.0, 1.0, 2.0]
        >>> y.sum().backward()
        >>> x.grad
        tensor([1., 1., 1.])
    """
    return _ceil_ste(x)


def floor_ste(x: Tensor) -> Tensor:
    r"""Round down, with a straight-through gradient.

    .. math:: y = \lfloor x \rfloor, \qquad \frac{\partial y}{\partial x} = 1

    -0.0, NaN and infinities are kept.

    Args:
        x: Any shape; a floating-point or integer dtype.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: x is not a Tensor, or is boolean or complex.

    Example:
        >>> x = torch.tensor([-1.6, 0.2, 2.0], requires_grad=True)
        >>> y = ste.floor_ste(x)
        >>> y.tolist()
        [-2.0, 0.0, 2.0]
        >>> y.sum().backward()
        >>> x.grad
        tensor([1., 1., 1.])
    """
    return _floor_ste(x)


def trunc_ste(x: Tensor) -> Tensor:
    r"""Round toward zero, with a straight-through gradient.

    .. math:: y = \operatorname{sign}(x) \lfloor |x| \rfloor, \qquad \frac{\partial y}{\partial x} = 1

    -0.0, NaN and infinities are kept; values in (-1, 0) give -0.0.

    Args:
        x: Any shape; a floating-point or integer dtype.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: x is not a Tensor, or is boolean or complex.

    Example:
        >>> x = torch.tensor([-1.6, 0.2, 2.0], requires_grad=True)
        >>> y = ste.trunc_ste(x)
        >>> y.tolist()
        [-1.0, 0.0, 2.0]
        >>> y.sum().backward()
        >>> x.grad
        tensor([1., 1., 1.])
    """
    return _trunc_ste(x)


def binary_sign_ste(x: Tensor, low: float = 0.0, surrogate: str = "identity", alpha: Parameter | None = None) -> Tensor:
    r"""Binarize, with a straight-through gradient or a surrogate one.

    .. math::
        y &= \begin{cases} 1 & x \ge 0 \\ \mathit{low} & \text{otherwise} \end{cases} \\
        \frac{\partial y}{\partial x} &= h(x)

    ``low=-1.0`` gives the bipolar {-1, +1} of binary neural networks. -0.0 gives 1; NaN gives ``low``.

    :math:`h` is 1 by default. With a :doc:`surrogate </guides/surrogates>`, it is the derivative of a function that is
    smooth where the sign jumps; it is not scaled by the size of the jump. Second derivatives and tangents are those of
    the smooth function.

    Args:
        x: Any shape; a floating-point or integer dtype. With a surrogate, floating-point only.
        low: The result where x is below zero, rounded to x's dtype.
        surrogate: ``identity``, or one of :data:`ste.surrogates.TABLE`.
        alpha: The surrogate's parameter: a positive number, or a tensor that broadcasts to x's shape, in x's dtype or
            float32. It gets no gradient. None uses the value of the surrogate's source.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: x is not a Tensor, is boolean or complex, or is an integer tensor with a surrogate; low is not a
            number; surrogate is not a string; alpha is neither a number nor a tensor, or has another dtype.
        ValueError: x is an integer tensor whose dtype cannot represent low; there is no such surrogate; or alpha is
            given with ``identity``.
        RuntimeError: alpha is on another device or does not broadcast to x's shape.

    Example:
        >>> x = torch.tensor([-0.7, -0.0, 0.3], requires_grad=True)
        >>> ste.binary_sign_ste(x).tolist()
        [0.0, 1.0, 1.0]
        >>> y = ste.binary_sign_ste(x, low=-1.0)
        >>> y.tolist()
        [-1.0, 1.0, 1.0]
        >>> y.sum().backward()
        >>> x.grad
        tensor([1., 1., 1.])
        >>> spikes = ste.binary_sign_ste(x, surrogate="triangle", alpha=2.0)
        >>> torch.autograd.grad(spikes.sum(), x)
        (tensor([0.0000, 2.0000, 0.8000]),)
    """
    return _binary_sign_ste(x, low, surrogate, alpha)


def ternary_sign_ste(
    x: Tensor, threshold: Parameter | None = None, surrogate: str = "identity", alpha: Parameter | None = None
) -> Tensor:
    r"""Sign, with a straight-through gradient or a surrogate one.

    .. math::
        y &= \begin{cases} \operatorname{sign}(x) & |x| > \Delta \\ 0 & \text{otherwise} \end{cases} \\
        \frac{\partial y}{\partial x} &= h(x)

    Both zeros and NaN give 0. The threshold :math:`\Delta` is that of ternary weight networks (Li et al. 2016,
    arXiv:1605.04711); :math:`h` is as in :func:`binary_sign_ste`.

    Args:
        x: Any shape; a floating-point or integer dtype. With a threshold or a surrogate, floating-point only.
        threshold: A number, not negative, or a tensor that broadcasts to x's shape, in x's dtype or float32. It gets no
            gradient. None is 0.
        surrogate: ``identity``, or one of :data:`ste.surrogates.TABLE`.
        alpha: The surrogate's parameter, as in :func:`binary_sign_ste`.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: x is not a Tensor, is boolean or complex, or is an integer tensor with a threshold or a surrogate;
            threshold or alpha is neither a number nor a tensor, or has another dtype; surrogate is not a string.
        ValueError: There is no such surrogate, or alpha is given with ``identity``.
        RuntimeError: threshold or alpha is on another device or does not broadcast to x's shape.

    Example:
        >>> x = torch.tensor([-0.7, 0.0, 0.3], requires_grad=True)
        >>> y = ste.ternary_sign_ste(x)
        >>> y.tolist()
        [-1.0, 0.0, 1.0]
        >>> y.sum().backward()
        >>> x.grad
        tensor([1., 1., 1.])
        >>> ste.ternary_sign_ste(x, threshold=0.5).tolist()
        [-1.0, 0.0, 0.0]
    """
    return _ternary_sign_ste(x, threshold, surrogate, alpha)


def scalar_clamp_ste(x: Tensor, min_val: float, max_val: float) -> Tensor:
    r"""Clamp between two numbers, with a straight-through gradient: 1 outside the bounds too.

    .. math::
        y &= \min(\max(x, \mathit{min\_val}), \mathit{max\_val}) \\
        \frac{\partial y}{\partial x} &= 1

    NaN is kept, and so is the sign of a zero that is within the bounds. Where ``min_val > max_val`` the result is
    ``max_val``; a NaN bound gives NaN. (torch.compile treats -0.0 and 0.0 as the same constant, so between these two
    bounds it may give a zero of the other sign.)

    Args:
        x: Any shape; a floating-point or integer dtype.
        min_val: Lower bound, rounded to x's dtype. For an integer x it must be a whole number or infinite, and a bound
            beyond the dtype's range becomes the end of that range.
        max_val: Upper bound; as ``min_val``.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: x is not a Tensor, or is boolean or complex; a bound is not a number.
        ValueError: x is an integer tensor and a bound is fractional or NaN.

    Example:
        >>> x = torch.tensor([-3.0, 0.25, 3.0], requires_grad=True)
        >>> y = ste.scalar_clamp_ste(x, -1.0, 1.0)
        >>> y.tolist()
        [-1.0, 0.25, 1.0]
        >>> y.sum().backward()
        >>> x.grad
        tensor([1., 1., 1.])
    """
    return _scalar_clamp_ste(x, min_val, max_val)


def tensor_clamp_ste(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
    r"""Clamp between two tensors, with a straight-through gradient to x and none to the bounds.

    .. math::
        y &= \min(\max(x, \mathit{min\_val}), \mathit{max\_val}) \\
        \frac{\partial y}{\partial x} &= 1

    NaN is kept. Where ``min_val > max_val`` the result is ``max_val``; a NaN bound gives NaN. Where x and a bound are
    zeros of different sign, the sign of the result is unspecified. For gradients to the bounds, use
    :func:`ste.tensor_clamp`.

    Args:
        x: Any shape; a floating-point or integer dtype.
        min_val: Lower bound, of x's shape or any that broadcasts to it (one bound per channel, say), in any supported
            dtype. It is rounded to x's dtype. For an integer x it is rounded inwards, a bound beyond the dtype's range
            becomes the end of that range, and the result of a NaN bound is unspecified.
        max_val: Upper bound; as ``min_val``.

    Returns:
        Tensor of x's shape, dtype, device and memory format. It requires grad if and only if x does.

    Raises:
        TypeError: An argument is not a Tensor, or is boolean or complex.
        RuntimeError: A bound does not broadcast to x's shape, or is on another device.

    Example:
        >>> x = torch.tensor([[-3.0, 0.25], [3.0, 5.0]], requires_grad=True)
        >>> y = ste.tensor_clamp_ste(x, torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 4.0]))
        >>> y.tolist()
        [[-1.0, 0.25], [1.0, 4.0]]
        >>> y.sum().backward()
        >>> x.grad
        tensor([[1., 1.],
                [1., 1.]])
    """
    return _tensor_clamp_ste(x, min_val, max_val)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    r"""The value of one tensor, with the gradient of another.

    .. math::
        y &= \mathit{hard} \\
        \frac{\partial y}{\partial \mathit{soft}} &= 1, \quad \frac{\partial y}{\partial \mathit{hard}} = 0

    The straight-through estimator of any step: ``hard`` is the result of the step, and ``soft`` is what is
    differentiated in its place. The value is ``hard`` to the bit, -0.0, NaN and infinities included, whatever ``soft``
    is. (``soft + (hard - soft).detach()`` rounds twice, and is NaN where ``soft`` is infinite.) Higher derivatives and
    tangents are those of ``soft``. It costs a copy of ``hard``, and keeps neither tensor for the backward.

    Args:
        hard: Any shape; a floating-point, integer or boolean dtype. It gets no gradient.
        soft: Hard's shape (there is no broadcasting); a floating-point dtype, which may differ from hard's.

    Returns:
        Tensor of hard's shape, device and memory format, in hard's dtype if that is floating-point, else in soft's. It
        is a copy, so writing to it leaves ``hard`` as it is. It requires grad if and only if ``soft`` does; the
        gradient arrives in soft's dtype.

    Raises:
        TypeError: An argument is not a Tensor; hard is complex or quantized; soft is not floating-point.
        RuntimeError: hard and soft differ in shape or in device.

    References:
        Y. Bengio, N. Leonard, A. Courville, 2013, arXiv:1308.3432; for vector quantization, A. van den Oord, O.
        Vinyals, K. Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937.

    Example:
        The largest of three probabilities, as a one-hot vector that trains them all:

        >>> logits = torch.tensor([1.0, 3.0, 2.0], requires_grad=True)
        >>> soft = logits.softmax(0)
        >>> y = ste.straight_through(soft == soft.amax(), soft)
        >>> y.tolist()
        [0.0, 1.0, 0.0]
        >>> (y * torch.tensor([0.0, 1.0, 0.0])).sum().backward()
        >>> logits.grad
        tensor([-0.0599,  0.2227, -0.1628])
    """
    return _straight_through(hard, soft)


def stochastic_round_ste(x: Tensor, random: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
    r"""Round down or up at random, so that the expected value is x, with a straight-through gradient.

    .. math::
        y &= \begin{cases} \lfloor x \rfloor + 1 & \mathit{random} < x - \lfloor x \rfloor \\
            \lfloor x \rfloor & \text{otherwise} \end{cases} \\
        \frac{\partial y}{\partial x} &= 1

    The probability of rounding up is the distance from the integer below. Small updates are therefore not lost, as they
    are when each is rounded to the nearest integer. Integers, NaN and infinities are kept. float16 and bfloat16 are
    computed in float32.

    With ``random`` given, the op is deterministic: the same arguments give the same result in eager mode, compiled,
    exported, under vmap and on both backends.

    Args:
        x: Any shape; float64, float32, float16 or bfloat16.
        random: Numbers in [0, 1), of x's shape, in x's dtype or float32. They get no gradient. None draws them in
            float32, or in float64 if x is float64.
        generator: The generator that draws them; None is the default generator of x's device.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: x or random is not a Tensor, or has another dtype.
        RuntimeError: random has another shape than x, or is on another device.

    References:
        Suyog Gupta et al., "Deep Learning with Limited Numerical Precision", 2015, arXiv:1502.02551.

    Example:
        >>> x = torch.tensor([0.25, 0.25, -0.5, 3.0], requires_grad=True)
        >>> y = ste.stochastic_round_ste(x, torch.tensor([0.1, 0.6, 0.4, 0.0]))
        >>> y.tolist()
        [1.0, 0.0, 0.0, 3.0]
        >>> y.sum().backward()
        >>> x.grad
        tensor([1., 1., 1., 1.])
        >>> mean = ste.stochastic_round_ste(torch.full((100_000,), 0.25)).mean().item()
        >>> abs(mean - 0.25) < 0.01
        True
    """
    if random is None:
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            if has_torch_function((x,)):
                return handle_torch_function(stochastic_round_ste, (x,), x, random, generator)
            check_is_floating("stochastic_round_ste", "x", x)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        if generator is None:
            random = torch.rand_like(x, dtype=dtype)
        else:
            random = torch.empty_like(x, dtype=dtype).uniform_(0.0, 1.0, generator=generator)
    return _stochastic_round_ste(x, random)


_round_ste = implement(round_ste, round_ste_fn)
_ceil_ste = implement(ceil_ste, ceil_ste_fn)
_floor_ste = implement(floor_ste, floor_ste_fn)
_trunc_ste = implement(trunc_ste, trunc_ste_fn)
_binary_sign_ste = implement(binary_sign_ste, binary_sign_ste_fn)
_ternary_sign_ste = implement(ternary_sign_ste, ternary_sign_ste_fn)
_scalar_clamp_ste = implement(scalar_clamp_ste, scalar_clamp_ste_fn)
_stochastic_round_ste = implement(stochastic_round_ste, stochastic_round_ste_fn)
_straight_through = implement(straight_through, straight_through_fn)
_tensor_clamp_ste = implement(tensor_clamp_ste, tensor_clamp_ste_fn)
