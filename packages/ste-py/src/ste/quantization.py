r"""Quantization to a grid of integers, with gradients to x and to a learnable scale and zero point.

References: S. K. Esser et al., "Learned Step Size Quantization" (LSQ), 2019, arXiv:1902.08153; Y. Bhalgat et al.,
"LSQ+: Improving low-bit quantization through learnable offsets and better initialization", 2020, arXiv:2004.09576.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ste._arguments import Parameter, beside, check_is_tensor, check_quantization, end_in_dtype, integer, number
from ste._float_format import FloatFormat, Format
from ste._implement import implement
from ste._schema import Argument, read, read_by_dynamo
from ste.autograd_ops import fake_quantize_float_fn, fake_quantize_fn
from ste.ops import tensor_clamp
from ste.ops_ste import round_ste

__all__ = ["FloatFormat", "fake_quantize", "fake_quantize_float", "lsq_grad_scale", "quantize"]

if TYPE_CHECKING:
    Integer: TypeAlias = int | Tensor
else:  # as Parameter is
    Integer = int


def fake_quantize(
    x: Tensor,
    scale: Parameter,
    zero_point: Tensor | None = None,
    quant_min: Integer = -128,
    quant_max: Integer = 127,
    grad_scale: float = 1.0,
    inside: str = "rounded",
    random: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    r"""Quantize and dequantize, with gradients to x, to the scale and to the zero point.

    .. math::
        q &= \operatorname{clamp}(\operatorname{round}(x / s) + z, \mathit{quant\_min}, \mathit{quant\_max}) \\
        y &= (q - z) \, s

    Ties go to the even integer; :math:`z` is added after rounding. x is divided by the scale, not multiplied by its
    reciprocal, as in ONNX's QuantizeLinear.

    Let :math:`m` be 1 where :math:`\mathit{quant\_min} \le \operatorname{round}(x / s) + z \le \mathit{quant\_max}`,
    and 0 elsewhere. An incoming gradient :math:`g` becomes

    .. math::
        \nabla_x &= g \, m \\
        \nabla_s &= \mathit{grad\_scale} \sum g \, (q - z - m \, x / s) \\
        \nabla_z &= \mathit{grad\_scale} \sum g \, (m - 1) \, s

    each summed to the parameter's own shape. This mask tests the rounded value, as PyTorch and Brevitas do; the
    gradients are those of composing :func:`ste.round_ste` and :func:`ste.tensor_clamp`. LSQ tests the value before
    rounding: with ``inside="scaled"``, :math:`m` is 1 where
    :math:`\mathit{quant\_min} < x / s + z < \mathit{quant\_max}`, and the gradients are LSQ's equations 3 and 5. The
    two masks differ in the outermost half step, which at 2 bits changes the gradient to the scale by a fifth; the
    values are the same. Second derivatives are 0, except the one by the scale and the zero point, outside of the range.

    float16 and bfloat16 are computed in float32 and rounded once, at the end; the sums are in float32 or wider. NaN
    stays NaN, and infinities saturate. The scale's value is not checked, because that would synchronize with the
    device. If it is negative, the formula still holds; if it is 0 or not finite, the result is what the formula gives
    in IEEE arithmetic, which may be NaN. An end of the grid that the dtype cannot represent is rounded inwards.

    Args:
        x: Any shape; float64, float32, float16 or bfloat16.
        scale: The step :math:`s`, in x's dtype or float32, of x's shape or any that broadcasts to it (one number, one
            for each channel, or one for each group of a view). A Python number gets no gradient.
        zero_point: The integer :math:`z` that stands for 0, in x's dtype, float32 or an integer dtype, and of any shape
            that broadcasts to x's. None is 0. A learned one need not be whole.
        quant_min: The smallest integer; a number, or what :func:`ste.min_int` returns.
        quant_max: The largest integer; a number, or what :func:`ste.max_int` returns.
        grad_scale: The factor that the gradients to the scale and to the zero point are multiplied by; see
            :func:`ste.lsq_grad_scale`.
        inside: ``"rounded"`` or ``"scaled"``: what the mask tests.
        random: Numbers in [0, 1), of x's shape, in x's dtype or float32. Draw them in float32: 16-bit ones are 0 too
            often. With them, rounding is stochastic: :math:`v = x / s` is rounded to :math:`\lfloor v \rfloor + 1`
            where the number is less than :math:`v - \lfloor v \rfloor`, else to :math:`\lfloor v \rfloor`. They get no
            gradient.
        axis: The dimension of x along which a one-dimensional scale and zero point lie. Without it they broadcast, and
            so lie along the last dimension.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: x, scale, zero_point or random is not a Tensor, or has another dtype; quant_min or quant_max is not
            an integer; grad_scale is not a number; inside is not a string.
        RuntimeError: A parameter does not broadcast to x's shape, or is on another device (one without dimensions may
            be on the CPU); random has another shape or is on another device.
        ValueError: quant_min is not less than quant_max; inside is another string; x has no such axis, or a parameter
            does not fit along it.

    Example:
        >>> x = torch.tensor([-9.0, -0.3, 0.6, 2.5], requires_grad=True)
        >>> scale = torch.tensor(0.5, requires_grad=True)
        >>> y = ste.fake_quantize(x, scale, None, -8, 7)
        >>> y.tolist()
        [-4.0, -0.5, 0.5, 2.5]
        >>> y.sum().backward()
        >>> x.grad, scale.grad
        (tensor([0., 1., 1., 1.]), tensor(-8.6000))
    """
    if axis is not None:
        tensors = (x, scale, zero_point, random)
        if not torch.jit.is_scripting() and has_torch_function(tensors):  # type: ignore[attr-defined]
            arguments: Any = (x, scale, zero_point, quant_min, quant_max, grad_scale, inside, random, axis)
            return handle_torch_function(fake_quantize, tensors, *arguments)
        scale = _along(axis, x, "fake_quantize", "scale", scale)  # type: ignore[arg-type]
        zero_point = None if zero_point is None else _along(axis, x, "fake_quantize", "zero_point", zero_point)
    return _fake_quantize(x, scale, zero_point, quant_min, quant_max, grad_scale, inside, random)


_fake_quantize: Callable[..., Tensor] = implement(fake_quantize, fake_quantize_fn)


def fake_quantize_float(
    x: Tensor,
    scale: Parameter | None,
    format: Format,
    grad_scale: float = 1.0,
    saturate: bool = True,
    random: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    r"""Quantize to a floating-point format of few bits and back, with gradients to x and to the scale.

    .. math::
        r &= \operatorname{round}_{\mathit{format}}(x / s) \\
        q &= \operatorname{clamp}(r, -\mathit{max}, \mathit{max}) \\
        y &= q \, s

    Rounding is to the nearest number with as many mantissa bits as the format has, and no exponent below the format's
    smallest (where numbers are subnormal); ties go to the number whose last bit is 0. x is divided by the scale, not
    multiplied by its reciprocal.

    Let :math:`m` be 1 where :math:`|r| \le \mathit{max}`, and 0 elsewhere. An incoming gradient :math:`g` becomes

    .. math::
        \nabla_x &= g \, m \\
        \nabla_s &= \mathit{grad\_scale} \sum g \, (q - m \, x / s)

    the second summed to the scale's own shape. Second derivatives are 0.

    float16 and bfloat16 are computed in float32 and rounded once, at the end; the sums are in float32 or wider. NaN
    stays NaN in every format, and a zero keeps its sign. A value beyond max, infinities included, becomes max; with
    ``saturate=False``, it becomes infinity if the format has one, else NaN. The scale's value is not checked, as in
    :func:`ste.fake_quantize`.

    Args:
        x: Any shape; float64, float32, float16 or bfloat16.
        scale: The scale :math:`s`, as in :func:`ste.fake_quantize`. None is 1.
        format: ``"e4m3fn"``, ``"e5m2"``, ``"e4m3fnuz"``, ``"e5m2fnuz"``, ``"e3m2fn"``, ``"e2m3fn"`` or ``"e2m1fn"``,
            ml_dtypes' names, with or without the prefix ``float8_`` (``float6_``, ``float4_``); or a
            :class:`ste.FloatFormat`.
        grad_scale: The factor that the gradient to the scale is multiplied by.
        saturate: Whether values beyond max become max.
        random: Numbers in [0, 1), as in :func:`ste.fake_quantize`. With them, rounding is stochastic, to one of the two
            neighbors of :math:`x / s` with as many mantissa bits: to the upper one where the random number is less than
            the distance of :math:`x / s` from the lower one, divided by the distance between the two.
        axis: As in :func:`ste.fake_quantize`.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: x, scale or random is not a Tensor, or has another dtype; format is neither a string nor a
            FloatFormat; grad_scale is not a number; saturate is not a bool.
        RuntimeError: The scale does not broadcast to x's shape, or is on another device (one without dimensions may be
            on the CPU); random has another shape or is on another device.
        ValueError: There is no such format; x has no such axis, or the scale does not fit along it.

    Example:
        >>> x = torch.tensor([-9.0, -0.3, 0.6, 2.4], requires_grad=True)
        >>> y = ste.fake_quantize_float(x, None, "e2m1fn")
        >>> y.tolist()
        [-6.0, -0.5, 0.5, 2.0]
        >>> y.sum().backward()
        >>> x.grad
        tensor([0., 1., 1., 1.])
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        if scale is None:
            scale = torch.ones([], device=x.device)
    else:
        if scale is None:
            scale = 1.0
        if axis is not None and has_torch_function((x, scale, random)):
            arguments: Any = (x, scale, format, grad_scale, saturate, random, axis)
            return handle_torch_function(fake_quantize_float, (x, scale, random), *arguments)
        if isinstance(format, FloatFormat):
            format = str(format)
    if axis is not None:
        scale = _along(axis, x, "fake_quantize_float", "scale", scale)  # type: ignore[arg-type]
    return _fake_quantize_float(x, scale, format, grad_scale, saturate, random)


