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

    Ties go to the even integer; :math:`z` is added after rounding. x is divided by the scale and not multiplied by its
    reciprocal. So it is in ONNX's QuantizeLinear.

    With :math:`m` 1 where :math:`\mathit{quant\_min} \le \operatorname{round}(x / s) + z \le \mathit{quant\_max}`, and
    0 elsewhere, a gradient :math:`g` becomes

    .. math::
        \nabla_x &= g \, m \\
        \nabla_s &= \mathit{grad\_scale} \sum g \, (q - z - m \, x / s) \\
        \nabla_z &= \mathit{grad\_scale} \sum g \, (m - 1) \, s

    each summed to the parameter's own shape. This mask tests the rounded value, as PyTorch's and Brevitas' do; the
    gradients are those of :func:`ste.round_ste` and :func:`ste.tensor_clamp` in the composition. LSQ tests what it was
    before: with ``inside="scaled"``, :math:`m` is 1 where
    :math:`\mathit{quant\_min} < x / s + z < \mathit{quant\_max}`, and the gradients are LSQ's equations 3 and 5. The
    two differ in the outermost half step, and at 2 bits by a fifth of the gradient to the scale; the values are the
    same. Of the second derivatives, only that by the scale and the zero point is not 0, outside of the range.

    float16 and bfloat16 are computed in float32 and rounded once, at the end; the sums are in float32 or wider. NaN
    stays NaN, and infinities saturate. The scale's value is not checked, which would synchronize with the device: where
    it is negative, the formula holds; where it is 0 or not finite, the result is what the formula gives in IEEE
    arithmetic, which may be NaN. An end of the grid that the dtype does not hold is rounded inwards.

    Args:
        x: Any shape; float64, float32, float16 or bfloat16.
        scale: The step :math:`s`, in x's dtype or float32: x's shape, or any that broadcasts to it (one number, one for
            each channel, or one for each group of a view). A Python number has no gradient.
        zero_point: The integer :math:`z` that stands for 0, in x's dtype, float32 or an integer dtype, and of any shape
            that broadcasts to x's. None is 0. One that is learned need not be whole.
        quant_min: The smallest integer; a number, or what :func:`ste.min_int` returns.
        quant_max: The largest integer; a number, or what :func:`ste.max_int` returns.
        grad_scale: What the gradients to the scale and to the zero point are multiplied by; see
            :func:`ste.lsq_grad_scale`.
        inside: ``"rounded"`` or ``"scaled"``: what the mask tests.
        random: Numbers in [0, 1), of x's shape, in x's dtype or float32; draw them in float32, since those of 16 bits
            are 0 too often. With them, rounding is stochastic: of :math:`v = x / s`, to :math:`\lfloor v \rfloor + 1`
            where they are less than :math:`v - \lfloor v \rfloor`, else to :math:`\lfloor v \rfloor`. They get no
            gradient.
        axis: The dimension of x along which a scale and a zero point of one dimension lie. Without it they broadcast,
            and so lie along the last.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: x, scale, zero_point or random is not a Tensor of a dtype as above; quant_min or quant_max is no
            integer; grad_scale is not a number, or inside not a string.
        RuntimeError: A parameter does not broadcast to x's shape, or is on another device. (Without dimensions, it may
            be on the CPU.) random is of another shape or on another device.
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

    Rounding is to the nearest number that has as many bits in its mantissa as the format, and no exponent below the
    format's (where numbers are subnormal); ties go to the number whose last bit is 0. x is divided by the scale and not
    multiplied by its reciprocal.

    With :math:`m` 1 where :math:`|r| \le \mathit{max}`, and 0 elsewhere, a gradient :math:`g` becomes

    .. math::
        \nabla_x &= g \, m \\
        \nabla_s &= \mathit{grad\_scale} \sum g \, (q - m \, x / s)

    summed to the scale's own shape. Second derivatives are 0.

    float16 and bfloat16 are computed in float32 and rounded once, at the end; the sums are in float32 or wider. NaN
    stays NaN in every format, and a zero keeps its sign. What is beyond max, infinities included, becomes max; with
    ``saturate=False``, infinity if the format has one, else NaN. The scale's value is not checked, as in
    :func:`ste.fake_quantize`.

    Args:
        x: Any shape; float64, float32, float16 or bfloat16.
        scale: The scale :math:`s`, as in :func:`ste.fake_quantize`. None is 1.
        format: ``"e4m3fn"``, ``"e5m2"``, ``"e4m3fnuz"``, ``"e5m2fnuz"``, ``"e3m2fn"``, ``"e2m3fn"`` or ``"e2m1fn"``, as
            ml_dtypes names them, with or without ``float8_`` (or 6 or 4) in front; or a :class:`ste.FloatFormat`.
        grad_scale: What the gradient to the scale is multiplied by.
        saturate: Whether what is beyond max becomes max.
        random: Numbers in [0, 1), as in :func:`ste.fake_quantize`. With them, rounding is stochastic, between the two
            neighbors of :math:`x / s` that have as many bits in the mantissa: to the upper one where they are less than
            the distance from the lower one, in units of that between the two.
        axis: As in :func:`ste.fake_quantize`.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: x, scale or random is not a Tensor of a dtype as above; format is no string and no FloatFormat;
            grad_scale is not a number, or saturate not a bool.
        RuntimeError: The scale does not broadcast to x's shape, or is on another device. (Without dimensions, it may be
            on the CPU.) random is of another shape or on another device.
        ValueError: format names no format; x has no such axis, or the scale does not fit along it.

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
    """A parameter of one dimension, along a dimension of x. A number stays one."""
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
    r"""The integers of :func:`ste.fake_quantize`, as numbers of x's dtype, with gradients.

    .. math::
        q = \operatorname{clamp}(\operatorname{round}(x / s) + z, \mathit{quant\_min}, \mathit{quant\_max})

    The rounding is straight-through, and the clamp has the gradient of :func:`ste.tensor_clamp`: with :math:`m` as in
    :func:`ste.fake_quantize`, the derivatives by :math:`x`, :math:`s` and :math:`z` are :math:`m / s`,
    :math:`-m \, x / s^2` and :math:`m`.

    It is computed in float32 (float64 for x of that dtype) and rounded to x's dtype, which must be able to hold the
    integers: bfloat16 holds those to 256, float16 to 2048.

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

    where :math:`N` is the number of elements of x for each of the scale's. It balances the sizes of the scale's
    gradient and of the weights'. Source: LSQ, section 2.2.

    Args:
        x: What is quantized. Only its shape matters.
        scale: Its scale. Only its shape matters.
        quant_max: The largest integer of the grid, more than 0.

    Returns:
        What to give to :func:`ste.fake_quantize` for ``grad_scale``. In a graph with a dynamic shape it follows the
        shape. Of an empty x, which gives the scale no gradient, 1.

    Raises:
        TypeError: x or scale is not a Tensor; quant_max is not a number.
        ValueError: scale has no element, or quant_max is not positive.

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
    # A symbol stays one: as a number, it would be what the symbol stands for now.
    return float(factor) if torch.jit.is_scripting() else factor  # type: ignore[attr-defined]