_fake_quantize_float: Callable[..., Tensor] = implement(fake_quantize_float, fake_quantize_float_fn)


def _along(axis: int, x: Tensor, op: str, name: str, parameter: Tensor) -> Tensor:
    """A one-dimensional parameter, laid along a dimension of x. A number stays a number."""
    if not isinstance(parameter, Tensor):
        return parameter  # type: ignore[unreachable]
    if parameter.dim() == 0:
        return parameter
    if axis < -x.dim() or axis >= x.dim():
        raise ValueError(f"{op}: axis={axis}, but x has {x.dim()} dimension(s)")
    if parameter.dim() != 1 or (parameter.size(0) != 1 and parameter.size(0) != x.size(axis)):
        raise ValueError(
            f"{op}: {name} of shape {list(parameter.shape)} does not lie along axis {axis} of x's shape {list(x.shape)}"
        )
    shape = [1] * x.dim()
    shape[axis] = parameter.size(0)
    return parameter.reshape(shape)


_QUANTIZE_ARGUMENTS = [
    Argument("x", "tensor"),
    Argument("scale", "parameter"),
    Argument("zero_point", "optional"),
    Argument("quant_min", "integer"),
    Argument("quant_max", "integer"),
]
_QUANTIZE_KINDS = [kind for _, kind in _QUANTIZE_ARGUMENTS]


def quantize(
    x: Tensor,
    scale: Parameter,
    zero_point: Tensor | None = None,
    quant_min: Integer = -128,
    quant_max: Integer = 127,
    axis: int | None = None,
) -> Tensor:
    r"""The integers of :func:`ste.fake_quantize`, in x's dtype, with gradients.

    .. math::
        q = \operatorname{clamp}(\operatorname{round}(x / s) + z, \mathit{quant\_min}, \mathit{quant\_max})

    The rounding is straight-through, and the clamp has the gradient of :func:`ste.tensor_clamp`: with :math:`m` as in
    :func:`ste.fake_quantize`, the derivatives with respect to :math:`x`, :math:`s` and :math:`z` are :math:`m / s`,
    :math:`-m \, x / s^2` and :math:`m`.

    It is computed in float32 (float64 if x is float64) and rounded to x's dtype, which must be able to hold the
    integers: bfloat16 holds them up to 256, float16 up to 2048.

    Args:
        x: Any shape; float64, float32, float16 or bfloat16.
        scale: As in :func:`ste.fake_quantize`.
        zero_point: As in :func:`ste.fake_quantize`.
        quant_min: The smallest integer; a number, or what :func:`ste.min_int` returns.
        quant_max: The largest integer; a number, or what :func:`ste.max_int` returns.
        axis: As in :func:`ste.fake_quantize`.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError, RuntimeError, ValueError: As in :func:`ste.fake_quantize`.

    Example:
        >>> x = torch.tensor([-9.0, -0.3, 0.6, 2.5])
        >>> ste.quantize(x, torch.tensor(0.5), torch.tensor(3), 0, 15).to(torch.uint8)
        tensor([0, 2, 4, 8], dtype=torch.uint8)
    """
    # TorchScript has checked the types, and could not compile this.
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        arguments: Any = (x, scale, zero_point, quant_min, quant_max)
        if has_torch_function(arguments):
            return handle_torch_function(quantize, arguments, *(*arguments, axis))
        if torch.compiler.is_dynamo_compiling():
            arguments = read_by_dynamo(_QUANTIZE_KINDS, arguments)
        else:
            arguments = read("quantize", _QUANTIZE_ARGUMENTS, arguments)
        return _quantize(*(*arguments, axis))
    return _quantize(x, scale, zero_point, quant_min, quant_max, axis)  # type: ignore[arg-type]


def _quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int, axis: int | None
) -> Tensor:
    if axis is not None:
        scale = _along(axis, x, "quantize", "scale", scale)
        zero_point = None if zero_point is None else _along(axis, x, "quantize", "zero_point", zero_point)
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        check_quantization("quantize", x, scale, zero_point, quant_min, quant_max)
    dtype = torch.promote_types(x.dtype, torch.float32)
    shifted = round_ste(x.to(dtype) / beside(scale, x).to(dtype))
    if zero_point is None:
        zero_point = torch.zeros([], dtype=dtype, device=x.device)
    shifted = shifted + beside(zero_point, x).to(dtype)
    low = torch.full([], end_in_dtype(quant_min, dtype, True), dtype=dtype, device=x.device)
    high = torch.full([], end_in_dtype(quant_max, dtype, False), dtype=dtype, device=x.device)
    return tensor_clamp(shifted, low, high).to(x.dtype)


def lsq_grad_scale(x: Tensor, scale: Tensor, quant_max: Integer) -> float:
    r"""LSQ's factor for the gradient to a scale.

    .. math:: 1 / \sqrt{N \, \mathit{quant\_max}}

    where :math:`N` is the number of elements of x per element of the scale. It balances the scale's gradient against
    the weights'. Source: LSQ, section 2.2.

    Args:
        x: What is quantized. Only its shape matters.
        scale: Its scale. Only its shape matters.
        quant_max: The largest integer of the grid, more than 0.

    Returns:
        The ``grad_scale`` of :func:`ste.fake_quantize`. In a graph with dynamic shapes it follows the shape. For an
        empty x, which gives the scale no gradient, it is 1.

    Raises:
        TypeError: x or scale is not a Tensor; quant_max is not a number.
        ValueError: scale is empty, or quant_max is not positive.

    Example:
        >>> ste.lsq_grad_scale(torch.zeros(16, 100), torch.ones(16, 1), 4)
        0.05
    """
    # TorchScript has checked the types, and could not compile this.
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        if has_torch_function((x, scale)):
            return handle_torch_function(lsq_grad_scale, (x, scale), x, scale, quant_max)
        check_is_tensor("lsq_grad_scale", "x", x)
        check_is_tensor("lsq_grad_scale", "scale", scale)
        given: Any = quant_max
        if isinstance(given, Tensor):
            quant_max = integer("lsq_grad_scale", "quant_max", given)
        elif not isinstance(given, (int, torch.SymInt)):
            number("lsq_grad_scale", "quant_max", given)
    if quant_max <= 0:
        raise ValueError(f"lsq_grad_scale: quant_max must be positive, got {quant_max}")
    if scale.numel() == 0:
        raise ValueError("lsq_grad_scale: scale may not be empty")
    if x.numel() == 0:
        return 1.0
    largest: int = quant_max  # type: ignore[assignment]
    factor: float = (x.numel() / scale.numel() * largest) ** -0.5
    # A symbol stays a symbol: float() would freeze its current value.
    return float(factor) if torch.jit.is_scripting() else factor  # type: ignore[attr-defined]
